"""Rows that occur more than once: how many, and which are the first.

Rows are grouped by a hash of their content, a share of the hashes at a time, and equal ones are
folded into one entry as they come: memory does not grow with the rows, nor with how often one
repeats.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from surgery.data.ingest.spool import Spool
from surgery.schemas.dataset import EXAMPLES, Duplicates

AT_ONCE = 1 << 18  # rows of a share of the hashes, about
NONE = np.iinfo(np.int32).max  # no such row
HASH_BYTES = 16
_SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")

Pair = tuple[int, int]
"""The position of a row, and of the earlier one that it is like."""

Column = np.ndarray[Any, Any]
Groups = dict[str, Column]
"""Rows of one content, or what is known of them together, in the order of their first rows.

``high`` and ``low`` are the content's hash; ``train`` and ``held`` count rows; ``first`` is a
position and ``label`` that row's; ``other`` is the first row of another label; ``train_1``,
``train_2`` and ``held_1`` are the first rows of train and of validation.
"""


@dataclass(frozen=True)
class Repeats:
    """How many rows have the same content, and the first of each kind, in the order of the rows."""

    counts: Duplicates
    within_train: list[Pair]
    across: list[Pair]
    conflicting: list[Pair]


def repeated_rows(hashes: Spool) -> bytearray:
    """One byte a row: 1 where another row has the same content."""
    mask = bytearray(len(hashes))
    marks = np.frombuffer(mask, np.uint8)
    shares = _shares(len(hashes))
    for share in range(shares):
        rows = (_groups(own, at, 0, 0) for at, own in _of_share(hashes, share, shares))
        found = _folded(rows)
        keys = _hashes(found)[found["train"] > 1]
        for at, own in _of_share(hashes, share, shares):
            marks[at[_among(own, keys)]] = 1
    return mask


def find_repeats(
    hashes: Spool, repeated: bytearray, validation: bytes | bytearray, labels: Spool
) -> Repeats:
    """Count equal contents among the ``repeated`` rows, as `repeated_rows` gives them.

    ``validation`` has one byte a row, 1 for the rows of validation.
    """
    side, keep = (np.frombuffer(mask, np.uint8) for mask in (validation, repeated))
    shares = _shares(int(np.count_nonzero(keep)))
    within, across, conflict = (
        _First("train_2", "train_1"),
        _First("held_1", "train_1"),
        _First("other", "first"),
    )
    for share in range(shares):
        rows = (
            _groups(own, at, side[at], label)
            for at, own, label in _kept(hashes, labels, keep, share, shares)
        )
        found = _folded(rows)
        trained, held = found["train"], found["held"]
        within.take(found, trained > 1, int(np.maximum(trained - 1, 0).sum()))
        both = (trained > 0) & (held > 0)
        across.take(found, both, int(held[both].sum()))
        contradicted = found["other"] < NONE
        conflict.take(found, contradicted, int(contradicted.sum()))
    return Repeats(
        Duplicates(
            within_train=within.count,
            train_and_validation=across.count,
            conflicting_labels=conflict.count,
        ),
        within.pairs,
        across.pairs,
        conflict.pairs,
    )


def repeated_values(
    values: Spool, start: int = 0, stop: int | None = None
) -> tuple[int, list[Pair]]:
    """How many rows repeat an earlier row's value, and the first that do, counted from 0."""
    stop = len(values) if stop is None else stop
    found = _First("train_2", "train_1")
    shares = _shares(stop - start)
    for share in range(shares):
        groups = _folded(_value_groups(values, start, stop, share, shares))
        again = groups["train"] - 1
        found.take(groups, again > 0, int(again.sum()))
    return found.count, found.pairs


def _value_groups(
    values: Spool, start: int, stop: int, share: int, shares: int
) -> Iterator[Groups]:
    done = start
    for chunk in values.chunks(start, stop):
        own = np.flatnonzero((chunk & (shares - 1)) == share)
        keys = np.stack([chunk[own], np.zeros_like(chunk[own])], axis=1)
        yield _groups(keys, done + own, 0, 0)
        done += len(chunk)


class _First:
    """A count, and the pairs of the first groups of one kind."""

    def __init__(self, row: str, earlier: str) -> None:
        self.count = 0
        self._names = (row, earlier)
        self._found: list[tuple[int, Pair]] = []

    def take(self, groups: Groups, kind: Column, count: int) -> None:
        """The groups of another share of the hashes."""
        self.count += count
        places = np.flatnonzero(kind)
        places = places[np.argsort(groups["first"][places])[:EXAMPLES]]
        row, earlier = (groups[name][places].tolist() for name in self._names)
        first = groups["first"][places].tolist()
        self._found += zip(first, zip(row, earlier, strict=True), strict=True)
        self._found = sorted(self._found)[:EXAMPLES]

    @property
    def pairs(self) -> list[Pair]:
        """In the order of the groups' first rows."""
        return [pair for _, pair in self._found]


def _shares(rows: int) -> int:
    """Into how many the hashes are divided, a power of two."""
    return 1 << max(0, (rows - 1) // AT_ONCE).bit_length()


def _of_share(hashes: Spool, share: int, shares: int) -> Iterator[tuple[Column, Column]]:
    """Positions and hashes of one share, (N,) and (N, 2), a chunk at a time."""
    done = 0
    for chunk in hashes.chunks():
        own = np.flatnonzero((chunk[:, 0] & (shares - 1)) == share)
        yield done + own, chunk[own]
        done += len(chunk)


def _kept(
    hashes: Spool, labels: Spool, keep: Column, share: int, shares: int
) -> Iterator[tuple[Column, Column, Column]]:
    """As ``_of_share``, of the rows to keep, with their labels."""
    done = 0
    for chunk, label in zip(hashes.chunks(), labels.chunks(), strict=True):
        wanted = keep[done : done + len(chunk)] & ((chunk[:, 0] & (shares - 1)) == share)
        own = np.flatnonzero(wanted)
        yield done + own, chunk[own], label[own]
        done += len(chunk)


def _groups(hashes: Column, positions: Column, side: Column | int, label: Column | int) -> Groups:
    """Each row as a group of its own."""
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


def _folded(rows: Iterable[Groups]) -> Groups:
    """All groups of some rows, those of one content folded whenever many have come."""
    pending = [_groups(np.empty((0, 2), np.int64), np.empty(0, np.int32), 0, 0)]
    size = 0
    for found in rows:
        pending.append(found)
        size += len(found["first"])
        if size >= 2 * AT_ONCE:
            pending = [_fold(pending)]
            size = len(pending[0]["first"])
    return _fold(pending)


def _fold(parts: list[Groups]) -> Groups:
    """Groups of one content made one; earlier rows come in earlier parts."""
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if not len(whole["first"]):
        return whole
    order = np.lexsort((whole["low"], whole["high"]))  # stable: the first row stays first
    whole = {name: column[order] for name, column in whole.items()}
    new = np.ones(len(order), bool)
    new[1:] = (whole["high"][1:] != whole["high"][:-1]) | (whole["low"][1:] != whole["low"][:-1])
    starts, group = np.flatnonzero(new), np.cumsum(new) - 1
    found = {name: whole[name][starts] for name in ("high", "low", "first", "label")}
    found |= {name: np.add.reduceat(whole[name], starts) for name in ("train", "held")}
    found |= {name: np.minimum.reduceat(whole[name], starts) for name in ("train_1", "held_1")}
    second = np.where(
        whole["train_1"] == found["train_1"][group], whole["train_2"], whole["train_1"]
    )
    other = np.where(whole["label"] != found["label"][group], whole["first"], whole["other"])
    found["train_2"] = np.minimum.reduceat(second, starts)
    found["other"] = np.minimum.reduceat(other, starts)
    return found


def _hashes(groups: Groups) -> Column:
    return np.stack([groups["high"], groups["low"]], axis=1)


def _among(hashes: Column, keys: Column) -> Column:
    """Which of the hashes, (N, 2), are among the keys, (K, 2) in ascending order: bool (N,)."""
    start, stop = (np.searchsorted(keys[:, 0], hashes[:, 0], side) for side in _SIDES)
    found = np.zeros(len(hashes), bool)
    for step in range(int((stop - start).max(initial=0))):  # once, but for keys alike by half
        inside = np.flatnonzero(start + step < stop)
        found[inside] |= keys[start[inside] + step, 1] == hashes[inside, 1]
    return found
