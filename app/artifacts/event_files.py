"""The TensorBoard event files that all attempts at a job have written."""

from __future__ import annotations

import time
from collections.abc import Iterator

from app.artifacts.storage import Storage
from app.db.tables import TERMINAL, Job
from app.errors import Conflict

TRIES = 3  # a worker replaces the folder at each checkpoint, perhaps while it is read
PAUSE_SECONDS = 0.05  # replacing a small folder takes less


def event_files_key(job_id: str, epoch: int) -> str:
    """Where the files of one attempt are stored; each attempt has another lease epoch."""
    return f"logs/{job_id}/{epoch}"


def event_files(storage: Storage, job: Job) -> Iterator[tuple[str, bytes]]:
    """The name and content of each file, oldest attempt first. Raises Conflict.

    Each file is read at once, about 60 bytes for each number, because a running job replaces its
    files by longer ones.
    """
    for epoch in range(1, job.lease_epoch + 1):
        running = epoch == job.lease_epoch and job.status not in TERMINAL
        yield from _of_attempt(storage, event_files_key(job.id, epoch), running=running)


def _of_attempt(storage: Storage, key: str, *, running: bool) -> list[tuple[str, bytes]]:
    """The files of one attempt. While it runs, its folder may be missing for a moment."""
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
        raise Conflict("the worker is replacing the log at this moment; ask again")
    return []
