"""What a machine's disk keeps beside the artifacts, and what it does not."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.artifacts import machine
from app.artifacts.machine import remove_unused, request_folder, requests_in
from app.main import create_app
from app.settings import Settings
from surgery.models.source.copy import copies_in
from tests.support.service.services import wait_until

DAY = 24 * 3600
PLACES: dict[str, Callable[[Settings], Path]] = {
    "models": lambda settings: copies_in(settings.sources),
    "datasets": lambda settings: settings.sources.datasets,
    "tokens": lambda settings: settings.sources.tokens,
    "prefixes": lambda settings: settings.sources.prefixes,
    "downloads": lambda settings: settings.sources.downloads,
    "requests": requests_in,
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data")


def made(folder: Path, days: float, size: int = 0) -> Path:
    """A folder that was used so many days ago."""
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(b"x" * size)
    os.utime(folder, (time.time() - days * DAY,) * 2)
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("place", "days"),
    [("models", 30), ("datasets", 30), ("tokens", 30), ("prefixes", 7), ("downloads", 7),
     ("requests", 1)],
)  # fmt: skip
def test_what_nobody_used_for_so_long_goes(settings: Settings, place: str, days: int) -> None:
    folder = PLACES[place](settings)
    made(folder / "models--used", days - 0.5)
    made(folder / "models--unused", days + 0.5)
    for _ in range(2):  # the second finds nothing more to do
        remove_unused(settings)
        assert names(folder) == {"models--used"}


@pytest.mark.parametrize("place", ["models", "datasets", "tokens", "prefixes", "requests"])
def test_what_a_crash_left_half_built_goes_after_a_day(settings: Settings, place: str) -> None:
    folder = PLACES[place](settings)
    for kind in (".building-", ".download-", ".removing-"):
        made(folder / f"{kind}old", 1.1)
        made(folder / f"{kind}new", 0.9)
    remove_unused(settings)
    assert names(folder) == {".building-new", ".download-new", ".removing-new"}


def test_the_locks_of_downloads_stay(settings: Settings) -> None:
    made(settings.sources.downloads / ".locks", 90)
    remove_unused(settings)
    assert names(settings.sources.downloads) == {".locks"}


@pytest.mark.parametrize("place", ["models", "datasets", "tokens"])
def test_a_cache_that_takes_too_much_of_the_disk_loses_what_no_attempt_can_need(
    settings: Settings, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("surgery.io.folders.DISK_SHARE", 0.0)
    folder = PLACES[place](settings)
    for name, days in (("idle", 1.1), ("in use", 0.9)):
        made(folder / name, days, 10_000)
    remove_unused(settings)
    assert names(folder) == {"in use"}


def test_a_request_leaves_nothing(settings: Settings) -> None:
    with request_folder(settings, "upload") as folder:
        (folder / "train.csv").write_text("text,label\n")
        assert names(requests_in(settings)) == {folder.name}
    assert names(requests_in(settings)) == set()


def test_an_api_removes_what_one_before_it_has_left(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its start, and from time to time."""
    monkeypatch.setattr(machine, "EVERY_SECONDS", 0.01)
    folder = requests_in(settings)
    made(folder / "upload-first", 1.1)
    with TestClient(create_app(settings)):
        wait_until(lambda: not names(folder), 30)
        made(folder / "upload-second", 1.1)
        wait_until(lambda: not names(folder), 30)
