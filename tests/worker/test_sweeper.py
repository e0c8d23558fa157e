"""What the sweeper removes from a machine's disk."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.artifacts.storage import open_storage
from app.db import Database
from app.settings import Settings
from surgery.models.source.copy import copies_in
from worker.supervisor.environments import WorkerFolders
from worker.supervisor.sweeper import Sweeper

DAY = 24 * 3600


def models(settings: Settings) -> Path:
    return copies_in(settings.sources)


def tokens(settings: Settings) -> Path:
    return settings.sources.tokens


def prefixes(settings: Settings) -> Path:
    return settings.sources.prefixes


@pytest.mark.parametrize(("cache", "days"), [(models, 30), (tokens, 30), (prefixes, 7)])
def test_what_nobody_read_for_so_long_goes(
    database: Database, tmp_path: Path, cache: Callable[[Settings], Path], days: int
) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    kept = {"used": days - 1, "unused": days + 1, ".building-left-by-a-crash": days + 1}
    for name, age in kept.items():
        folder = cache(settings) / name
        folder.mkdir(parents=True)
        (folder / "states.npy").write_bytes(b"")
        os.utime(folder, (time.time() - age * DAY,) * 2)
    storage = open_storage(settings)
    sweeper = Sweeper(settings, database, storage, WorkerFolders.new(tmp_path), None)
    for _ in range(2):  # the second finds nothing more to do
        sweeper.collect_garbage()
        assert [path.name for path in cache(settings).iterdir()] == ["used"]


def test_folders_of_a_dead_worker_go_and_a_living_one_s_stay(
    database: Database, tmp_path: Path
) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    dead, idle = WorkerFolders.new(tmp_path), WorkerFolders.new(tmp_path)
    for folder in (dead.scratch, dead.inputs, idle.scratch, idle.inputs):
        os.utime(folder, (time.time() - 2 * DAY,) * 2)
    Sweeper(settings, database, open_storage(settings), idle, None).collect_garbage()
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == [idle.scratch.name]
    assert [path.name for path in (tmp_path / "inputs").iterdir()] == [idle.inputs.name]
    assert idle.home.is_dir()
