"""A disk that fills up while a checkpoint is written: the one before stays whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from app.artifacts.attempt_logs import log_key
from app.artifacts.fetched import FetchedFolders
from app.artifacts.storage import Storage
from app.db import Database
from app.db.tables import Job, Status
from app.jobs.outputs import records
from app.settings import Settings
from surgery.io.folders import complete_folder, is_intact
from surgery.io.reporter import CheckpointSummary
from tests.support.faults.told_attempts import begin
from worker.protocol import CheckpointSaved, StateSaved
from worker.supervisor.attempt.attempt import Outcome


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
    told = begin(database, tmp_path, [], settings=settings, storage=storage)
    scratch, job_id, epoch = told.attempt.scratch, told.lease.job_id, told.lease.epoch
    for step in (1, 2):
        told.child.say(saved(scratch, step))
    assert told.run() is Outcome.KILLED
    with database.read() as session:
        over = session.get(Job, job_id)
        assert over is not None
        assert over.error is not None
        assert (over.status, over.error["code"]) == (Status.FAILED, "storage_failed")
        assert over.error["retriable"]
    [kept] = records.checkpoints_of(database, job_id)
    assert kept.step == 1
    assert is_intact(Path(storage._path(kept.path)))
    assert records.referenced_paths(database) == {kept.path, log_key(job_id, epoch)}


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
    told = begin(database, tmp_path, [], settings=settings)
    told.attempt.scratch.mkdir()
    told.child.say(StateSaved(path=make(told.attempt.scratch), step=1))
    with pytest.raises(OSError) as refused:  # noqa: PT011  # its words are the test's to look at
        told.attempt.run()
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
