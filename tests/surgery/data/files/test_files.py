from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from surgery.data.files.read import count_rows
from surgery.data.files.source import FileFormat, format_of
from surgery.errors import DatasetInvalid, Fault
from tests.support.rows.files import fault_of, rows_of, written


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.csv", "csv"),
        ("A.TSV", "tsv"),
        ("x.y.jsonl", "jsonl"),
        ("t.parquet", "parquet"),
        ("a.csv.gz", "csv"),
        ("a.TSV.GZ", "tsv"),
        ("b.jsonl.zst", "jsonl"),
    ],
)
def test_the_suffix_names_the_format(name: str, expected: str) -> None:
    assert format_of(name) == expected


@pytest.mark.parametrize(
    "name", ["a.parquet.gz", "a.gz", "a.csv.bz2", "a", "a.zip", "a.xlsx", "a\0.json", ""]
)
def test_other_suffixes_are_refused_with_the_allowed_ones(name: str) -> None:
    with pytest.raises(DatasetInvalid, match=r"\.csv, \.tsv, \.jsonl, \.parquet"):
        format_of(name)


def test_csv_with_mark_crlf_quotes_line_breaks_and_blank_lines(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        b'\xef\xbb\xbftext,label\r\n"a, ""b""\r\nc",1\r\n\r\ncaf\xc3\xa9,0',
    )
    assert rows_of(path, "csv") == [
        (1, {"text": 'a, "b"\r\nc', "label": "1"}),
        (2, {"text": "café", "label": "0"}),
    ]
    assert count_rows(path, "csv") == 2


def test_jsonl_keeps_types_and_nested_values(tmp_path: Path) -> None:
    path = written(tmp_path, '{"a": 1, "b": [1]}\r\n\n{"a": null, "b": {"c": true}}')
    assert rows_of(path, "jsonl") == [
        (1, {"a": 1, "b": [1]}),
        (2, {"a": None, "b": {"c": True}}),
    ]
    assert count_rows(path, "jsonl") == 2


def test_parquet_keeps_types_and_skips_unwanted_columns(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": ["x", None], "n": [[1], [2]], "y": [True, False]}), path)
    assert rows_of(path, "parquet") == [
        (1, {"a": "x", "n": [1], "y": True}),
        (2, {"a": None, "n": [2], "y": False}),
    ]
    assert rows_of(path, "parquet", columns=["a"]) == [(1, {"a": "x"}), (2, {"a": None})]
    assert count_rows(path, "parquet") == 2


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ('t\tl\n"a"\t0\nb\t1\n', ["a", "b"]),
        ('t\tl\n"a\tb"\t0\nc\t1\n', ["a\tb", "c"]),
        ('t\tl\n"a\nb"\t0\nc\t1\n', ["a\nb", "c"]),
        ('t\tl\n"a\t0\nb"\t1\n', ['"a', 'b"']),
        ('t\tl\n"a\t0\nb\t1\n', ['"a', "b"]),
        ('t\tl\n"a" b\t0\nc\t1\n', ['"a" b', "c"]),
        ('t\tl\na "b" c\t0\nd\t1\n', ['a "b" c', "d"]),
        ('\ufefft\tl\r\n"a" said he\t0\r\nshe "b\t1\r\n', ['"a" said he', 'she "b']),
        ('t\tl\n"a ""b"" c"\t0\nd\t1\n', ['a "b" c', "d"]),
        ("t\tl\na, b; c|d\t0\ne\t1\n", ["a, b; c|d", "e"]),
    ],
)
def test_quotes_in_tsv(tmp_path: Path, content: str, texts: list[str]) -> None:
    rows = rows_of(written(tmp_path, content), "tsv")
    assert [row["t"] for _, row in rows] == texts
    assert [row["l"] for _, row in rows] == ["0", "1"]


@pytest.mark.parametrize(
    ("file_format", "content", "detail", "row", "column"),
    [
        ("csv", b"", "is empty", None, None),
        ("jsonl", b"", "is empty", None, None),
        ("parquet", b"", "is empty", None, None),
        ("csv", b"\n\n", "is empty", None, None),
        ("csv", b"a,b\n", "only a header", None, None),
        ("jsonl", b"\n \n", "no rows", None, None),
        ("csv", b"a,b\n1,2\n1,2,3\n", "has 3 fields, header has 2", 2, None),
        ("tsv", b"a\tb\n1\n", "has 1 field, header has 2", 1, None),
        ("csv", b"a,a\n1,2\n", "two columns are called 'a'", None, "a"),
        ("csv", b",a\n1,2\n", "column 1 has no name", None, None),
        ("csv", b"a;b\n1;2\n", "separated by semicolons", None, None),
        ("tsv", b"a,b\n1,2\n", "name it .csv", None, None),
        ("csv", b"a,b\n1,2\n1,caf\xe9\n", "UTF-8 (byte 0xe9, 'é' in Latin-1)", 2, "b"),
        ("csv", b"a,caf\xe9\n1,2\n", "UTF-8", None, None),
        ("csv", "a,b\n1,2\n".encode("utf-16"), "UTF-16", None, None),
        ("csv", b"a,b\n1,2\0\n", "NUL", 1, "b"),
        ("csv", b'a,b\n1,2\n"1,2\n3,4\n', "quoted", 2, None),
        ("csv", b'a,b\n"1" x,2\n', "quotes within it are doubled", 1, None),
        ("csv", b"a,b\r1,2\r", "line endings", None, None),
        ("tsv", b"a\tb\n1\t2\n1\r\t2\n", "carriage return", 2, None),
        ("csv", b"id\ttext, raw\tlabel\n1\ta, b\t0\n", "name it .tsv", None, None),
        ("csv", b"a\tb\n1\t2\n", "name it .tsv", None, None),
        ("csv", b"a|b\n1|2\n", "separated by bars", None, None),
        ("tsv", b"gj04\t1\t\tOur friends.\ngj04\t1\t\tOne more.\n", "without a header", None, None),
        ("tsv", "a\tb\n1\t2\n".encode("utf-16"), "the file is UTF-16", None, None),
        ("jsonl", '{"a": 1}\n'.encode("utf-16"), "the file is UTF-16", None, None),
        ("tsv", "a\tb\n1\t2\n".encode("utf-16-le"), "UTF-16", None, None),
        ("tsv", "a\tb\n1\tcafé\n".encode("latin-1"), "'é' in Latin-1", 1, "b"),
        ("tsv", b"a\tb\n1\t2\x00\n", "NUL", 1, "b"),
        ("tsv", b"a\tb\n1\t2\n1\t2\t3\n", "has 3 fields, header has 2", 2, None),
        ("csv", b"PK\x03\x04\x00", "Excel workbook", None, None),
        ("jsonl", b"PK\x03\x04\x00", "Excel workbook", None, None),
        ("csv", b"PAR1\x15\x04", ".parquet", None, None),
        pytest.param("csv", bz2.compress(b"a,b\n1,2\n"), "bzip2", None, None, id="bzip2"),
        pytest.param("csv", lzma.compress(b"a,b\n1,2\n"), "xz", None, None, id="xz"),
        ("jsonl", b'{"a": 1}\n{"a": \n', "not JSON", 2, None),
        ("jsonl", b'{"a": 1}\n7\n', "must be an object", 2, None),
        ("jsonl", b'{"a": 1}\n[1]\n', "must be an object", 2, None),
        ("jsonl", b'[{"a": 1}]\n', "JSON array", 1, None),
        ("jsonl", b'{"a": "caf\xe9"}\n', "byte 0xe9, 'é' in Latin-1", 1, "a"),
        ("jsonl", b'{"a": "\\u0000"}\n', "NUL", 1, "a"),
        ("jsonl", b'{"a": "\\ud800"}\n', "UTF-8", 1, "a"),
        ("jsonl", b'{"": 1}\n', "no name", 1, None),
        ("jsonl", b"{}\n", "empty object", 1, None),
        ("jsonl", b'{"a":' * 100_000, "too deep", 1, None),
        ("jsonl", b'{"a": ' + b"9" * 5000 + b"}", "huge number", 1, None),
        ("parquet", b"PAR1 nothing PAR1", "not readable as Parquet", None, None),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_row(
    tmp_path: Path,
    file_format: FileFormat,
    content: bytes,
    detail: str,
    row: int | None,
    column: str | None,
) -> None:
    fault = fault_of(written(tmp_path, content), file_format, name="train.x")
    assert detail in fault.detail
    assert (fault.file, fault.row, fault.column) == ("train.x", row, column)


def test_a_column_called_as_a_format_begins_is_a_column(tmp_path: Path) -> None:
    for name in ("PAR1", "BZh", "PK", "%PDF"):
        assert rows_of(written(tmp_path, f"{name},b\n1,2\n"), "csv") == [(1, {name: "1", "b": "2"})]


def test_faulty_rows_are_collected_and_the_others_read(tmp_path: Path) -> None:
    path = written(tmp_path, b'a,b\n1\n1,2\n"x" y,2\n3,\xff\n5,6\n')
    faults: list[Fault] = []
    rows = rows_of(path, "csv", on_fault=faults.append)
    assert rows == [(2, {"a": "1", "b": "2"}), (5, {"a": "5", "b": "6"})]
    assert [(fault.row, fault.column) for fault in faults] == [(1, None), (3, None), (4, "b")]
    assert count_rows(path, "csv") == 5


def test_a_parquet_without_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": [1, 2]}).select([]), path)
    assert "no columns" in fault_of(path, "parquet").detail


def test_the_first_row_that_can_be_read_names_the_columns(tmp_path: Path) -> None:
    path = written(tmp_path, '7\n{"": 1}\n')
    with pytest.raises(DatasetInvalid, match="row 2: column 1 has no name"):
        rows_of(path, "jsonl", on_fault=lambda _: None)


def test_a_parquet_text_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    bad = pa.array([b"ok", b"\xff"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"a": bad}), path)
    fault = fault_of(path, "parquet")
    assert (fault.row, fault.column) == (2, "a")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "text,label\na,1\nb\n"),
        ("t.csv", "text,text\na,1\n"),
        ("t.tsv", "text\ttext\na\t1\n"),
        ("t.jsonl", '{"text": "a"}\n[]\n'),
        ("t.jsonl.gz", '{"text": "a"}\n[]\n'),
    ],
)
def test_a_fault_leaves_no_file_open(tmp_path: Path, name: str, content: str) -> None:
    """Even while someone holds the error, and with it every frame it came through."""
    packed = gzip.compress(content.encode()) if name.endswith(".gz") else content
    path = written(tmp_path, packed, name)
    with pytest.raises(DatasetInvalid) as held:
        rows_of(path, format_of(name))
    assert held.value.faults
    assert str(path) not in {file.path for file in psutil.Process().open_files()}
