"""Labels that commonly mark a missing one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from surgery.data.ingest.findings.finding import finding, quoted
from surgery.data.ingest.findings.labelled import is_number, places_of, whole_counts
from surgery.data.ingest.survey import Survey
from surgery.schemas.data.dataset import DatasetReport, Finding
from surgery.schemas.enums import Problem

# Values that commonly mark a missing label: words, tags, negative and positive numbers.
_WORD_MARKS = {
    "-",
    "--",
    "–",
    "—",
    "?",
    "n/a",
    "#n/a",
    "na",
    "<na>",
    "nil",
    "null",
    "(null)",
    "<null>",
    "none",
    "\\n",
    "missing",
    "undefined",
    "unlabeled",
    "unlabelled",
    "unannotated",
    "no label",
}
_TAG_MARKS = {"-", "_", "n/a", "null", "none", "\\n", "pad", "[pad]", "<pad>", "ignore"}
_NEGATIVE_MARKS = {-1.0, -9.0, -99.0, -100.0, -999.0, -9999.0}
_POSITIVE_MARKS = {99.0, 255.0, 999.0, 9999.0}


def mark_findings(report: DatasetReport, survey: Survey) -> list[Finding]:
    """A finding if some labels commonly mark a missing one."""
    counts = whole_counts(report)
    tagged = report.problem is Problem.TOKEN_CLASSIFICATION
    numbers = {float(name): count for name, count in counts.items() if is_number(name)}
    values = _number_marks(numbers)
    known = _TAG_MARKS if tagged else _WORD_MARKS
    marks = [
        name
        for name in counts
        if (is_number(name) and float(name) in values)
        or (name.lower() in known and not (name == "-" and "+" in counts))
    ]
    if not marks or len(marks) == len(counts):
        return []
    count = sum(counts[name] for name in marks)
    noun = "words" if tagged else "rows"
    detail = (
        f"{quoted(marks)} commonly marks a missing label, and is read as a class like any other; "
        f"if it marks one, leave these {noun} out: {count:,}"
    )
    return [finding("missing_label_marks", detail, count, places_of(survey, set(marks)))]


def _number_marks(counts: Mapping[float, int]) -> set[float]:
    """The numbers that are probably marks and not classes, from how often each number occurs."""
    below = {value for value in counts if value < 0}
    others = sorted(value for value in counts if value >= 0)
    if below and below <= _NEGATIVE_MARKS and others and others[-1] >= 1:
        # -1, 0, 1 are often three classes, and -1, 1 two.
        rare = 0.0 in counts and 3 * max(counts[m] for m in below) < min(counts[o] for o in others)
        return below if below != {-1.0} or others[-1] >= 2 or rare else set()
    if len(others) > 2 and others[-1] in _POSITIVE_MARKS and 5 * others[-2] < others[-1]:
        return {others[-1]}
    return set()


def marks_among_scores(survey: Survey) -> list[Finding]:
    """A finding if the only negative number is one that commonly marks a missing label."""
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
        f"{mark:g} is the only negative label, and commonly marks a missing one; if it does, leave "
        f"these rows out: {count:,}"
    )
    values = enumerate(survey.labels.values)
    places = (survey.places.at(position) for position, value in values if value == mark)
    return [finding("missing_label_marks", detail, count, places)]
