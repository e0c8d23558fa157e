"""Hostile files: caps that hold before anything is held, and bytes of any kind."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.data.files import parquet_probe
from surgery.data.files.read import read_rows
from surgery.data.files.source import FileFormat, Limits
from surgery.errors import DatasetInvalid
from tests.support.rows.files import fault_of, with_peak, written


def test_the_caps(tmp_path: Path) -> None:
    path = written(tmp_path, "a,b\n1,2\n3,4\n5,éé\n")
    assert "2 rows" in fault_of(path, "csv", limits=Limits(max_rows=2)).detail
    assert "at most 1" in fault_of(path, "csv", limits=Limits(max_columns=1)).detail
    cell = fault_of(path, "csv", limits=Limits(max_cell_bytes=3))
    assert (cell.row, cell.column) == (3, "b")
    gap = written(tmp_path, "a,b\n1,2\n" + "\n" * 3 + "3,4\n")
    assert "2 empty lines" in fault_of(gap, "csv", limits=Limits(max_empty_lines=2)).detail
    gap = written(tmp_path, '{"a": 1}\n\n \n\n{"a": 2}\n')
    assert "2 empty lines" in fault_of(gap, "jsonl", limits=Limits(max_empty_lines=2)).detail
    json = written(tmp_path, '{"a": 1}\n{"a": 1, "b": 2}\n')
    assert fault_of(json, "jsonl", limits=Limits(max_columns=1)).row == 2


def test_the_caps_hold_for_parquet(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": ["x", "y" * 100], "b": ["", ""]}), path)
    cell = fault_of(path, "parquet", limits=Limits(max_cell_bytes=50))
    assert (cell.row, cell.column) == (2, "a")
    assert "1 rows" in fault_of(path, "parquet", limits=Limits(max_rows=1)).detail
    assert "at most 1" in fault_of(path, "parquet", limits=Limits(max_columns=1)).detail


@pytest.mark.parametrize("file_format", ["csv", "tsv", "jsonl"])
def test_a_line_without_end_is_never_held(tmp_path: Path, file_format: FileFormat) -> None:
    path = tmp_path / "long"
    with path.open("wb") as file:
        file.write(b"a\tb\n" if file_format == "tsv" else b"a,b\n" if file_format == "csv" else b"")
        file.truncate(200_000_000)
    fault, peak = with_peak(lambda: fault_of(path, file_format))
    assert "longer than 4,000,000 bytes" in fault.detail
    assert fault.row == 1
    assert peak < 20_000_000


def test_an_unclosed_quote_is_never_held(tmp_path: Path) -> None:
    path = written(tmp_path, b'a,b\n1,2\n"' + b"3,4\n" * 3_000_000)
    limits = Limits(max_line_bytes=100_000)
    fault, peak = with_peak(lambda: fault_of(path, "csv", limits=limits))
    assert "never closed" in fault.detail
    assert fault.row == 2
    assert peak < 5_000_000


def test_a_text_repeated_in_parquet_is_held_once(tmp_path: Path) -> None:
    path = tmp_path / "bomb.parquet"
    indices = pa.array([0] * 100_000, pa.int32())
    big = pa.DictionaryArray.from_arrays(indices, pa.array(["x" * 900_000]))
    pq.write_table(pa.table({"a": big}), path, compression="zstd")  # 90 GB if unpacked
    before = pa.total_allocated_bytes()
    rows = read_rows(path, "parquet")
    peak = 0
    for _ in range(1000):
        next(rows)
        peak = max(peak, pa.total_allocated_bytes() - before)
    rows.close()
    assert peak < 20_000_000


def test_a_parquet_that_unpacks_to_gigabytes_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.parquet"
    table = pa.table({"a": ["x" * 100_000_000]})
    pq.write_table(table, path, compression="zstd", write_statistics=False)
    assert path.stat().st_size < 1_000_000
    monkeypatch.setattr(parquet_probe, "MEMORY_BYTES", 600_000_000)
    before = pa.total_allocated_bytes()
    assert "smaller row groups" in fault_of(path, "parquet").detail
    assert pa.total_allocated_bytes() == before


def test_a_parquet_that_kills_its_reader_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": ["x"]}), path)
    probe = tmp_path / "probe.py"
    probe.write_text("import os\nprint('started', flush=True)\nos.abort()\n")
    monkeypatch.setattr(parquet_probe, "__file__", str(probe))
    assert "corrupt" in fault_of(path, "parquet").detail


@pytest.mark.parametrize("file_format", ["csv", "tsv", "jsonl", "parquet"])
@given(data=st.data())
@settings(max_examples=40, deadline=None, database=None, derandomize=True)
def test_any_bytes_are_read_or_refused(file_format: FileFormat, data: st.DataObject) -> None:
    pieces = st.sampled_from(
        [
            b'"',
            b",",
            b"\t",
            b"\n",
            b"\r",
            b'{"a":1}',
            b"PAR1",
            b"\xef\xbb\xbf",
        ]
    )
    content = b"".join(data.draw(st.lists(st.one_of(st.binary(max_size=20), pieces), max_size=20)))
    with tempfile.TemporaryDirectory() as folder:
        read_or_refused(written(Path(folder), content), file_format)


@given(data=st.data())
@settings(max_examples=10, deadline=None, database=None, derandomize=True)
def test_a_corrupted_parquet_is_read_or_refused(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.parquet"
        pq.write_table(pa.table({"a": ["x", "yé"], "b": [1, 2]}), path)
        content = bytearray(path.read_bytes())
        spots = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))
        for position, value in data.draw(st.lists(spots, min_size=1, max_size=4)):
            content[position] = value
        read_or_refused(written(Path(folder), bytes(content)), "parquet")


def read_or_refused(path: Path, file_format: FileFormat) -> None:
    try:
        rows = list(read_rows(path, file_format))
    except DatasetInvalid as caught:
        error = caught
    else:
        assert [number for number, _ in rows] == list(range(1, len(rows) + 1))
        return
    assert error.faults
    str(error).encode()  # what is quoted can be sent
