"""TensorBoard's event files of a job: those of every attempt, in one folder."""

from __future__ import annotations

import time
from collections.abc import Iterator

from app.artifacts.storage import Storage
from app.errors import Conflict
from app.tables import TERMINAL, Job

TRIES = 3  # of reading what a worker replaces at each checkpoint
PAUSE_SECONDS = 0.05  # between them; replacing a small folder takes less


def event_files_key(job_id: str, epoch: int) -> str:
    """Where one attempt's files are stored. A lease's epoch is one attempt's alone."""
    return f"logs/{job_id}/{epoch}"


def event_files(storage: Storage, job: Job) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file, oldest attempt first. Raises Conflict.

    Read whole, some 60 bytes a number, for a running job's are replaced by longer ones.
    """
    for epoch in range(1, job.lease_epoch + 1):
        running = epoch == job.lease_epoch and job.status not in TERMINAL
        yield from _of_attempt(storage, event_files_key(job.id, epoch), running=running)


def _of_attempt(storage: Storage, key: str, *, running: bool) -> list[tuple[str, bytes]]:
    """Of a running attempt the folder may be away for a moment, or go while it is read."""
    lost = False
    for tried in range(TRIES):
        time.sleep(PAUSE_SECONDS if tried else 0)
        try:
            names = storage.names(key)
            found = [(name, b"".join(storage.chunks(f"{key}/{name}"))) for name in names]
        except FileNotFoundError:
            lost = True
            continue
        if found or not running:
            return found
    if lost:
        raise Conflict("the worker is replacing the log just now; ask again")
    return []
