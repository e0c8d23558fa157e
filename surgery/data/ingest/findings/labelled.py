"""Which rows have a label, and how many."""

from __future__ import annotations

import math
from collections.abc import Iterator

from surgery.data.ingest.survey import Survey
from surgery.schemas.data.dataset import DatasetReport, Place
from surgery.schemas.enums import Problem

SEVERAL = {Problem.MULTI_LABEL, Problem.TOKEN_CLASSIFICATION}  # a row may have several labels


def whole_counts(report: DatasetReport) -> dict[str, int]:
    """How many rows (or words) of both splits together have each label."""
    assert report.label_counts is not None
    train, validation = report.label_counts["train"], report.label_counts["validation"]
    return {name: count + validation[name] for name, count in train.items()}


def is_number(name: str) -> bool:
    """Whether a label is written as a finite number."""
    try:
        return math.isfinite(float(name))
    except ValueError:
        return False


def places_of(survey: Survey, names: set[str]) -> Iterator[Place]:
    """The rows with some labels; where a row has several, only the first row with each."""
    labels = survey.labels
    codes = {code for name, code in labels.seen.items() if name in names}
    if labels.problem in SEVERAL:
        first = {place: None for (_, code), place in labels.first.items() if code in codes}
        yield from (Place(file=file, row=row) for file, row in first)
        return
    positions = (place for place, code in enumerate(labels.codes) if code in codes)
    yield from map(survey.places.at, positions)


def first_of(survey: Survey, mask: bytes | bytearray, name: str, split: str) -> Place | None:
    """The first row of a class in a split; where a row has several, of that split's file."""
    labels = survey.labels
    code = labels.seen[name]
    if labels.problem in SEVERAL:
        place = labels.first.get((split, code))
        return place and Place(file=place[0], row=place[1])
    side = split == "validation"
    rows = zip(labels.codes, mask, strict=True)
    position = next((p for p, row in enumerate(rows) if row == (code, side)), None)
    return None if position is None else survey.places.at(position)
