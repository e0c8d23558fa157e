"""Folders are whole or not there, and the longest unused make way for others."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from surgery.io.folders import (
    ABANDONED_SECONDS,
    bytes_on_disk,
    first_wins,
    make_room,
    remove_older,
    whole_folder,
)


def made(root: Path, name: str, age: float = 0.0) -> Path:
    """A folder with a file of some blocks, last used so many seconds ago."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "data").write_bytes(b"x" * 20_000)
    os.utime(folder, (time.time() - age,) * 2)
    return folder


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with whole_folder(tmp_path / "a") as building:
            (building / "data").write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert names(tmp_path) == []


def test_of_two_the_first_to_finish_stays(tmp_path: Path) -> None:
    target = tmp_path / "a"
    with first_wins(target), whole_folder(target) as second:
        (second / "data").write_text("second")
        with whole_folder(target) as first:
            (first / "data").write_text("first")
    assert (target / "data").read_text() == "first"
    assert names(tmp_path) == ["a"]
    with pytest.raises(OSError, match="disk"), first_wins(tmp_path / "b"):
        raise OSError("the disk is full")


def test_the_longest_unused_make_way_but_for_what_is_to_stay(tmp_path: Path) -> None:
    for age, name in enumerate("dcba"):
        made(tmp_path, name, age + 1.0)
    size = bytes_on_disk(tmp_path / "a")
    assert make_room(tmp_path, size, 4 * size, keep={"a"}) == size
    assert names(tmp_path) == ["a", "c", "d"]
    assert make_room(tmp_path, 4 * size, 4 * size, keep={"a"}) == 3 * size
    assert names(tmp_path) == ["a", "c", "d"], "nothing goes where that is not enough"
    assert make_room(tmp_path, size, 4 * size, remove=lambda _: False) == size
    assert make_room(tmp_path, 2 * size, 4 * size, remove=lambda _: False) == size


def test_what_a_crash_left_goes_in_any_case(tmp_path: Path) -> None:
    made(tmp_path, ".building-old", ABANDONED_SECONDS + 60)
    made(tmp_path, ".building-new", ABANDONED_SECONDS - 60)
    make_room(tmp_path)
    assert names(tmp_path) == [".building-new"]


def test_what_was_not_used_for_long_goes(tmp_path: Path) -> None:
    made(tmp_path, "old", 100)
    made(tmp_path, "new", 10)
    remove_older(tmp_path, 50)
    remove_older(tmp_path / "none", 50)
    assert names(tmp_path) == ["new"]
