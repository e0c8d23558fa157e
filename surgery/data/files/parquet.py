"""Read untrusted Parquet files a few rows at a time; corrupt bytes raise DatasetInvalid."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from surgery.data.files import parquet_probe
from surgery.data.files.source import Row, Source, check_header, shown
from surgery.errors import Fault

# What pyarrow raises on bytes it cannot read.
_UNREADABLE = (pa.ArrowException, OSError, ValueError, TypeError, LookupError, OverflowError)
_PROBE_SECONDS = 600


def read_parquet(source: Source) -> Iterator[tuple[int, Row | Fault]]:
    """Yield ``(row number from 1, row or the fault in it)``. Raises DatasetInvalid."""
    _probe(source)
    try:
        yield from _rows(source)
    except _UNREADABLE as error:
        raise source.invalid(_unreadable(error)) from None


def parquet_rows(source: Source) -> int:
    """The number of rows, from the file's footer. Raises DatasetInvalid."""
    _probe(source)
    try:
        with pq.ParquetFile(source.path) as file:
            return int(file.metadata.num_rows)
    except _UNREADABLE as error:
        raise source.invalid(_unreadable(error)) from None


def _unreadable(error: Exception) -> str:
    reason = str(error).strip() or type(error).__name__
    return f"the file is not readable as Parquet: {shown(reason.splitlines()[0])}"


def _probe(source: Source) -> None:
    with source.path.open("rb") as file:
        if file.read(4) != b"PAR1":
            raise source.invalid("the file is not readable as Parquet: it does not begin with PAR1")
    state = source.path.stat()
    fatal = _probed(os.path.realpath(source.path), state.st_size, state.st_mtime_ns)
    if fatal:
        raise source.invalid(fatal)


@lru_cache(maxsize=1024)
def _probed(real: str, size: int, modified: int) -> str | None:  # noqa: ARG001  # the cache's key
    """Why reading the file would kill this process, or None. Mere exceptions do not count."""
    limit = str(parquet_probe.MEMORY_BYTES)
    command = [sys.executable, "-P", parquet_probe.__file__, real, limit]
    try:
        probe = subprocess.run(
            command, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"reading the file takes over {_PROBE_SECONDS} seconds; send a sample of it"
    if not probe.stdout.startswith(parquet_probe.STARTED):
        raise RuntimeError(f"the Parquet probe did not start: {probe.stderr[-500:]}")
    if probe.returncode == parquet_probe.OUT_OF_MEMORY:
        return f"the file unpacks to more than {limit} bytes at once; write smaller row groups"
    if probe.returncode not in {0, 1}:
        return "the file is not readable as Parquet: it is corrupt; write it again"
    return None


def _rows(source: Source) -> Iterator[tuple[int, Row | Fault]]:
    names = parquet_probe.column_names(source.path)
    check_header(source, names)
    names = [name for name in names if source.columns is None or name in source.columns]
    number = 0
    for batch in parquet_probe.row_batches(source.path, names):
        columns = {name: batch.column(name) for name in names}
        for index in range(batch.num_rows):
            number += 1
            source.row = number
            yield number, _row(source, columns, index)


def _row(source: Source, columns: dict[str, Any], index: int) -> Row | Fault:
    row: Row = {}
    for name, column in columns.items():
        try:
            row[name] = column[index].as_py()
        except UnicodeDecodeError:
            return source.fault("the cell is not valid UTF-8; write it again as UTF-8", name)
        except _UNREADABLE as error:
            return source.fault(f"the cell cannot be read: {shown(str(error))}", name)
    return row
