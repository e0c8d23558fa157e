"""Rows with any number of labels: read their cells, and number the labels once all are read."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from surgery.data.files.source import Row, shown
from surgery.data.ingest.labels import (
    MAX_CLASSES,
    OWN_LABEL_ROWS,
    LabelColumn,
    LabelError,
    Labelling,
    order_of_name,
)
from surgery.data.ingest.spool import Spool
from surgery.data.rows import CellError, kind_of
from surgery.errors import Fault
from surgery.schemas.data.dataset import PAIRS, LabelPair, LabelSets
from surgery.schemas.enums import Problem

SEPARATORS = (";", "|", ",")  # those that a message suggests
_ONE = {"1", "1.0", "true"}
_ZERO = {"0", "0.0", "false"}


def labels_in(cell: object, column: str, separator: str | None) -> list[object]:
    """The labels in a cell: a list of them, or a text that ``separator`` divides.

    Raises CellError for a text without a separator, and for a cell that is neither.
    """
    if isinstance(cell, str) and separator is not None:
        return _divided(cell, column, separator)
    if isinstance(cell, list) and separator is None:
        return cell
    if isinstance(cell, list):
        raise CellError(
            "is a list of labels, which has no separator; leave label_separator out", column
        )
    if isinstance(cell, str):
        obvious = next((mark for mark in SEPARATORS if mark in cell), ";")
        raise CellError(
            f"is a text; if it has the labels of the row, say in label_separator what is between "
            f'them, as in {{"label_separator": "{obvious}"}}',
            column,
        )
    advice = "a row without labels has an empty " + ("list" if separator is None else "text")
    raise CellError(
        f"is {kind_of(cell)}; the labels of a row are a list of them, or a text, and {advice}",
        column,
    )


def likely_separator(names: Collection[str]) -> str | None:
    """What seems to stand between labels in these names, since the parts recur in other names."""
    for mark in SEPARATORS:
        joined = sum(mark in name for name in names)
        parts = {part.strip() for name in names for part in name.split(mark)}
        if joined > 1 and "" not in parts and len(parts) < len(names):
            return mark
    return None


def separator_advice(mark: str) -> str:
    """What to do where labels have a separator that the request does not name."""
    return (
        f"labels look like several labels with {mark!r} between them, and each combination is a "
        f'class of its own; if rows have several labels, give label_separator "{mark}" (problem '
        "multi_label)"
    )


def _divided(cell: str, column: str, separator: str) -> list[object]:
    if not cell.strip():
        return []
    if separator.isspace():
        return list(cell.split())
    parts = [part.strip() for part in cell.split(separator)]
    if not all(parts):
        place = parts.index("")
        raise CellError(
            f"has nothing at label {place} (counted from 0): there is a separator too many", column
        )
    return list(parts)


def labels_marked(values: Row, columns: Sequence[str]) -> list[object]:
    """The numbers of the columns with a one. Raises CellError for what is neither one nor zero."""
    return [place for place, name in enumerate(columns) if _is_marked(values.get(name), name)]


def _is_marked(value: object, column: str) -> bool:
    written = str(value).strip().lower() if isinstance(value, str | int | float) else None
    if written in _ONE:
        return True
    if written in _ZERO:
        return False
    kind = repr(shown(written)) if written else "empty" if written == "" else kind_of(value)
    hint = "; -1 marks a hidden label: use rows that have labels" if written == "-1" else ""
    raise CellError(f"is {kind}; a column of a label has 1 where a row has it, and 0{hint}", column)


class SetCounts:
    """How often labels go together in the rows of a split; ``together`` (C, C) counts the pairs."""

    def __init__(self, labels: int) -> None:
        self.together = np.zeros((labels, labels), dtype=np.int64)
        self.rows = self.unlabelled = 0

    def add(self, numbers: Sequence[int]) -> None:
        """Count a row with these labels."""
        self.rows += 1
        self.unlabelled += not numbers
        if numbers:
            self.together[np.ix_(numbers, numbers)] += 1

    @property
    def cardinality(self) -> float:
        """The mean number of labels a row."""
        return float(np.trace(self.together)) / max(1, self.rows)

    def pairs(self, names: Sequence[str]) -> list[LabelPair]:
        """The most frequent pairs, in the order of the names where counts are equal."""
        first, second = np.triu_indices(len(names), 1)
        counts = self.together[first, second]
        order = np.argsort(-counts, kind="stable")[:PAIRS]
        return [
            LabelPair(labels=(names[first[place]], names[second[place]]), count=int(counts[place]))
            for place in order.tolist()
            if counts[place]
        ]


def label_sets(
    counts: Mapping[str, SetCounts], names: Sequence[str], separator: str | None
) -> LabelSets:
    """What the report says of the labels of ``train`` and ``validation``."""
    return LabelSets(
        separator=separator,
        cardinality={split: round(own.cardinality, 4) for split, own in counts.items()},
        unlabelled={split: own.unlabelled for split, own in counts.items()},
        pairs=counts["train"].pairs(names),
    )


@dataclass
class LabelSetColumn(LabelColumn):
    """The labels of every row of both splits; ``codes`` hold an 8-byte hash of each row's labels.

    ``members`` are the numbers of all rows' labels, one row after the other, and ``sizes`` says how
    many each row has. ``rows_with`` counts the rows of each label.
    """

    codes: Spool = field(default_factory=lambda: Spool("q"))
    members: Spool = field(default_factory=lambda: Spool("i"))
    sizes: Spool = field(default_factory=lambda: Spool("i"))
    rows_with: Counter[int] = field(default_factory=Counter)
    earliest: dict[int, int] = field(default_factory=dict)
    """Label → the position of the first row that has it."""

    def add(self, value: object, split: str, file: str, row: int) -> None:
        """Add the labels of a row. Raises LabelError if one is none, or occurs twice."""
        assert isinstance(value, list)
        own: list[int] = []
        for place, label in enumerate(value):
            try:
                code = self._take(label, split, file, row)[0]
            except LabelError as bad:
                raise LabelError(f"at place {place} (counted from 0) {bad}") from None
            if code >= 0 and code in own:
                raise LabelError(
                    f"at place {place} (counted from 0) is {shown(str(label))!r} again; give each "
                    "label of a row once, by its name or number and not as zeros and ones"
                )
            own.append(code)
        for code in own:
            self.earliest.setdefault(code, len(self.sizes))
            self.members.append(code)
        self.rows_with.update(own)
        self.train_rows += split == "train"
        self.sizes.append(len(own))
        self.codes.append(hash(tuple(sorted(own))))

    def rarest(self) -> array[int]:
        """For each row the label that fewest rows have, −1 for a row without labels."""
        members, found = iter(self.members), array("i")
        for size in self.sizes:
            own = islice(members, size)
            found.append(min(own, key=lambda code: (self.rows_with[code], code), default=-1))
        return found

    def settle(self) -> Labelling:
        """The labelling, in the order of the names unless they were given."""
        if self.given is not None:
            return self.given
        return Labelling(Problem.MULTI_LABEL, tuple(sorted(self.seen, key=order_of_name)))

    def faults(self, labelling: Labelling, column: str) -> list[Fault]:
        """The faults of the labels as a whole."""
        if len(self.seen) > MAX_CLASSES:
            return [
                Fault(f"more than {MAX_CLASSES:,} labels; is it the label column?", column=column)
            ]
        trained = {code for split, code in self.first if split == "train"}
        if not trained:
            return [Fault("no row of train has a label; nothing can be learned", column=column)]
        if len(labelling.names) < 2:
            only = shown(labelling.names[0])
            detail = f"there is only the label {only!r}; two are needed, or problem classification"
            return [Fault(detail, column=column)]
        once = sum(self.rows_with.values()) == len(self.rows_with) >= OWN_LABEL_ROWS
        if once and self.given is None:
            detail = f"{len(trained):,} labels, each in one row: is this the column of the labels?"
            return [Fault(detail, column=column)]
        return self.untrained(trained, column)
