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
from surgery.data.rows import Kind
from surgery.schemas.enums import Problem

_BATCH_ROWS = 10_000
_BATCH_BYTES = 16 << 20
_TYPES: dict[Kind, Any] = {
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
    """16 bytes that differ wherever the cells differ."""
    return hashlib.blake2b(content.framed, digest_size=HASH_BYTES).digest()


class SplitWriter:
    """Write rows to an Arrow stream, which `datasets.Dataset.from_file` memory-maps.

    Columns: those of the problem's inputs, and label: int64, float64 for regression, a list of
    int64 for token classification. Beside writing it counts labels and hashes the content.
    """

    def __init__(
        self, path: Path, labelling: Labelling, fields: Sequence[tuple[str, Kind]]
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
        self._held: list[tuple[Any, ...]] = []
        self._bytes = 0
        self._file = path.open("wb")
        self._stream = pa.ipc.new_stream(self._file, self.schema)

    def add(self, content: Content, value: object) -> None:
        """Write one row."""
        label = self._count(value)
        told = repr((*content.extras, label) if content.extras else label)
        self.digest.update(content.framed + told.encode() + b"\n")
        self._held.append((*content.cells, *content.extras, label))
        self._bytes += len(content.framed)
        self.rows += 1
        if len(self._held) >= _BATCH_ROWS or self._bytes >= _BATCH_BYTES:
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
        if self._held:
            columns = [
                pa.array(column, field.type)
                for column, field in zip(zip(*self._held, strict=True), self.schema, strict=True)
            ]
            self._stream.write_batch(pa.record_batch(columns, schema=self.schema))
        self._held, self._bytes = [], 0

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
        """Rows (words) of each label (tag), every label of the dataset named."""
        return {name: self.counts[index] for index, name in enumerate(self.labelling.names)}
