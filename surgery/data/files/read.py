"""Read untrusted csv, tsv, jsonl and parquet files row by row, within limits.

A *row* is a data row, counted from 1: the header and blank lines are not rows, and a quoted cell
with line breaks stays inside one row. Text is UTF-8, with or without a byte-order mark, plain or
compressed. Whatever the bytes, the only error is DatasetInvalid, and memory stays near one row
(for Parquet a page of a row group, for a compressed file its window).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from surgery.data.files.delimited import read_csv, read_tsv
from surgery.data.files.json_lines import read_jsonl
from surgery.data.files.parquet import parquet_rows, read_parquet
from surgery.data.files.source import (
    LIMITS,
    FaultSink,
    FileFormat,
    Limits,
    Row,
    Source,
    lines_of,
    shown,
    string_fault,
)
from surgery.errors import Fault


def read_rows(
    path: Path,
    file_format: FileFormat,
    *,
    limits: Limits = LIMITS,
    name: str | None = None,
    columns: Iterable[str] | None = None,
    on_fault: FaultSink | None = None,
) -> Iterator[tuple[int, Row]]:
    """Yield ``(row number from 1, {column: value})`` of one file.

    Cells of csv and tsv are strings; jsonl and parquet keep their types. With ``columns``, other
    columns may be left out. ``name`` is the file's name in faults. A fault in one row goes to
    ``on_fault`` and reading continues with the next row. Without ``on_fault``, and for faults of
    the whole file, DatasetInvalid is raised.
    """
    source = Source(path, name or path.name, limits, tuple(columns) if columns else None)
    if path.stat().st_size == 0:
        raise source.invalid("the file is empty")
    with source.opened:
        yield from _checked(source, file_format, on_fault)


def _checked(
    source: Source, file_format: FileFormat, on_fault: FaultSink | None
) -> Iterator[tuple[int, Row]]:
    seen, limits = 0, source.limits
    for number, found in _READERS[file_format](source):
        seen = number
        if number > limits.max_rows:
            raise source.invalid(f"more than {limits.max_rows:,} rows; send a sample of them")
        fault = found if isinstance(found, Fault) else _cell_fault(source, found)
        if not isinstance(found, Fault) and fault is None:
            yield number, found
        elif fault is not None and on_fault is not None:
            on_fault(fault)
        elif fault is not None:
            raise source.invalid(fault.detail, fault.column)
    if not seen:
        source.row = None
        raise source.invalid("the file has no rows" + _no_rows_hint(file_format))


def count_rows(path: Path, file_format: FileFormat) -> int:
    """How many rows a file has, faulty ones included; DatasetInvalid if it cannot be read."""
    if file_format == "parquet":
        return parquet_rows(Source(path, path.name, LIMITS))
    if file_format == "jsonl":
        return sum(1 for line in lines_of(Source(path, path.name, LIMITS)) if line.strip())
    faults: list[Fault] = []
    return sum(1 for _ in read_rows(path, file_format, on_fault=faults.append)) + len(faults)


def _no_rows_hint(file_format: FileFormat) -> str:
    return ", only a header" if file_format in {"csv", "tsv"} else ""


def _cell_fault(source: Source, row: Row) -> Fault | None:
    for column, value in row.items():
        text = value
        if isinstance(value, list):  # one cell: the limit holds for its strings together
            text = "".join(entry for entry in value if isinstance(entry, str))
        bad = isinstance(text, str) and string_fault(text, source.limits.max_cell_bytes)
        if bad:
            return source.fault(f"the cell {bad}", shown(column))
    return None


_READERS: dict[FileFormat, Callable[[Source], Iterator[tuple[int, Row | Fault]]]] = {
    "csv": read_csv,
    "tsv": read_tsv,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
}
