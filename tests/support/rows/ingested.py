"""Rows written to files, ingested, and read back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from surgery.data.ingest.ingest import ingest
from surgery.errors import DatasetInvalid, Fault
from surgery.schemas.data.dataset import DatasetReport

Rows = list[dict[str, Any]]


def lines(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def ingested(
    tmp_path: Path, train: Rows | str, validation: Rows | None = None, **options: Any
) -> DatasetReport:
    kind = "csv" if isinstance(train, str) else "jsonl"
    first, second = tmp_path / "t", tmp_path / "v"
    first.write_text(train if isinstance(train, str) else lines(train))
    if validation is not None:
        second.write_text(lines(validation))
    out = tmp_path / options.pop("out", "out")
    return ingest(
        first, None if validation is None else second, out,
        train_format=kind, validation_format="jsonl", **options,
    )  # fmt: skip


def refused(
    tmp_path: Path, train: Rows | str, validation: Rows | None = None, **options: Any
) -> Fault:
    with pytest.raises(DatasetInvalid) as caught:
        ingested(tmp_path, train, validation, **options)
    assert not (tmp_path / "out").exists()
    [fault] = caught.value.faults
    return fault


def stored(folder: Path, split: str = "train") -> Rows:
    with pa.memory_map(str(folder / f"{split}.arrow")) as file:
        rows: Rows = pa.ipc.open_stream(file).read_all().to_pylist()
    return rows
