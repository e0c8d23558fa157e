"""The stored form of a split: an Arrow stream on disk."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from surgery.data.ingest.inputs import Content
from surgery.data.ingest.labels import Labelling
from surgery.data.ingest.repeats import HASH_BYTES
from surgery.data.rows import CellType
from surgery.schemas.enums import Problem

_BATCH_ROWS = 10_000
_BATCH_BYTES = 16 << 20
_TYPES: dict[CellType, Any] = {
    "string": pa.string(),
    "strings": pa.list_(pa.string()),
    "integer": pa.int64(),
    "number": pa.float64(),
}
_LABEL_TYPES: dict[Problem, Any] = {
    Problem.REGRESSION: pa.float64(),
    Problem.TOKEN_CLASSIFICATION: pa.list_(pa.int64()),
}


def content_hash(content: Content) -> bytes:
    """A hash of a row's cells, 16 bytes."""
    return hashlib.blake2b(content.framed, digest_size=HASH_BYTES).digest()


class SplitWriter:
    """Writes rows to an Arrow stream, which `datasets.Dataset.from_file` memory-maps.

    The columns are those of the problem's inputs, and label: int64, float64 for regression, or a
    list of int64 for token classification. It also counts labels and hashes the content.
    """

    def __init__(
        self, path: Path, labelling: Labelling, fields: Sequence[tuple[str, CellType]]
    ) -> None:
        self.labelling = labelling
        self.schema = pa.schema(
            [(name, _TYPES[kind]) for name, kind in fields]
            + [("label", _LABEL_TYPES.get(labelling.problem, pa.int64()))]
        )
        self.rows = 0
        self.counts: Counter[int] = Counter()
        self.low, self.high = float("inf"), float("-inf")
        self.digest = hashlib.sha256()
        self._pending: list[tuple[Any, ...]] = []
        self._bytes = 0
        self._file = path.open("wb")
        self._stream = pa.ipc.new_stream(self._file, self.schema)

    def add(self, content: Content, value: object) -> None:
        """Write one row."""
        label = self._count(value)
        values = repr((*content.extras, label) if content.extras else label)
        self.digest.update(content.framed + values.encode() + b"\n")
        self._pending.append((*content.cells, *content.extras, label))
        self._bytes += len(content.framed)
        self.rows += 1
        if len(self._pending) >= _BATCH_ROWS or self._bytes >= _BATCH_BYTES:
            self._flush()

    def _count(self, value: object) -> int | float | list[int]:
        if self.labelling.problem is Problem.TOKEN_CLASSIFICATION:
            assert isinstance(value, list)
            tags = [int(self.labelling.number(tag)) for tag in value]
            self.counts.update(tags)
            return tags
        label = self.labelling.number(value)
        if self.labelling.problem is Problem.REGRESSION:
            self.low, self.high = min(self.low, label), max(self.high, label)
        else:
            self.counts[int(label)] += 1
        return label

    def _flush(self) -> None:
        if self._pending:
            cells = zip(*self._pending, strict=True)
            columns = [
                pa.array(column, field.type)
                for column, field in zip(cells, self.schema, strict=True)
            ]
            self._stream.write_batch(pa.record_batch(columns, schema=self.schema))
        self._pending, self._bytes = [], 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._flush()
        self._stream.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def named_counts(self) -> dict[str, int]:
        """How many rows have each label, or how many words have each tag, zeros included."""
        return {name: self.counts[index] for index, name in enumerate(self.labelling.names)}
