"""An attempt that overruns a limit ends for good: another one would meet the limit again."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.artifacts.storage import open_storage
from app.db import Database
from app.db.tables import Job, JobKind, Status, new_id
from app.jobs import state_machine
from app.jobs.state_machine import enqueue
from app.settings import Settings
from surgery.schemas.resolved import PeakMemory
from tests.support.service.laid_ready import with_child
from tests.support.service.queued_jobs import RESOLVED
from worker.protocol import Message, PhaseBegun
from worker.supervisor.attempt.attempt import Attempt, Outcome
from worker.supervisor.attempt.context import WorkerContext
from worker.supervisor.child_process import ProcessEnded, Received
from worker.supervisor.environments import WorkerFolders


class Loading:
    """A child that loads and loads, or that the kernel ended for the time it used."""

    def __init__(self, *, overran: bool) -> None:
        self.overran = overran
        self._said: list[Received] = [PhaseBegun(name="load")]
        if overran:
            self._said.append(ProcessEnded())

    def begin_job(self, _: object) -> None:
        """One more."""

    def peak_memory(self) -> PeakMemory:
        return PeakMemory()

    def send(self, order: Message) -> None:
        """Heard."""

    def receive(self, seconds: float) -> Received | None:
        if self._said:
            return self._said.pop(0)
        time.sleep(min(seconds, 0.02))
        return None

    def how_it_ended(self) -> str:
        return "the job used more processor time"

    def last_lines(self) -> list[str]:
        return ["12:00:00 load"]


@pytest.mark.parametrize(
    ("overran", "words"), [(False, "SURGEON_LOAD"), (True, "processor time")], ids=["load", "cpu"]
)
def test_a_limit_ends_the_job_with_its_log(
    database: Database, tmp_path: Path, overran: bool, words: str
) -> None:
    settings = Settings(data_dir=tmp_path / "data", load=timedelta(seconds=0.1))
    job = Job(
        id=new_id("rk"), kind=JobKind.RANKING, model="m", dataset="d", digest="x", max_attempts=3,
        spec={}, resolved=RESOLVED, labels={},
    )  # fmt: skip
    with database.write() as session:
        enqueue(session, job)
    claimed = state_machine.claim(database, "worker", [JobKind.RANKING], timedelta(seconds=60))
    assert claimed is not None
    context = WorkerContext(settings, database, open_storage(settings))
    child: Any = Loading(overran=overran)
    attempt = Attempt(
        context, *claimed, with_child(child), WorkerFolders.new(tmp_path), threading.Event(),
        time.monotonic(),
    )  # fmt: skip
    assert attempt.run() == Outcome.KILLED
    with database.read() as session:
        over = session.get(Job, job.id)
        assert over is not None
        assert over.error is not None
        assert (over.status, over.error["code"]) == (Status.FAILED, "deadline_exceeded")
        assert words in over.error["detail"]
        assert over.error["log"] == ["12:00:00 load"]
