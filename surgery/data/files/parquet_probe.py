"""Read a Parquet file to its end, in a separate process that may crash.

pyarrow aborts the whole process on some corrupt footers, and a small file can unpack to any size.
So an untrusted file is first read here, under a memory limit. Only if this process survives does
`surgery.data.files.parquet` read the same bytes in the same way. This file is run by its path and
imports nothing but pyarrow.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MEMORY_BYTES = 4 << 30
OUT_OF_MEMORY = 3
STARTED = "started"
BATCH_ROWS = 256


def column_names(path: Path) -> list[str]:
    """The names of the file's columns."""
    with pq.ParquetFile(path) as file:
        return list(file.schema_arrow.names)


def row_batches(path: Path, names: Sequence[str]) -> Iterator[Any]:
    """Record batches of a few rows.

    Texts are read as dictionaries, so that one that is stored once and repeated a million times
    takes memory only once.
    """
    with pq.ParquetFile(path) as file:
        fields = [file.schema_arrow.field(name) for name in names]
    texts = [
        field.name
        for field in fields
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
    ]
    with pq.ParquetFile(path, read_dictionary=texts, pre_buffer=False) as file:
        yield from file.iter_batches(BATCH_ROWS, columns=list(names), use_threads=False)


def _read_all(path: Path) -> None:
    for batch in row_batches(path, column_names(path)):
        for column in batch.columns:
            _touch(column)


def _touch(column: Any) -> None:
    """Use every value. Errors that pyarrow raises are ignored: the reader reports them."""
    with suppress(ValueError):
        column.validate(full=True)
    values = column.dictionary if pa.types.is_dictionary(column.type) else column
    for value in values:
        with suppress(ValueError):
            value.as_py()


def _limit_memory(size: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    pa.set_memory_pool(pa.system_memory_pool())  # the other pools reserve far more than they use


if __name__ == "__main__":
    _limit_memory(int(sys.argv[2]))
    print(STARTED, flush=True)  # noqa: T201  # to the parent process
    try:
        _read_all(Path(sys.argv[1]))
    except MemoryError:
        sys.exit(OUT_OF_MEMORY)
