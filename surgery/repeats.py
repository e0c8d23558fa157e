"""Rows that occur more than once: how many, and which are the first."""

from __future__ import annotations

from array import array
from collections.abc import Callable
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


def repeated_rows(hashes: bytearray) -> bytearray:
    """One byte a row: 1 where another row has the same content.

    Sorts half of each hash, which takes a third of the memory of a hash table of them all.
    """
    halves = array("q")
    halves.extend(memoryview(hashes).cast("q")[::2])
    candidates = _repeated_positions(halves)
    content = _hash_column(hashes).take(candidates)
    counts = pc.value_counts(content)
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    mask = bytearray(len(halves))
    for position in _integers(candidates.filter(pc.is_in(content, value_set=twice))):
        mask[position] = 1
    return mask


def find_repeats(
    hashes: bytearray,
    repeated: bytearray,
    validation: bytes | bytearray,
    labels: array[float] | array[int],
) -> Repeats:
    """Count equal contents among the ``repeated`` rows, as `repeated_rows` gives them.

    ``validation`` has one byte a row, 1 for the rows of validation.
    """
    positions = pc.indices_nonzero(_bytes_column(repeated))
    content = _hash_column(hashes).take(positions)
    side, label = (c.take(positions) for c in (_bytes_column(validation), _column(labels)))
    groups = _groups(content, side, label)
    held_out = groups["validation_sum"].cast(pa.int64())
    trained = pc.subtract(groups["validation_count"], held_out)
    both = pc.and_(pc.greater(trained, 0), pc.greater(held_out, 0))
    conflict = pc.not_equal(groups["label_min"], groups["label_max"])
    in_train = pc.equal(side, 0)

    def first(kind: Any, pair: Callable[[Any], Pair]) -> list[Pair]:
        """The pair of rows of the first contents of a kind, found among those of each content."""
        chosen = groups["hash"].filter(kind).slice(0, EXAMPLES)
        pairs = [pair(pc.equal(content, value)) for value in chosen]
        return [(positions[row].as_py(), positions[earlier].as_py()) for row, earlier in pairs]

    return Repeats(
        Duplicates(
            within_train=_sum(pc.max_element_wise(pc.subtract(trained, 1), 0)),
            train_and_validation=_sum(held_out.filter(both)),
            conflicting_labels=_sum(conflict.cast(pa.int64())),
        ),
        within_train=first(pc.greater(trained, 1), lambda own: _latter(pc.and_(own, in_train))),
        across=first(both, lambda own: _across(own, in_train)),
        conflicting=first(conflict, lambda own: _other_label(own, label)),
    )


def _groups(content: Any, side: Any, label: Any) -> Any:
    """Rows of one content each; in one thread they come in the order of their first rows."""
    table = pa.table({"hash": content, "validation": side, "label": label})
    return table.group_by("hash", use_threads=False).aggregate(
        [("validation", "sum"), ("validation", "count"), ("label", "min"), ("label", "max")]
    )


def repeated_values(values: array[int]) -> tuple[int, list[Pair]]:
    """How many rows repeat an earlier row's value, and the first that do."""
    positions = _repeated_positions(values)
    column = _column(values).take(positions)
    table = pa.table({"value": column})
    groups = table.group_by("value", use_threads=False).aggregate([])["value"]
    pairs = [_latter(pc.equal(column, value)) for value in groups.slice(0, EXAMPLES)]
    placed = [(positions[row].as_py(), positions[earlier].as_py()) for row, earlier in pairs]
    return len(column) - len(groups), placed


def _repeated_positions(values: array[int]) -> Any:
    """Where values stand that occur more than once, in ascending order."""
    column = _column(values)
    order = pc.sort_indices(column)
    ordered = column.take(order)
    same = pc.equal(ordered.slice(1), ordered.slice(0, len(ordered) - 1))
    del ordered
    both = pa.concat_arrays([order.slice(1).filter(same), order.slice(0, len(same)).filter(same)])
    found = pc.unique(both)
    return found.take(pc.sort_indices(found))


def _latter(mask: Any) -> Pair:
    first, second = pc.indices_nonzero(mask).slice(0, 2).to_pylist()
    return second, first


def _first(mask: Any) -> int:
    return int(pc.index(mask, True).as_py())


def _across(mask: Any, in_train: Any) -> Pair:
    return _first(pc.and_not(mask, in_train)), _first(pc.and_(mask, in_train))


def _other_label(mask: Any, label: Any) -> Pair:
    first = _first(mask)
    return _first(pc.and_(mask, pc.not_equal(label, label[first]))), first


def _column(values: array[float] | array[int]) -> Any:
    kind = _CODE_TYPES[values.typecode]
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def _bytes_column(values: bytes | bytearray) -> Any:
    return pa.Array.from_buffers(pa.uint8(), len(values), [None, pa.py_buffer(values)])


def _integers(column: Any) -> memoryview:
    """The values of an array of uint64, without a Python object for each."""
    return memoryview(column.buffers()[1] or b"").cast("Q")[: len(column)]


def _hash_column(hashes: bytearray) -> Any:
    count = len(hashes) // HASH_BYTES
    return pa.Array.from_buffers(pa.binary(HASH_BYTES), count, [None, pa.py_buffer(hashes)])


def _sum(column: Any) -> int:
    return int(pc.sum(column).as_py() or 0)
