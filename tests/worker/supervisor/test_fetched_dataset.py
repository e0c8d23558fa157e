"""A dataset fetched from an object store stays on the disk for as long as its job runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest

from app.artifacts.storage import open_storage
from app.db import Database
from app.db.tables import Job, JobKind, new_id
from app.jobs import state_machine
from app.jobs.state_machine import enqueue
from app.settings import Settings
from surgery.io.folders import complete_folder
from surgery.schemas.resolved import PeakMemory
from tests.support.service.laid_ready import with_child
from tests.support.service.queued_jobs import RESOLVED
from worker.protocol import Finished, RankingOrder
from worker.supervisor.attempt.attempt import Attempt, Outcome
from worker.supervisor.attempt.context import WorkerContext
from worker.supervisor.environments import WorkerFolders
from worker.supervisor.upkeep.sweeper import Sweeper


class Sweeping:
    """A child that looks for its dataset while the caches are swept."""

    def __init__(self, sweeper: Sweeper) -> None:
        self.jobs, self._sweeper, self._folder = 0, sweeper, Path()

    def begin_job(self, _: object) -> None:
        self.jobs += 1

    def peak_memory(self) -> PeakMemory:
        return PeakMemory()

    def send(self, order: RankingOrder) -> None:
        self._folder = order.inputs.dataset.folder

    def receive(self, seconds: float) -> Finished:
        assert seconds > 0
        self._sweeper.collect_garbage()
        assert (self._folder / "report.json").read_text() == "{}"
        return Finished(result={}, resolved={})


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    url = "memory://job-artifacts"
    yield Settings(data_dir=tmp_path / "data", artifacts_url=url, artifact_cache_bytes=0)
    fsspec.filesystem("memory").rm("/job-artifacts", recursive=True)


def test_it_goes_when_the_job_has_ended(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    storage = open_storage(settings)
    with complete_folder(tmp_path / "ds") as building:
        (building / "report.json").write_text("{}")
    storage.put_folder(tmp_path / "ds", "datasets/ds_1")
    job = Job(
        id=new_id("rk"), kind=JobKind.RANKING, spec={}, labels={}, model="m", dataset="ds_1",
        digest="x", max_attempts=1, resolved=RESOLVED | {"dataset": {**RESOLVED["dataset"], "path": "datasets/ds_1"}},
    )  # fmt: skip
    with database.write() as session:
        enqueue(session, job)
    claimed = state_machine.claim(database, "worker", [JobKind.RANKING], timedelta(seconds=60))
    assert claimed is not None
    folders = WorkerFolders.new(tmp_path)
    sweeper = Sweeper(settings, database, storage, folders, None)
    child: Any = Sweeping(sweeper)
    attempt = Attempt(
        WorkerContext(settings, database, storage), *claimed, with_child(child), folders,
        threading.Event(), time.monotonic(),
    )  # fmt: skip
    assert attempt.run() == Outcome.SUCCEEDED
    sweeper.collect_garbage()
    assert list((settings.sources.cache / "artifacts").iterdir()) == []
