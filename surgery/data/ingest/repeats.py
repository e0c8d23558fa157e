"""Find rows that occur more than once: count them and list the first.

Rows are grouped by a hash of their content, one share of the hashes at a time, and equal rows are
merged into one entry as they are read. So memory grows neither with the number of rows nor with
how often one repeats.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from surgery.data.ingest.spool import Spool
from surgery.schemas.data.dataset import EXAMPLES, Duplicates

AT_ONCE = 1 << 18  # about how many rows a share of the hashes has
NONE = np.iinfo(np.int32).max  # in the place of a row's position: there is no such row
HASH_BYTES = 16
_SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")

Pair = tuple[int, int]
"""The position of a row, and of the earlier row that it repeats or contradicts."""

Column = np.ndarray[Any, Any]
Groups = dict[str, Column]
"""A table of groups of rows with equal content: the columns by name, one entry a group.

``high`` and ``low`` are the content's hash; ``train`` and ``held`` count the rows in train and in
validation; ``first`` is the position of the first row and ``label`` its label; ``other`` is the
first row with another label; ``train_1`` and ``train_2`` are the first two rows of train, and
``held_1`` is the first one of validation.
"""


@dataclass(frozen=True)
class Repeats:
    """How many rows repeat others, and the first pairs of each kind, in the order of the rows."""

    counts: Duplicates
    within_train: list[Pair]
    across: list[Pair]
    conflicting: list[Pair]


def repeated_rows(hashes: Spool) -> bytearray:
    """One byte for each row, which is 1 if another row has the same content."""
    mask = bytearray(len(hashes))
    marks = np.frombuffer(mask, np.uint8)
    shares = _shares(len(hashes))
    for share in range(shares):
        rows = (_groups(own, at, 0, 0) for at, own in _of_share(hashes, share, shares))
        groups = _merged(rows)
        keys = _hashes(groups)[groups["train"] > 1]
        for at, own in _of_share(hashes, share, shares):
            marks[at[_among(own, keys)]] = 1
    return mask


def find_repeats(
    hashes: Spool, repeated: bytearray, validation: bytes | bytearray, labels: Spool
) -> Repeats:
    """Count equal contents among the rows that ``repeated``, from `repeated_rows`, marks.

    ``validation`` has one byte for each row, which is 1 for the rows of validation.
    """
    side, keep = (np.frombuffer(mask, np.uint8) for mask in (validation, repeated))
    shares = _shares(int(np.count_nonzero(keep)))
    within, across = _FirstPairs("train_2", "train_1"), _FirstPairs("held_1", "train_1")
    conflict = _FirstPairs("other", "first")
    for share in range(shares):
        marked = _marked_of_share(hashes, labels, keep, share, shares)
        groups = _merged(_groups(own, at, side[at], label) for at, own, label in marked)
        train, held = groups["train"], groups["held"]
        within.take(groups, train > 1, int(np.maximum(train - 1, 0).sum()))
        both = (train > 0) & (held > 0)
        across.take(groups, both, int(held[both].sum()))
        contradicted = groups["other"] < NONE
        conflict.take(groups, contradicted, int(contradicted.sum()))
    counts = Duplicates(
        within_train=within.count,
        train_and_validation=across.count,
        conflicting_labels=conflict.count,
    )
    return Repeats(counts, within.pairs, across.pairs, conflict.pairs)


def repeated_values(
    values: Spool, start: int = 0, stop: int | None = None
) -> tuple[int, list[Pair]]:
    """How many rows repeat an earlier row's value, and the first of them, counted from 0."""
    stop = len(values) if stop is None else stop
    repeats = _FirstPairs("train_2", "train_1")
    shares = _shares(stop - start)
    for share in range(shares):
        groups = _merged(_value_groups(values, start, stop, share, shares))
        again = groups["train"] - 1
        repeats.take(groups, again > 0, int(again.sum()))
    return repeats.count, repeats.pairs


def _value_groups(
    values: Spool, start: int, stop: int, share: int, shares: int
) -> Iterator[Groups]:
    done = start
    for chunk in values.chunks(start, stop):
        own = np.flatnonzero((chunk & (shares - 1)) == share)
        keys = np.stack([chunk[own], np.zeros_like(chunk[own])], axis=1)
        yield _groups(keys, done + own, 0, 0)
        done += len(chunk)


class _FirstPairs:
    """Counts rows of one kind and keeps the pairs of the first groups that have such rows."""

    def __init__(self, row: str, earlier: str) -> None:
        self.count = 0
        self._names = (row, earlier)
        self._pairs: list[tuple[int, Pair]] = []

    def take(self, groups: Groups, kind: Column, count: int) -> None:
        """Add ``count`` rows of another share of the hashes, in the groups that ``kind`` masks."""
        self.count += count
        places = np.flatnonzero(kind)
        places = places[np.argsort(groups["first"][places])[:EXAMPLES]]
        row, earlier = (groups[name][places].tolist() for name in self._names)
        first = groups["first"][places].tolist()
        self._pairs += zip(first, zip(row, earlier, strict=True), strict=True)
        self._pairs = sorted(self._pairs)[:EXAMPLES]

    @property
    def pairs(self) -> list[Pair]:
        """The pairs, in the order of their groups' first rows."""
        return [pair for _, pair in self._pairs]


def _shares(rows: int) -> int:
    """How many shares the hashes are divided into, a power of two."""
    return 1 << max(0, (rows - 1) // AT_ONCE).bit_length()


def _of_share(hashes: Spool, share: int, shares: int) -> Iterator[tuple[Column, Column]]:
    """The positions (N,) and hashes (N, 2) of one share, in chunks."""
    done = 0
    for chunk in hashes.chunks():
        own = np.flatnonzero((chunk[:, 0] & (shares - 1)) == share)
        yield done + own, chunk[own]
        done += len(chunk)


def _marked_of_share(
    hashes: Spool, labels: Spool, keep: Column, share: int, shares: int
) -> Iterator[tuple[Column, Column, Column]]:
    """As ``_of_share``, for the rows that ``keep`` marks, with their labels (N,)."""
    done = 0
    for chunk, label in zip(hashes.chunks(), labels.chunks(), strict=True):
        marked = keep[done : done + len(chunk)] & ((chunk[:, 0] & (shares - 1)) == share)
        own = np.flatnonzero(marked)
        yield done + own, chunk[own], label[own]
        done += len(chunk)


def _groups(hashes: Column, positions: Column, side: Column | int, label: Column | int) -> Groups:
    """Groups of one row each; ``side`` is 1 for rows of validation."""
    count = len(positions)
    held = np.broadcast_to(np.asarray(side, np.int32), count)
    at, none = positions.astype(np.int32), np.full(count, NONE, np.int32)
    return {
        "high": hashes[:, 0],
        "low": hashes[:, 1],
        "train": 1 - held,
        "held": held,
        "first": at,
        "label": np.broadcast_to(label, count),
        "other": none,
        "train_1": np.where(held, none, at),
        "train_2": none,
        "held_1": np.where(held, at, none),
    }


def _merged(rows: Iterable[Groups]) -> Groups:
    """Merge the groups with equal content, each time that many have been read."""
    pending = [_groups(np.empty((0, 2), np.int64), np.empty(0, np.int32), 0, 0)]
    size = 0
    for groups in rows:
        pending.append(groups)
        size += len(groups["first"])
        if size >= 2 * AT_ONCE:
            pending = [_merge(pending)]
            size = len(pending[0]["first"])
    return _merge(pending)


def _merge(parts: list[Groups]) -> Groups:
    """Merge the groups with equal content; the earlier rows must be in the earlier parts."""
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if not len(whole["first"]):
        return whole
    order = np.lexsort((whole["low"], whole["high"]))  # stable: the first row stays first
    whole = {name: column[order] for name, column in whole.items()}
    new = np.ones(len(order), bool)
    new[1:] = (whole["high"][1:] != whole["high"][:-1]) | (whole["low"][1:] != whole["low"][:-1])
    starts, group = np.flatnonzero(new), np.cumsum(new) - 1
    merged = {name: whole[name][starts] for name in ("high", "low", "first", "label")}
    merged |= {name: np.add.reduceat(whole[name], starts) for name in ("train", "held")}
    merged |= {name: np.minimum.reduceat(whole[name], starts) for name in ("train_1", "held_1")}
    is_first = whole["train_1"] == merged["train_1"][group]
    second = np.where(is_first, whole["train_2"], whole["train_1"])
    other = np.where(whole["label"] != merged["label"][group], whole["first"], whole["other"])
    merged["train_2"] = np.minimum.reduceat(second, starts)
    merged["other"] = np.minimum.reduceat(other, starts)
    return merged


def _hashes(groups: Groups) -> Column:
    return np.stack([groups["high"], groups["low"]], axis=1)


def _among(hashes: Column, keys: Column) -> Column:
    """Which of the hashes, (N, 2), are among the keys, (K, 2) in ascending order: bool (N,)."""
    start, stop = (np.searchsorted(keys[:, 0], hashes[:, 0], side) for side in _SIDES)
    among = np.zeros(len(hashes), bool)
    for step in range(int((stop - start).max(initial=0))):  # once, unless keys share their `high`
        inside = np.flatnonzero(start + step < stop)
        among[inside] |= keys[start[inside] + step, 1] == hashes[inside, 1]
    return among
