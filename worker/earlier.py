"""Folders of earlier checkpoints that an attempt is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from app import runs
from app.db import Database
from app.tables import Job

Json = dict[str, Any]
Fetch = Callable[[str], str | None]  # a stored folder on this disk, None where it is not whole


def continued_folder(database: Database, fetch: Fetch, job: Job) -> str | None:
    """The checkpoint the job begins with, held from its submission on. Raises OSError."""
    wanted = job.spec.get("continue_from")
    if wanted is None:
        return None
    path = runs.checkpoint_path(database, wanted)
    folder = fetch(path) if path else None
    if folder is None:
        raise OSError(f"the stored files of checkpoint {wanted} are damaged")
    return folder


def best_so_far(database: Database, fetch: Fetch, job: Job) -> Json | None:
    """The best checkpoint of an interrupted attempt, for the export that follows the run."""
    rows = runs.checkpoints_of(database, job.id)
    best = next((row for row in rows if row.is_best), None)
    folder = fetch(best.path) if best else None
    if best is None or folder is None:
        return None
    names = ("epoch", "step", "form", "metrics", "is_best")
    return {"path": folder, "record": {name: getattr(best, name) for name in names}}
