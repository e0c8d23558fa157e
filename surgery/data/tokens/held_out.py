"""Set a part of the train rows aside, to judge choices by it while validation stays unread."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from datasets import Dataset
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from surgery.data.tokens.dataset import TaskData
from surgery.errors import DatasetInvalid
from surgery.schemas.enums import Problem

Rows = list[int]
Numbers = np.ndarray[Any, np.dtype[np.int64]]
CONTENT = ("text", "text_pair", "choices", "tokens")


def held_out_rows(data: TaskData, share: float, seed: int) -> tuple[Rows, Rows]:
    """The train rows to fit on, and the ``share`` of them that is set aside to judge by, in order.

    Rows that would tell about each other stay on one side: rows with the same ``group``, rows with
    equal content (but for case and spaces), and pairs or choices with the same first text, such as
    the questions about one passage. A first text of more than half of ``share`` of the rows, as of
    a prompt that all rows begin with, holds no rows together. In classification and multiple choice
    each label has the same ``share``, to the row if no rows stay together. Where a row may have
    several labels, so have the rows of each rarest label (the order in which Sechidis et al., "On
    the stratification of multi-label data", ECML PKDD 2011, distribute labels).

    Depends on the rows, ``share`` and ``seed`` only. Raises DatasetInvalid if one of the two sides
    would be empty.
    """
    units = _units(data.train, share)
    strata = _strata(data)
    source = np.random.default_rng(seed)
    missing = _apportioned(np.bincount(strata), share, source)  # still to be set aside
    order = np.argsort(units, kind="stable")
    members = np.split(order, np.unique(units[order], return_index=True)[1][1:])
    judged: Rows = []
    for place in source.permutation(len(members)).tolist():
        own = np.bincount(strata[members[place]], minlength=len(missing))
        if (own * (2 * missing - own)).sum() > 0:  # it brings all labels together nearer to zero
            missing = missing - own
            judged += members[place].tolist()
    fit = sorted(set(range(len(strata))).difference(judged))
    if not fit or not judged:
        raise DatasetInvalid(
            f"{share:.0%} of the {len(strata):,} train rows cannot be set aside to judge by: "
            f"equal rows and rows of one question stay together, which leaves {len(members):,} "
            "parts; give more rows, or another share"
        )
    return fit, sorted(judged)


def judged_on_train(data: TaskData, share: float, seed: int) -> TaskData:
    """The dataset with the rows to fit on as ``train`` and those set aside as ``validation``.

    See `held_out_rows`. Nothing of the real validation rows is left in it, nor ``also``.
    """
    fit, judged = held_out_rows(data, share, seed)
    return replace(
        data,
        train=data.train.select(fit),
        validation=data.train.select(judged),
        fingerprint=None,
        also=(),
    )


def _apportioned(counts: Numbers, share: float, source: np.random.Generator) -> Numbers:
    """Rows to set aside of each label, (C,): ``share`` of all, by the largest remainders."""
    exact = counts * share
    given: Numbers = np.floor(exact).astype(np.int64)
    by_remainder = np.lexsort((source.permutation(len(counts)), given - exact))
    given[by_remainder[: max(1, round(counts.sum() * share)) - given.sum()]] += 1
    return given


def _units(table: Dataset, share: float) -> Numbers:
    """For each row the number of its unit, (N,): rows of a unit stay on one side."""
    names = [name for name in CONTENT if name in table.column_names]
    columns = [[_plain(cell) for cell in table[name]] for name in names]
    links = [_numbered(zip(*columns, strict=True))]
    if "group" in table.column_names:
        links.append(_numbered(table["group"]))
    if "text" in names and len(names) > 1:
        links.append(_passages(columns[names.index("text")], share))
    rows = len(table)
    # Rows and what they share are the vertices of a graph; a unit is one of its components.
    starts = np.cumsum([rows, *(link.max(initial=-1) + 1 for link in links)])[:-1]
    ends = np.concatenate([link + start for link, start in zip(links, starts, strict=True)])
    own = np.tile(np.arange(rows), len(links))
    size = int(ends.max(initial=-1)) + 1
    graph = coo_array((np.ones(len(own), dtype=bool), (own, ends)), shape=(size, size))
    components: Numbers = connected_components(graph, directed=False)[1]
    return components[:rows]


def _passages(texts: Sequence[Hashable], share: float) -> Numbers:
    """Equal numbers for rows with the same text, unless too many rows have it."""
    numbers = _numbered(texts)
    common = (np.bincount(numbers) > max(1, share / 2 * len(numbers)))[numbers]
    return np.where(common, numbers.max(initial=0) + 1 + np.arange(len(numbers)), numbers)


def _numbered(keys: Iterable[Hashable]) -> Numbers:
    """A number for each distinct key, in the order of their first rows."""
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(key, len(known)) for key in keys], dtype=np.int64)


def _plain(cell: str | list[str]) -> Hashable:
    """A text without differences of case and spaces; a list of texts as a tuple of such."""
    if isinstance(cell, list):
        return tuple(map(_plain, cell))
    return " ".join(cell.split()).casefold()


def _strata(data: TaskData) -> Numbers:
    """The label of each row, (N,); zeros where a label is a number or one for each word.

    Of several labels the one that fewest rows have counts; C for a row without labels.
    """
    if data.problem is Problem.MULTI_LABEL:
        marks = np.asarray(data.train["label"][:], dtype=np.int64).reshape(len(data.train), -1)
        rows_with = np.where(marks == 1, marks.sum(0), len(marks) + 1)
        return np.where(marks.any(1), rows_with.argmin(1), marks.shape[1])
    if data.problem not in {Problem.CLASSIFICATION, Problem.MULTIPLE_CHOICE}:
        return np.zeros(len(data.train), dtype=np.int64)
    return np.asarray(data.train["label"], dtype=np.int64)
