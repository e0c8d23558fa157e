"""Attempts at a job whose child says what a test has told it to say."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.artifacts.storage import Storage, open_storage
from app.db import Database
from app.db.tables import Job, JobKind, new_id
from app.jobs import state_machine
from app.jobs.state_machine import Lease, enqueue
from app.settings import Settings
from surgery.schemas.resolved import PeakMemory
from tests.support.service.laid_ready import with_child
from tests.support.service.queued_jobs import RESOLVED
from worker.protocol import Message, Report
from worker.supervisor.attempt.attempt import Attempt, Outcome
from worker.supervisor.attempt.context import WorkerContext
from worker.supervisor.supervisor import Supervisor

SPEC = {"selection": {"policy": "all"}, "training": {}, "checkpoints": {"keep": "best"}}


class Told:
    """A child that says what it was given to say, and then nothing more."""

    def __init__(self, messages: Sequence[Report]) -> None:
        self.jobs = 0
        self.killed = threading.Event()
        self.orders: list[Message] = []
        self._messages: queue.SimpleQueue[Report] = queue.SimpleQueue()
        for message in messages:
            self.say(message)

    def say(self, message: Report) -> None:
        """Say this after everything before it."""
        self._messages.put(message)

    def begin_job(self, _: object) -> None:
        self.jobs += 1

    def peak_memory(self) -> PeakMemory:
        return PeakMemory()

    def send(self, order: Message) -> None:
        self.orders.append(order)

    def last_lines(self) -> list[str]:
        return []

    def kill(self) -> None:
        self.killed.set()

    def kill_group(self) -> None:
        self.killed.set()

    def receive(self, seconds: float) -> Report | None:
        try:
            return self._messages.get(timeout=seconds)
        except queue.Empty:
            return None


@dataclass
class ToldAttempt:
    """An attempt, its child, and the supervisor that ends it whatever goes wrong."""

    attempt: Attempt
    child: Told
    lease: Lease
    draining: threading.Event
    supervisor: Supervisor = field(repr=False)

    def run(self) -> Outcome:
        """Run it to its end, as a supervisor does. Raises Fenced."""
        with self.attempt.guarded():
            return self.supervisor._run(self.attempt)


def begin(
    database: Database,
    folder: Path,
    messages: Sequence[Report],
    *,
    settings: Settings | None = None,
    storage: Storage | None = None,
    claim_took: float = 0.0,
    **values: Any,
) -> ToldAttempt:
    """Queue a fine-tune with these ``values``, claim it, and begin an attempt at it.

    ``claim_took`` says how many seconds ago the claim is supposed to have been sent.
    """
    settings = settings or Settings(data_dir=folder / "data")
    fields = {"model": "m", "dataset": "d", "digest": "x", "labels": {}, "max_attempts": 3,
              "spec": SPEC, "resolved": RESOLVED, **values}  # fmt: skip
    with database.write() as session:
        enqueue(session, Job(id=new_id("ft"), kind=JobKind.FINETUNE, **fields))
    storage = storage or open_storage(settings)
    return begin_claimed(database, settings, storage, messages, claim_took=claim_took)


def begin_claimed(
    database: Database,
    settings: Settings,
    storage: Storage,
    messages: Sequence[Report] = (),
    *,
    claim_took: float = 0.0,
) -> ToldAttempt:
    """Claim the next fine-tune, and begin an attempt at it."""
    sent = time.monotonic() - claim_took
    claimed = state_machine.claim(database, "worker", [JobKind.FINETUNE], settings.lease)
    assert claimed is not None
    lease, job = claimed
    context = WorkerContext(settings, database, storage)
    supervisor = Supervisor(context, [JobKind.FINETUNE])
    child: Any = Told(messages)
    attempt = Attempt(
        context, lease, job, with_child(child), supervisor.folders, supervisor.stopping, sent
    )
    return ToldAttempt(attempt, child, lease, supervisor.stopping, supervisor)
