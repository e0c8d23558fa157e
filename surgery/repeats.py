"""Rows that occur more than once: how many, and which are the first."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from surgery.schema import EXAMPLES, Duplicates

HASH_BYTES = 16
_CODE_TYPES: dict[str, Any] = {"d": pa.float64(), "i": pa.int32(), "q": pa.int64()}

Pair = tuple[int, int]
"""The position of a row, and of the earlier one that it is like."""


@dataclass(frozen=True)
class Repeats:
    """How many rows have the same content, and the first of each kind, in the order of the rows."""

    counts: Duplicates
    within_train: list[Pair]
    across: list[Pair]
    conflicting: list[Pair]


def repeated_rows(hashes: bytearray) -> bytes:
    """One byte a row: 1 where another row has the same content."""
    column = _hash_column(hashes)
    counts = pc.value_counts(column)
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    mask = pc.is_in(column, value_set=twice).cast(pa.uint8())
    return bytes(mask.buffers()[1].to_pybytes()[: len(column)])


def find_repeats(
    hashes: bytearray, validation: bytes | bytearray, labels: array[float] | array[int]
) -> Repeats:
    """Count equal contents; ``validation`` has one byte a row, 1 for the rows of validation."""
    content, label = _hash_column(hashes), _column(labels)
    side = pa.Array.from_buffers(pa.uint8(), len(validation), [None, pa.py_buffer(validation)])
    table = pa.table({"hash": content, "validation": side, "label": label})
    # In one thread the groups come in the order of their first rows.
    groups = table.group_by("hash", use_threads=False).aggregate(
        [("validation", "sum"), ("validation", "count"), ("label", "min"), ("label", "max")]
    )
    held_out = groups["validation_sum"].cast(pa.int64())
    trained = pc.subtract(groups["validation_count"], held_out)
    both = pc.and_(pc.greater(trained, 0), pc.greater(held_out, 0))
    conflict = pc.not_equal(groups["label_min"], groups["label_max"])
    counts = Duplicates(
        within_train=_sum(pc.max_element_wise(pc.subtract(trained, 1), 0)),
        train_and_validation=_sum(held_out.filter(both)),
        conflicting_labels=_sum(conflict.cast(pa.int64())),
    )
    in_train = pc.equal(side, 0)

    def first(kind: Any) -> list[Any]:
        """Where the first contents of a kind stand, as masks over all rows."""
        chosen = groups["hash"].filter(kind).slice(0, EXAMPLES)
        return [pc.equal(content, value) for value in chosen]

    return Repeats(
        counts,
        within_train=[_latter(pc.and_(own, in_train)) for own in first(pc.greater(trained, 1))],
        across=[
            (_first(pc.and_not(own, in_train)), _first(pc.and_(own, in_train)))
            for own in first(both)
        ],
        conflicting=[_other_label(own, label) for own in first(conflict)],
    )


def repeated_values(values: array[int]) -> tuple[int, list[Pair]]:
    """How many rows repeat an earlier row's value, and the first that do."""
    column = _column(values)
    table = pa.table({"value": column, "one": column})
    groups = table.group_by("value", use_threads=False).aggregate([("one", "count")])
    chosen = groups["value"].filter(pc.greater(groups["one_count"], 1)).slice(0, EXAMPLES)
    return len(column) - len(groups), [_latter(pc.equal(column, value)) for value in chosen]


def _latter(mask: Any) -> Pair:
    first, second = pc.indices_nonzero(mask).slice(0, 2).to_pylist()
    return second, first


def _first(mask: Any) -> int:
    return int(pc.index(mask, True).as_py())


def _other_label(mask: Any, label: Any) -> Pair:
    first = _first(mask)
    return _first(pc.and_(mask, pc.not_equal(label, label[first]))), first


def _column(values: array[float] | array[int]) -> Any:
    kind = _CODE_TYPES[values.typecode]
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def _hash_column(hashes: bytearray) -> Any:
    count = len(hashes) // HASH_BYTES
    return pa.Array.from_buffers(pa.binary(HASH_BYTES), count, [None, pa.py_buffer(hashes)])


def _sum(column: Any) -> int:
    return int(pc.sum(column).as_py() or 0)
