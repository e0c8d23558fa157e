"""Files written and read back, or what is wrong with them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from surgery.data.files.read import read_rows
from surgery.data.files.source import FileFormat, Row
from surgery.errors import DatasetInvalid, Fault

T = TypeVar("T")


def written(tmp_path: Path, content: bytes | str, name: str = "data") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows_of(path: Path, file_format: FileFormat, **options: object) -> list[tuple[int, Row]]:
    return list(read_rows(path, file_format, **options))  # type: ignore[arg-type]


def fault_of(path: Path, file_format: FileFormat, **options: object) -> Fault:
    """The one fault of a file."""
    with pytest.raises(DatasetInvalid) as caught:
        rows_of(path, file_format, **options)
    [fault] = caught.value.faults
    return fault


def with_peak(act: Callable[[], T]) -> tuple[T, int]:
    """What it returns, and the most bytes that Python held for it at a time."""
    tracemalloc.start()
    try:
        return act(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
