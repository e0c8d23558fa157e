"""What an attempt and its helpers work with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from app.artifacts.storage import Storage
from app.db import Database
from app.db.tables import Job
from app.jobs.state_machine import Lease
from app.settings import Settings
from worker.supervisor.attempt.writes import LeaseWrites
from worker.supervisor.gpus import Gpu


@dataclass(frozen=True)
class WorkerContext:
    """The settings, database, storage and devices that a worker uses."""

    settings: Settings
    database: Database
    storage: Storage
    gpus: Sequence[Gpu] = ()

    @property
    def device(self) -> str:
        """The name of the device that its jobs run on; a worker's GPUs are of one kind."""
        return self.gpus[0].name if self.gpus else "cpu"


@dataclass(frozen=True)
class LeasedJob:
    """A job under a lease, and what is done for it: folders, writes, and its log."""

    job: Job
    lease: Lease
    scratch: Path  # what the job's process writes
    inputs: Path  # links to stored folders that it may read
    fetched: ExitStack  # gives the linked folders back when the attempt ends
    writes: LeaseWrites
    say: Callable[..., None]  # a line for the job's log and the worker's own, and its level
