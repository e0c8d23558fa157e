"""Folders of earlier checkpoints that an attempt is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from app import runs
from app.db import Database
from app.storage import Storage
from app.tables import Job

Json = dict[str, Any]


def continued_folder(database: Database, storage: Storage, job: Job, cache: Path) -> str | None:
    """The checkpoint the job begins with, held from its submission on. Raises OSError."""
    wanted = job.spec.get("continue_from")
    if wanted is None:
        return None
    path = runs.checkpoint_path(database, wanted)
    folder = storage.fetch_folder(path, cache) if path else None
    if folder is None:
        raise OSError(f"the stored files of checkpoint {wanted} are damaged")
    return str(folder)


def best_so_far(database: Database, storage: Storage, job: Job, cache: Path) -> Json | None:
    """The best checkpoint of an interrupted attempt, for the export that follows the run."""
    rows = runs.checkpoints_of(database, job.id)
    best = next((row for row in rows if row.is_best), None)
    folder = storage.fetch_folder(best.path, cache) if best else None
    if best is None or folder is None:
        return None
    names = ("epoch", "step", "form", "metrics", "is_best")
    return {"path": str(folder), "record": {name: getattr(best, name) for name in names}}
