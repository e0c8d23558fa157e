"""Findings about labels: values that are commonly meant otherwise than as a class of their own."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

from surgery.files import shown
from surgery.labels import is_written_number, likeness
from surgery.named_findings import finding, quoted
from surgery.schema import DatasetReport, Finding, Place
from surgery.shapes import is_written_list
from surgery.survey import Survey
from surgery.tasks import marks_entities
from surgery.terms import Problem

MANY_NUMBERS = 20  # more whole numbers than that are seldom classes
_FREQUENT = 1.5  # times the rows of the other class
_WORD_MARKS = {
    "-", "--", "–", "—", "?", "n/a", "#n/a", "na", "<na>", "nil", "null", "(null)", "<null>",
    "none", "\\n", "missing", "undefined", "unlabeled", "unlabelled", "unannotated", "no label",
}  # fmt: skip
_TAG_MARKS = {"-", "_", "n/a", "null", "none", "\\n", "pad", "[pad]", "<pad>", "ignore"}
_NEGATIVE_MARKS = {-1.0, -9.0, -99.0, -100.0, -999.0, -9999.0}
_POSITIVE_MARKS = {99.0, 255.0, 999.0, 9999.0}
_DECIMAL_COMMA = re.compile(r",(\d{1,2}|\d{4,})\s*%?$")
_ENTITY_TAG = re.compile(
    r"(?P<mark>[BIOESLUMW])[-_:./|].+|.+[-_:./|](?P<last>[BIESLUMW])", re.IGNORECASE
)


def label_findings(report: DatasetReport, survey: Survey) -> list[Finding]:
    """Those about the labels' values, whatever rows they are of."""
    if report.problem is Problem.REGRESSION:
        return _marks_among_scores(survey)
    if report.problem is Problem.MULTIPLE_CHOICE:
        return _first_choice(report)
    found = _similar(report) + _written_lists(report)
    if survey.labels.given is None:
        found += _marks(report, survey)
    if report.problem is Problem.TOKEN_CLASSIFICATION:
        return found + _entities(report, survey)
    if survey.labels.given is None and survey.labels.problem is None:
        found += _numbers(report, survey)
    return found + _f1(report)


def _whole_counts(report: DatasetReport) -> dict[str, int]:
    """Rows (words) of each label in both splits."""
    assert report.label_counts is not None
    train, validation = report.label_counts["train"], report.label_counts["validation"]
    return {name: count + validation[name] for name, count in train.items()}


def _marks(report: DatasetReport, survey: Survey) -> list[Finding]:
    counts = _whole_counts(report)
    tagged = report.problem is Problem.TOKEN_CLASSIFICATION
    numbers = {float(name): count for name, count in counts.items() if _is_number(name)}
    values = _number_marks(numbers)
    known = _TAG_MARKS if tagged else _WORD_MARKS
    marks = [
        name
        for name in counts
        if (_is_number(name) and float(name) in values)
        or (name.lower() in known and not (name == "-" and "+" in counts))
    ]
    if not marks or len(marks) == len(counts):
        return []
    count = sum(counts[name] for name in marks)
    noun = "words" if tagged else "rows"
    detail = (
        f"{quoted(marks)} is commonly the mark of a missing label, and is read as a class like any "
        f"other; leave these {noun} out if it is one: {count:,}"
    )
    return [finding("missing_label_marks", detail, count, _places(survey, set(marks)))]


def _is_number(name: str) -> bool:
    try:
        return math.isfinite(float(name))
    except ValueError:
        return False


def _number_marks(counts: Mapping[float, int]) -> set[float]:
    """The numbers, of those with their counts, that are hardly indices of classes."""
    below = {value for value in counts if value < 0}
    others = sorted(value for value in counts if value >= 0)
    if below and below <= _NEGATIVE_MARKS and others and others[-1] >= 1:
        # -1, 0, 1 are often three classes, and -1, 1 two.
        rare = 0.0 in counts and 3 * max(counts[m] for m in below) < min(counts[o] for o in others)
        return below if below != {-1.0} or others[-1] >= 2 or rare else set()
    if len(others) > 2 and others[-1] in _POSITIVE_MARKS and 5 * others[-2] < others[-1]:
        return {others[-1]}
    return set()


def _places(survey: Survey, names: set[str]) -> Iterator[Place]:
    """The rows of some labels; of tags only the first of each."""
    labels = survey.labels
    codes = {code for name, code in labels.seen.items() if name in names}
    if labels.problem is Problem.TOKEN_CLASSIFICATION:
        first = {place: None for (_, code), place in labels.first.items() if code in codes}
        yield from (Place(file=file, row=row) for file, row in first)
        return
    positions = (place for place, code in enumerate(labels.codes) if code in codes)
    yield from map(survey.places.at, positions)


def _marks_among_scores(survey: Survey) -> list[Finding]:
    """One negative number, a usual mark, beside numbers that are none."""
    marks, count, others = set(), 0, 0
    for chunk in survey.labels.values.chunks():
        below = chunk[chunk < 0]
        marks |= set(np.unique(below)[:10].tolist())
        count, others = count + len(below), others + len(chunk) - len(below)
        if len(marks) > 1:
            return []
    if not marks <= _NEGATIVE_MARKS or not count or count >= others:
        return []
    mark = marks.pop()
    detail = (
        f"{mark:g} is the only negative label, and commonly the mark of a missing one; leave these "
        f"rows out if it is: {count:,}"
    )
    values = enumerate(survey.labels.values)
    places = (survey.places.at(position) for position, value in values if value == mark)
    return [finding("missing_label_marks", detail, count, places)]


def _similar(report: DatasetReport) -> list[Finding]:
    groups: dict[str, list[str]] = {}
    for name in report.labels:
        groups.setdefault(likeness(name), []).append(name)
    groups.pop("", None)
    alike = [names for names in groups.values() if len(names) > 1]
    if not alike:
        return []
    shown_groups = "; ".join(quoted(names) for names in alike[:5])
    count = sum(map(len, alike))
    detail = f"labels that hardly differ, and each is a class of its own: {shown_groups}"
    return [finding("similar_labels", detail, count, [])]


def _written_lists(report: DatasetReport) -> list[Finding]:
    if not all(is_written_list(name) for name in report.labels):
        return []
    detail = (
        "the labels are lists written as text, and each list is a class of its own; several labels "
        f"a row cannot be learned: {quoted(report.labels)}"
    )
    return [finding("lists_as_labels", detail, len(report.labels), [])]


def _numbers(report: DatasetReport, survey: Survey) -> list[Finding]:
    """Classes that may well be numbers to predict."""
    words = [name for name in report.labels if not _is_number(name)]
    if words and all(map(is_written_number, words)):
        comma = any(map(_DECIMAL_COMMA.search, words))
        kind = "a decimal comma" if comma else "separators or other signs"
        detail = (
            f"labels look like numbers with {kind}, and each is a class of its own; to predict "
            f"numbers, write them as in 1200.5: {quoted(words)}"
        )
        return [finding("numbers_as_words", detail, len(words), _places(survey, set(words)))]
    if not words and len(report.labels) > MANY_NUMBERS:
        count = len(report.labels)
        detail = (
            f"{count:,} different whole numbers, and each is a class of its own; if they are "
            "amounts or grades, name problem regression, and if not, classification"
        )
        return [finding("many_numbers", detail, count, [])]
    return []


def _f1(report: DatasetReport) -> list[Finding]:
    """f1 tells little where it is of the class that nearly every row has."""
    if len(report.labels) != 2 or report.label_counts is None:
        return []
    other, measured = report.labels
    train = report.label_counts["train"]
    if train[measured] <= _FREQUENT * train[other]:
        return []
    rows = train[measured] + train[other]
    # Numbers are indices, which naming them in another order would not change.
    order = "" if _is_number(measured) else f", or name {shown(other)!r} last in labels"
    detail = (
        f"f1 is of the second label, {shown(measured)!r}, which has {train[measured]:,} of "
        f"{rows:,} rows of train, so a model that never says {shown(other)!r} has a high one; go "
        f"by macro_f1{order}"
    )
    return [finding("f1_of_frequent_class", detail, train[measured], [])]


def _first_choice(report: DatasetReport) -> list[Finding]:
    counts = _whole_counts(report)
    if counts["0"] or sum(counts.values()) < 5 * len(counts):
        return []
    detail = (
        "no row's right choice is the first, of index 0: if the indices in the file count from 1, "
        "subtract 1"
    )
    return [finding("first_choice_never_right", detail, sum(counts.values()), [])]


def _entities(report: DatasetReport, survey: Survey) -> list[Finding]:
    """Tags that seem to mark entities, in another way than entity_f1 counts."""
    if marks_entities(report.labels):
        return []
    if survey.labels.given is None and all(map(_is_number, report.labels)):
        detail = (
            "tags are numbers without names: name them in labels, in the order of the numbers; "
            "without names as O, B-… and I-… no entity_f1 is measured"
        )
        return [finding("unmeasured_entities", detail, len(report.labels), [])]
    marked = [name for name in report.labels if _ENTITY_TAG.fullmatch(name)]
    others = [name for name in report.labels if name != "O" and not marks_entities([name])]
    words = [name for name in report.labels if name not in {"O", "o", "0"}]
    if not _begins(marked) or 2 * len(marked) < len(words):
        return []
    advice = "write the tags as O, B-… and I-…"
    if others == ["0"]:
        advice = "write the letter O instead of the number"
    elif any(name[:2] in {"E-", "S-", "L-", "U-", "M-", "W-"} for name in others):
        advice = "write E-, L- and M- as I-, and S-, U- and W- as B-"
    detail = f"entity_f1 is not measured because of the tags {quoted(others)}; {advice}"
    return [finding("unmeasured_entities", detail, len(others), _places(survey, set(others)))]


def _begins(tags: list[str]) -> bool:
    """Whether some tag says that an entity begins or goes on."""
    found = (_ENTITY_TAG.fullmatch(tag) for tag in tags)
    marks = {(match["mark"] or match["last"]).upper() for match in found if match}
    return bool(marks & {"B", "I"})
