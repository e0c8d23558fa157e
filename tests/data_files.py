"""Files written and read back, or what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgery.errors import DatasetInvalid, Fault
from surgery.files import FileFormat, Row, read_rows


def written(tmp_path: Path, content: bytes | str, name: str = "data") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows_of(path: Path, file_format: FileFormat, **options: object) -> list[tuple[int, Row]]:
    return list(read_rows(path, file_format, **options))  # type: ignore[arg-type]


def fault_of(path: Path, file_format: FileFormat, **options: object) -> Fault:
    with pytest.raises(DatasetInvalid) as caught:
        rows_of(path, file_format, **options)
    assert len(caught.value.faults) == 1
    return caught.value.faults[0]
