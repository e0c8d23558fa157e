"""The stored form of a split (an Arrow stream on disk), and what whole columns tell of it."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from surgery.inputs import Content, Kind
from surgery.labels import Labelling
from surgery.schema import Duplicates
from surgery.terms import Problem

HASH_BYTES = 16
_BATCH_ROWS = 10_000
_BATCH_BYTES = 16 << 20
_TYPES: dict[Kind, Any] = {
    "string": pa.string(), "strings": pa.list_(pa.string()),
    "integer": pa.int64(), "number": pa.float64(),
}  # fmt: skip
_LABEL_TYPES: dict[Problem, Any] = {
    Problem.REGRESSION: pa.float64(),
    Problem.TOKEN_CLASSIFICATION: pa.list_(pa.int64()),
}
_CODE_TYPES: dict[str, Any] = {"d": pa.float64(), "i": pa.int32(), "q": pa.int64()}


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


def repeated_rows(hashes: bytearray) -> bytes:
    """One byte a row: 1 where another row has the same content."""
    column = _hash_column(hashes)
    counts = pc.value_counts(column)
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    mask = pc.is_in(column, value_set=twice).cast(pa.uint8())
    return bytes(mask.buffers()[1].to_pybytes()[: len(column)])


def count_duplicates(
    hashes: bytearray, validation: bytes | bytearray, labels: array[float] | array[int]
) -> Duplicates:
    """Count equal texts; ``validation`` has one byte a row, 1 for the rows of validation."""
    rows = len(validation)
    kind = _CODE_TYPES[labels.typecode]
    table = pa.table(
        {
            "hash": _hash_column(hashes),
            "validation": pa.Array.from_buffers(pa.uint8(), rows, [None, pa.py_buffer(validation)]),
            "label": pa.Array.from_buffers(kind, rows, [None, pa.py_buffer(labels)]),
        }
    )
    groups = table.group_by("hash").aggregate(
        [
            ("validation", "sum"),
            ("validation", "count"),
            ("label", "min"),
            ("label", "max"),
        ]
    )
    held_out = groups["validation_sum"].cast(pa.int64())
    trained = pc.subtract(groups["validation_count"], held_out)
    return Duplicates(
        within_train=_sum(pc.max_element_wise(pc.subtract(trained, 1), 0)),
        train_and_validation=_sum(held_out.filter(pc.greater(trained, 0))),
        conflicting_labels=_sum(
            pc.not_equal(groups["label_min"], groups["label_max"]).cast(pa.int64())
        ),
    )


def _hash_column(hashes: bytearray) -> Any:
    count = len(hashes) // HASH_BYTES
    return pa.Array.from_buffers(pa.binary(HASH_BYTES), count, [None, pa.py_buffer(hashes)])


def _sum(column: Any) -> int:
    return int(pc.sum(column).as_py() or 0)
