"""Checkpoints that a job needs, as folders on this disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from app.db import Database
from app.db.tables import Job
from app.jobs.outputs import records
from surgery.io.reporter import CheckpointSummary
from worker.protocol import SavedCheckpoint

Fetch = Callable[[str], Path | None]  # a stored folder on this disk; None if it is damaged


def continued_folder(database: Database, fetch: Fetch, job: Job) -> Path | None:
    """The checkpoint that the job starts from, if any. Raises OSError if its files are damaged."""
    checkpoint_id = job.spec.get("continue_from")
    return None if checkpoint_id is None else checkpoint_folder(database, fetch, checkpoint_id)


def checkpoint_folder(database: Database, fetch: Fetch, checkpoint_id: str) -> Path:
    """A checkpoint on this disk. Raises OSError if its files are damaged."""
    path = records.checkpoint_path(database, checkpoint_id)
    folder = fetch(path) if path else None
    if folder is None:
        raise OSError(f"the stored files of checkpoint {checkpoint_id} are damaged")
    return folder


def best_so_far(database: Database, fetch: Fetch, job: Job) -> SavedCheckpoint | None:
    """The best checkpoint of earlier attempts, which the run exports if it finds no better one."""
    rows = records.checkpoints_of(database, job.id)
    best = next((row for row in rows if row.is_best), None)
    folder = fetch(best.path) if best else None
    if best is None or folder is None:
        return None
    summary = CheckpointSummary(best.epoch, best.step, best.form, best.metrics, best.is_best)
    return SavedCheckpoint(path=folder, summary=summary)
