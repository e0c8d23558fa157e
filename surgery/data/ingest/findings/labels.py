"""What the values of the labels may have been meant to be."""

from __future__ import annotations

import re

from surgery.data.files.source import shown
from surgery.data.ingest.columns.shapes import is_written_list
from surgery.data.ingest.findings.entities import entity_findings
from surgery.data.ingest.findings.finding import finding, quoted
from surgery.data.ingest.findings.labelled import is_number, places_of, whole_counts
from surgery.data.ingest.findings.marks import mark_findings, marks_among_scores
from surgery.data.ingest.label_sets import likely_separator, separator_advice
from surgery.data.ingest.labels import is_written_number, likeness
from surgery.data.ingest.survey import Survey
from surgery.schemas.data.dataset import DatasetReport, Finding
from surgery.schemas.enums import Problem

MANY_NUMBERS = 20  # more different whole numbers than this are seldom classes
_FREQUENT = 1.5  # a class with more rows than this many times the other's is frequent
_DECIMAL_COMMA = re.compile(r",(\d{1,2}|\d{4,})\s*%?$")


def label_findings(report: DatasetReport, survey: Survey) -> list[Finding]:
    """Findings about the values of the labels."""
    if report.problem is Problem.REGRESSION:
        return marks_among_scores(survey)
    if report.problem is Problem.MULTIPLE_CHOICE:
        return _first_choice(report)
    found = _similar(report) + _written_lists(report)
    if survey.labels.given is None:
        found += mark_findings(report, survey)
    if report.problem is Problem.TOKEN_CLASSIFICATION:
        return found + entity_findings(report, survey)
    if report.problem is Problem.MULTI_LABEL:
        return found + set_findings(report)
    if survey.labels.given is None:
        found += _separated(report)
    if survey.labels.given is None and survey.labels.problem is None:
        found += _numbers(report, survey)
    return found + _f1(report)


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
        "the labels are lists written as text, and each list is a class of its own; if rows have "
        "several labels, send lists (JSON Lines, Parquet) or texts with a label_separator: "
        f"{quoted(report.labels)}"
    )
    return [finding("lists_as_labels", detail, len(report.labels), [])]


def _separated(report: DatasetReport) -> list[Finding]:
    """A finding if classes seem to be several labels each, which recur in other classes."""
    mark = likely_separator(report.labels)
    if mark is None:
        return []
    joined = [name for name in report.labels if mark in name]
    detail = f"{separator_advice(mark)}: {quoted(joined)}"
    return [finding("separated_labels", detail, len(joined), [])]


def set_findings(report: DatasetReport) -> list[Finding]:
    """Findings about how many labels rows have."""
    assert report.label_sets is not None
    assert report.label_counts is not None
    found, rows = [], report.rows["train"]
    empty = report.label_sets.unlabelled["train"]
    if empty:
        detail = (
            f"rows of train without any label, from which the model learns to give none: {empty:,}"
        )
        found.append(finding("rows_without_labels", detail, empty, []))
    if not report.label_sets.pairs:
        detail = (
            "no row of train has two labels; if every row has one at most, problem classification "
            "learns to choose it"
        )
        found.append(finding("one_label_a_row", detail, rows, []))
    always = [name for name, count in report.label_counts["train"].items() if count == rows]
    if always:
        detail = f"labels of every row of train, of which nothing can be learned: {quoted(always)}"
        found.append(finding("constant_label", detail, len(always), []))
    return found


def _numbers(report: DatasetReport, survey: Survey) -> list[Finding]:
    """A finding if the classes may be numbers to predict."""
    words = [name for name in report.labels if not is_number(name)]
    if words and all(map(is_written_number, words)):
        comma = any(map(_DECIMAL_COMMA.search, words))
        kind = "a decimal comma" if comma else "separators or other signs"
        detail = (
            f"labels look like numbers with {kind}, and each is a class of its own; to predict "
            f"numbers, write them as in 1200.5: {quoted(words)}"
        )
        return [finding("numbers_as_words", detail, len(words), places_of(survey, set(words)))]
    if not words and len(report.labels) > MANY_NUMBERS:
        count = len(report.labels)
        detail = (
            f"{count:,} different whole numbers, and each is a class of its own; if they are "
            "amounts or grades, name problem regression, and if not, classification"
        )
        return [finding("many_numbers", detail, count, [])]
    return []


def _f1(report: DatasetReport) -> list[Finding]:
    """A finding if f1 is measured for a class that most rows have, where it says little."""
    if len(report.labels) != 2 or report.label_counts is None:
        return []
    other, measured = report.labels
    train = report.label_counts["train"]
    if train[measured] <= _FREQUENT * train[other]:
        return []
    rows = train[measured] + train[other]
    # Numbers are indices, and naming them in another order would not change that.
    order = "" if is_number(measured) else f", or name {shown(other)!r} last in labels"
    detail = (
        f"f1 is of the second label, {shown(measured)!r}, which has {train[measured]:,} of "
        f"{rows:,} rows of train, so a model that never predicts {shown(other)!r} has a high f1; "
        f"use macro_f1{order}"
    )
    return [finding("f1_of_frequent_class", detail, train[measured], [])]


def _first_choice(report: DatasetReport) -> list[Finding]:
    counts = whole_counts(report)
    if counts["0"] or sum(counts.values()) < 5 * len(counts):
        return []
    detail = (
        "in no row the right choice is the first, with index 0: if the indices in the file count "
        "from 1, subtract 1"
    )
    return [finding("first_choice_never_right", detail, sum(counts.values()), [])]
