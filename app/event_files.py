"""TensorBoard's event files of a job: those of every attempt, in one folder."""

from __future__ import annotations

from collections.abc import Iterator

from app.errors import Conflict
from app.storage import Storage
from app.tables import Job

TRIES = 3  # of reading what a worker replaces at each checkpoint


def event_files_key(job_id: str, epoch: int) -> str:
    """Where one attempt's files are stored. A lease's epoch is one attempt's alone."""
    return f"logs/{job_id}/{epoch}"


def event_files(storage: Storage, job: Job) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file, oldest attempt first. Raises Conflict.

    Read whole, some 60 bytes a number, for a running job's are replaced by longer ones.
    """
    for epoch in range(1, job.lease_epoch + 1):
        yield from _of_attempt(storage, event_files_key(job.id, epoch))


def _of_attempt(storage: Storage, key: str) -> list[tuple[str, bytes]]:
    for _ in range(TRIES):
        try:
            return [
                (name, b"".join(storage.chunks(f"{key}/{name}"))) for name in storage.names(key)
            ]
        except FileNotFoundError:
            continue  # replaced while they were read
    raise Conflict("the worker is replacing the log just now; ask again")
