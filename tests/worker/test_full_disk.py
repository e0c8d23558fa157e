"""A disk that fills up while a checkpoint is written: the one before stays whole."""

from __future__ import annotations

import errno
import os
import queue
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.artifacts.attempt_logs import log_key
from app.artifacts.fetched import FetchedFolders
from app.artifacts.storage import Storage, open_storage
from app.db import Database
from app.jobs import records, state_machine
from app.jobs.state_machine import enqueue
from app.settings import Settings
from app.tables import Job, JobKind, Status, new_id
from surgery.io.folders import complete_folder, is_intact
from surgery.io.reporter import CheckpointSummary
from surgery.schemas.resolved import PeakMemory
from tests.support.service.laid_ready import with_child
from tests.support.service.queued_jobs import RESOLVED
from worker.protocol import CheckpointSaved, Message, Report, StateSaved
from worker.supervisor.attempt import Attempt, WorkerContext
from worker.supervisor.environments import WorkerFolders

SPEC = {"selection": {"policy": "all"}, "training": {}, "checkpoints": {"keep": "best"}}


class FullAfterOne(Storage):
    """Takes one folder, then has no room for another."""

    taken = 0

    def put_folder(self, folder: Path, key: str) -> None:
        if self.taken:
            half = Path(self._path(key))
            half.mkdir(parents=True)
            (half / "delta.safetensors").write_bytes(b"cut off")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.taken += 1
        super().put_folder(folder, key)


class Told:
    """A child that says what it was given to say."""

    def __init__(self, messages: list[Report]) -> None:
        self.jobs = 0
        self._messages: queue.SimpleQueue[Report] = queue.SimpleQueue()
        for message in messages:
            self._messages.put(message)

    def begin_job(self, _: object) -> None:
        self.jobs += 1

    def peak_memory(self) -> PeakMemory:
        return PeakMemory()

    def send(self, order: Message) -> None:
        """Heard."""

    def receive(self, seconds: float) -> Report | None:
        return self._messages.get(timeout=seconds)


def saved(folder: Path, step: int) -> CheckpointSaved:
    with complete_folder(folder / f"checkpoint-{step}") as building:
        (building / "delta.safetensors").write_bytes(b"x" * 100)
    summary = CheckpointSummary(step, step, "delta", metrics={}, is_best=True)
    return CheckpointSaved(path=folder / f"checkpoint-{step}", summary=summary)


def test_the_job_fails_and_the_checkpoint_before_is_whole(
    database: Database, tmp_path: Path
) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    storage = FullAfterOne(str(tmp_path / "artifacts"), FetchedFolders(tmp_path / "fetched"))
    job = Job(
        id=new_id("ft"), kind=JobKind.FINETUNE, spec=SPEC, labels={},
        model="m", dataset="d", digest="x", max_attempts=3, resolved=RESOLVED,
    )  # fmt: skip
    with database.write() as session:
        enqueue(session, job)
    claimed = state_machine.claim(database, "worker", [JobKind.FINETUNE], timedelta(seconds=60))
    assert claimed is not None
    lease, row = claimed
    folders = WorkerFolders.new(tmp_path)
    scratch = folders.scratch / f"{job.id}-{lease.epoch}"
    child: Any = Told([saved(scratch, 1), saved(scratch, 2)])
    context = WorkerContext(settings, database, storage)
    attempt = Attempt(
        context, lease, row, with_child(child), folders, threading.Event(), time.monotonic(),
    )  # fmt: skip
    with pytest.raises(OSError, match="No space left") as full:
        attempt.run()
    attempt.storage_failed(full.value)
    with database.read() as session:
        over = session.get(Job, job.id)
        assert over is not None
        assert over.error is not None
        assert (over.status, over.error["code"]) == (Status.FAILED, "storage_failed")
        assert over.error["retriable"]
    [kept] = records.checkpoints_of(database, job.id)
    assert kept.step == 1
    assert is_intact(Path(storage._path(kept.path)))
    assert records.referenced_paths(database) == {kept.path, log_key(job.id, lease.epoch)}


def test_a_folder_that_could_not_be_finished_is_not_there(tmp_path: Path) -> None:
    saved(tmp_path, 1)

    def fill() -> None:
        with complete_folder(tmp_path / "checkpoint-2") as building:
            (building / "config.json").write_text("{}")
            # What is written through it meets a full device.
            (building / "delta.safetensors").symlink_to("/dev/full")
            (building / "delta.safetensors").write_bytes(b"x" * 100)

    with pytest.raises(OSError, match="No space left"):
        fill()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert is_intact(tmp_path / "checkpoint-1")


def hand_over(database: Database, tmp_path: Path, make: Callable[[Path], Path]) -> OSError:
    """What an attempt says to a folder that its child claims to be a checkpoint."""
    settings = Settings(data_dir=tmp_path / "data")
    storage = open_storage(settings)
    job = Job(
        id=new_id("ft"), kind=JobKind.FINETUNE, model="m", dataset="d", digest="x", max_attempts=3,
        labels={}, spec=SPEC, resolved=RESOLVED,
    )  # fmt: skip
    with database.write() as session:
        enqueue(session, job)
    claimed = state_machine.claim(database, "worker", [JobKind.FINETUNE], timedelta(seconds=60))
    assert claimed is not None
    lease, row = claimed
    folders = WorkerFolders.new(tmp_path)
    scratch = folders.scratch / f"{job.id}-{lease.epoch}"
    scratch.mkdir()
    child: Any = Told([StateSaved(path=make(scratch), step=1)])
    context = WorkerContext(settings, database, storage)
    attempt = Attempt(
        context, lease, row, with_child(child), folders, threading.Event(), time.monotonic()
    )
    with pytest.raises(OSError) as refused:  # noqa: PT011  # its words are the test's to look at
        attempt.run()
    return refused.value


def test_a_child_hands_over_no_folder_but_its_own(database: Database, tmp_path: Path) -> None:
    def elsewhere(_scratch: Path) -> Path:
        other = tmp_path / "data" / "artifacts" / "jobs" / "ft_other"
        other.mkdir(parents=True)
        return other

    assert "not its own" in str(hand_over(database, tmp_path, elsewhere))
    assert (tmp_path / "data" / "artifacts" / "jobs" / "ft_other").is_dir()


def test_a_child_hands_over_plain_files_alone(database: Database, tmp_path: Path) -> None:
    def linked(scratch: Path) -> Path:
        folder = scratch / "state-1"
        folder.mkdir()
        (folder / "config.json").symlink_to("/etc/passwd")
        return folder

    assert "not a regular file" in str(hand_over(database, tmp_path, linked))
