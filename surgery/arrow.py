"""The stored form of a split (an Arrow stream on disk), and what whole columns tell of it."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from surgery.labels import Labelling
from surgery.schema import Duplicates
from surgery.spec import Problem

HASH_BYTES = 16
_BATCH_ROWS = 10_000
_BATCH_BYTES = 16 << 20


def text_hash(text: str, pair: str | None) -> bytes:
    """16 bytes that differ wherever the texts differ."""
    return hashlib.blake2b(_framed(text, pair), digest_size=HASH_BYTES).digest()


def _framed(text: str, pair: str | None) -> bytes:
    """The texts with their lengths, so that ("ab", "c") is not ("a", "bc")."""
    first = text.encode()
    second = b"" if pair is None else b"+" + pair.encode()
    return len(first).to_bytes(8, "big") + first + len(second).to_bytes(8, "big") + second


class SplitWriter:
    """Write rows to an Arrow stream, which `datasets.Dataset.from_file` memory-maps.

    Columns: text, text_pair where there is a pair, label (int64, or float64 for regression).
    Beside writing it counts labels and hashes the content.
    """

    def __init__(self, path: Path, labelling: Labelling, *, pair: bool) -> None:
        self.labelling = labelling
        regression = labelling.problem is Problem.REGRESSION
        fields = [("text", pa.string())] + ([("text_pair", pa.string())] if pair else [])
        self.schema = pa.schema([*fields, ("label", pa.float64() if regression else pa.int64())])
        self.rows = 0
        self.counts: Counter[int] = Counter()
        self.low, self.high = float("inf"), float("-inf")
        self.digest = hashlib.sha256()
        self._held: list[tuple[str | float, ...]] = []
        self._bytes = 0
        self._file = path.open("wb")
        self._stream = pa.ipc.new_stream(self._file, self.schema)

    def add(self, text: str, pair: str | None, value: object) -> None:
        """Write one row."""
        label = self.labelling.number(value)
        framed = _framed(text, pair)
        self.digest.update(framed + repr(label).encode() + b"\n")
        self._held.append((text, label) if pair is None else (text, pair, label))
        self._bytes += len(framed)
        self.rows += 1
        if self.labelling.problem is Problem.REGRESSION:
            self.low, self.high = min(self.low, label), max(self.high, label)
        else:
            self.counts[int(label)] += 1
        if len(self._held) >= _BATCH_ROWS or self._bytes >= _BATCH_BYTES:
            self._flush()

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
        """Rows of each label, every label of the dataset named."""
        return {name: self.counts[index] for index, name in enumerate(self.labelling.names)}


def repeated_rows(hashes: bytearray) -> bytes:
    """One byte a row: 1 where another row has the same text."""
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
    kind = pa.float64() if labels.typecode == "d" else pa.int32()
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
