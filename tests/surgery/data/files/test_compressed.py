"""Compressed text: the same rows as uncompressed, or a clear refusal within bounded memory."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd

from surgery.data.files.compressed import plain_name
from surgery.data.files.read import count_rows, read_rows
from surgery.data.files.source import FileFormat, Limits
from surgery.errors import DatasetInvalid, Fault
from tests.support.rows.files import with_peak

Pack = Callable[[bytes], bytes]
CHECKED = {zstd.CompressionParameter.checksum_flag: 1}
PACKS: dict[str, Pack] = {
    "gz": lambda content: gzip.compress(content, mtime=0),  # the same bytes at any time
    "zst": lambda content: zstd.compress(content, options=CHECKED),
}
TEXTS: dict[FileFormat, bytes] = {
    "csv": b'\xef\xbb\xbftext,label\r\n"a\nb",1\r\nc,0\r\n',
    "tsv": b'text\tlabel\n"a" b\t1\nc\t0\n',
    "jsonl": b'{"text": "a", "label": 1}\n{"text": "c", "label": 0}\n',
}
packed = pytest.mark.parametrize("suffix", PACKS)


def fault_of(path: Path, kind: FileFormat = "csv", limits: Limits | None = None) -> Fault:
    with pytest.raises(DatasetInvalid) as caught:
        for _ in read_rows(path, kind, limits=limits or Limits()):
            pass
    [fault] = caught.value.faults
    return fault


@packed
@pytest.mark.parametrize("kind", TEXTS)
def test_rows_are_those_of_the_plain_file(tmp_path: Path, kind: FileFormat, suffix: str) -> None:
    plain, small = tmp_path / f"t.{kind}", tmp_path / f"t.{kind}.{suffix}"
    unnamed = tmp_path / f"u.{kind}"
    plain.write_bytes(TEXTS[kind])
    for path in (small, unnamed):
        path.write_bytes(PACKS[suffix](TEXTS[kind]))
    expected = list(read_rows(plain, kind))
    assert len(expected) == 2
    assert list(read_rows(small, kind)) == list(read_rows(unnamed, kind)) == expected
    assert count_rows(small, kind) == 2


@packed
def test_parts_one_after_the_other_are_one_file(tmp_path: Path, suffix: str) -> None:
    """As `cat` and parallel compressors leave them."""
    path = tmp_path / "t.csv"
    path.write_bytes(b"".join(PACKS[suffix](part) for part in (b"a,b\n1,", b"2\n3,4\n")))
    assert [row for _, row in read_rows(path, "csv")] == [
        {"a": "1", "b": "2"},
        {"a": "3", "b": "4"},
    ]


@packed
def test_damage_is_named_with_the_row_it_reached(tmp_path: Path, suffix: str) -> None:
    lines = b"".join(b"text %d,%d\n" % (n * 7919 % 100_003, n % 2) for n in range(60_000))
    whole = PACKS[suffix](b"text,label\n" + lines)
    path = tmp_path / f"t.csv.{suffix}"
    path.write_bytes(whole[: len(whole) - 9])
    fault = fault_of(path)
    assert "damaged or cut off" in fault.detail
    assert fault.row is not None
    assert fault.row > 1000
    path.write_bytes(whole[:2000] + b"\0" * 50 + whole[2050:])
    with pytest.raises(DatasetInvalid, match="damaged or cut off"):
        for _ in read_rows(path, "csv", on_fault=lambda _: None):
            pass


@packed
def test_a_name_that_is_wrong_about_it_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t.csv.{suffix}"
    path.write_bytes(b"text,label\na,1\n")
    assert "not compressed so" in fault_of(path).detail
    twice = tmp_path / "t.csv"
    twice.write_bytes(PACKS[suffix](PACKS[suffix](TEXTS["csv"])))
    assert "UTF-8" in fault_of(twice).detail


def bomb(path: Path, suffix: str) -> None:
    """A valid file of 100 MB of rows."""
    with gzip.open(path, "wb") if suffix == "gz" else zstd.open(path, "wb") as file:
        file.write(b"text,label\n")
        for _ in range(100):
            file.write((b"x" * 999 + b",1\n") * 1000)


@packed
def test_a_bomb_is_refused_within_bounded_memory(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t.csv.{suffix}"
    bomb(path, suffix)
    fault, peak = with_peak(lambda: fault_of(path))
    assert "200 times its size" in fault.detail
    assert fault.row is not None
    assert peak < 20_000_000


@packed
def test_the_caps_are_of_what_it_unpacks_to(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t.csv.{suffix}"
    path.write_bytes(PACKS[suffix](b"text,label\n" + b"x" * 50_000 + b",1\ny,0\n"))
    assert "30,000 bytes" in fault_of(path, limits=Limits(max_unpacked_bytes=30_000)).detail
    assert "30,000 bytes" in fault_of(path, limits=Limits(max_line_bytes=30_000)).detail
    cell = fault_of(path, limits=Limits(max_cell_bytes=30_000))
    assert (cell.row, cell.column) == (1, "text")
    assert "1 rows" in fault_of(path, limits=Limits(max_rows=1)).detail
    assert "at most 1" in fault_of(path, limits=Limits(max_columns=1)).detail


def test_a_window_larger_than_memory_allows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.zst"
    options = {
        zstd.CompressionParameter.window_log: 30,
        zstd.CompressionParameter.content_size_flag: 0,
    }
    with zstd.open(path, "wb", options=options) as file:
        file.write(b"text,label\n" + b"a,1\n" * 10)
    assert "damaged or cut off" in fault_of(path).detail


def test_the_suffix_of_a_compression_is_taken_off() -> None:
    assert plain_name("a/b.csv.GZ") == "a/b.csv"
    assert plain_name("b.tsv.zst") == "b.tsv"
    assert plain_name("gz") == "gz"
