"""The stored form of a split: an Arrow stream on disk."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa

from surgery.data.ingest.inputs import Content
from surgery.data.ingest.label_sets import SetCounts
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


def _label_type(labelling: Labelling) -> Any:
    if labelling.problem is Problem.MULTI_LABEL:
        return pa.list_(pa.int8(), len(labelling.names))
    return _LABEL_TYPES.get(labelling.problem, pa.int64())


def content_hash(content: Content) -> bytes:
    """A hash of a row's cells, 16 bytes."""
    return hashlib.blake2b(content.framed, digest_size=HASH_BYTES).digest()


class SplitWriter:
    """Writes rows to an Arrow stream, which `datasets.Dataset.from_file` memory-maps.

    The columns are those of the problem's inputs, and label: int64, float64 for regression, a list
    of int64 for token classification, or a zero or one for each label (int8) where a row may have
    several. It also counts labels and hashes the content.
    """

    def __init__(
        self, path: Path, labelling: Labelling, fields: Sequence[tuple[str, CellType]]
    ) -> None:
        self.labelling = labelling
        self.schema = pa.schema(
            [(name, _TYPES[kind]) for name, kind in fields] + [("label", _label_type(labelling))]
        )
        self.rows = 0
        self.counts: Counter[int] = Counter()
        self.low, self.high = float("inf"), float("-inf")
        self.sets = SetCounts(len(labelling.names) if self._has_sets else 0)
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

    @property
    def _has_sets(self) -> bool:
        return self.labelling.problem is Problem.MULTI_LABEL

    def _count(self, value: object) -> int | float | list[int]:
        if self.labelling.problem is Problem.TOKEN_CLASSIFICATION:
            assert isinstance(value, list)
            tags = [int(self.labelling.number(tag)) for tag in value]
            self.counts.update(tags)
            return tags
        if self._has_sets:
            assert isinstance(value, list)
            labels = sorted(int(self.labelling.number(label)) for label in value)
            self.counts.update(labels)
            self.sets.add(labels)
            return labels
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
                self._array(column, field.type)
                for column, field in zip(cells, self.schema, strict=True)
            ]
            self._stream.write_batch(pa.record_batch(columns, schema=self.schema))
        self._pending, self._bytes = [], 0

    def _array(self, column: Sequence[Any], kind: Any) -> Any:
        if not pa.types.is_fixed_size_list(kind):
            return pa.array(column, kind)
        marks = np.zeros((len(column), kind.list_size), dtype=np.int8)
        for row, labels in zip(marks, column, strict=True):
            row[labels] = 1
        return pa.FixedSizeListArray.from_arrays(pa.array(marks.ravel()), kind.list_size)

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
