"""What the sweeper removes from a machine's disk."""

from __future__ import annotations

import os
import time
from pathlib import Path

from app.db import Database
from app.settings import Settings
from app.storage import open_storage
from worker.environments import WorkerFolders
from worker.sweeper import Sweeper

DAY = 24 * 3600


def test_prefixes_nobody_read_for_a_week_go(database: Database, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    for name, days in {"used": 6, "unused": 8, ".building-left-by-a-crash": 8}.items():
        folder = settings.sources.prefixes / name
        folder.mkdir(parents=True)
        (folder / "states.npy").write_bytes(b"")
        os.utime(folder, (time.time() - days * DAY,) * 2)
    storage = open_storage(settings)
    Sweeper(settings, database, storage, WorkerFolders.new(tmp_path), None).collect_garbage()
    assert [path.name for path in settings.sources.prefixes.iterdir()] == ["used"]


def test_tokens_nobody_read_for_a_month_go(database: Database, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    tokens = settings.sources.tokens
    for name, days in {"used": 29, "unused": 31, ".building-left-by-a-crash": 31}.items():
        folder = tokens / name
        folder.mkdir(parents=True)
        (folder / "ids.npy").write_bytes(b"")
        os.utime(folder, (time.time() - days * DAY,) * 2)
    storage = open_storage(settings)
    sweeper = Sweeper(settings, database, storage, WorkerFolders.new(tmp_path), None)
    for _ in range(2):  # the second finds nothing more to do
        sweeper.collect_garbage()
        assert [path.name for path in tokens.iterdir()] == ["used"]


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
