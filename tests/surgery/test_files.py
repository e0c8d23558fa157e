from __future__ import annotations

import bz2
import lzma
import tempfile
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery import parquet_probe
from surgery.errors import DatasetInvalid, Fault
from surgery.files import FileFormat, Limits, Row, count_rows, format_of, read_rows


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
        ("csv", bz2.compress(b"a,b\n1,2\n"), "bzip2", None, None),
        ("csv", lzma.compress(b"a,b\n1,2\n"), "xz", None, None),
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


def test_the_caps(tmp_path: Path) -> None:
    path = written(tmp_path, "a,b\n1,2\n3,4\n5,éé\n")
    assert "2 rows" in fault_of(path, "csv", limits=Limits(max_rows=2)).detail
    assert "at most 1" in fault_of(path, "csv", limits=Limits(max_columns=1)).detail
    cell = fault_of(path, "csv", limits=Limits(max_cell_bytes=3))
    assert (cell.row, cell.column) == (3, "b")
    json = written(tmp_path, '{"a": 1}\n{"a": 1, "b": 2}\n')
    assert fault_of(json, "jsonl", limits=Limits(max_columns=1)).row == 2


def test_the_caps_hold_for_parquet(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": ["x", "y" * 100], "b": ["", ""]}), path)
    cell = fault_of(path, "parquet", limits=Limits(max_cell_bytes=50))
    assert (cell.row, cell.column) == (2, "a")
    assert "1 rows" in fault_of(path, "parquet", limits=Limits(max_rows=1)).detail
    assert "at most 1" in fault_of(path, "parquet", limits=Limits(max_columns=1)).detail


def test_a_parquet_text_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    bad = pa.array([b"ok", b"\xff"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"a": bad}), path)
    fault = fault_of(path, "parquet")
    assert (fault.row, fault.column) == (2, "a")


@pytest.mark.parametrize("file_format", ["csv", "tsv", "jsonl"])
def test_a_line_without_end_is_never_held(tmp_path: Path, file_format: FileFormat) -> None:
    path = tmp_path / "long"
    with path.open("wb") as file:
        file.write(b"a\tb\n" if file_format == "tsv" else b"a,b\n" if file_format == "csv" else b"")
        file.truncate(200_000_000)
    tracemalloc.start()
    try:
        fault = fault_of(path, file_format)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "longer than 4,000,000 bytes" in fault.detail
    assert fault.row == 1
    assert peak < 20_000_000


def test_an_unclosed_quote_is_never_held(tmp_path: Path) -> None:
    path = written(tmp_path, b'a,b\n1,2\n"' + b"3,4\n" * 3_000_000)
    tracemalloc.start()
    try:
        fault = fault_of(path, "csv", limits=Limits(max_line_bytes=100_000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
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
