"""How the rows are shared out among the classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

from surgery.data.files.source import shown
from surgery.data.ingest.findings.finding import finding, quoted
from surgery.data.ingest.findings.labelled import first_of
from surgery.data.ingest.survey import Survey
from surgery.schemas.data.dataset import DatasetReport, Finding, FindingCode, Place
from surgery.schemas.enums import Problem

# What labels are counted in. Multiple choice is left out: the index of a choice is not a class.
NOUNS = {
    Problem.CLASSIFICATION: "row",
    Problem.MULTI_LABEL: "row",
    Problem.TOKEN_CLASSIFICATION: "word",
}


def balance_findings(report: DatasetReport) -> list[Finding]:
    """A finding if one class has many more rows of train than another."""
    assert report.label_counts is not None
    train = report.label_counts["train"]
    most = max(train, key=lambda name: train[name])
    least = min((name for name in train if train[name]), key=lambda name: train[name])
    if train[most] <= 20 * train[least]:
        return []
    counts = f"{shown(most)!r} has {train[most]:,} rows of train, {shown(least)!r} {train[least]:,}"
    detail = f"classes are unbalanced: {counts}; accuracy alone will mislead, look at macro_f1"
    return [finding("unbalanced_classes", detail, train[least], [])]


def mixed_findings(survey: Survey) -> list[Finding]:
    """A finding if labels mix numbers and words: often a typing error, or a missing label."""
    values = survey.labels.values
    words = sum(map(math.isnan, values))
    if survey.labels.given is not None or not 0 < words < len(values):
        return []
    kind, rare = ("words", True) if words <= len(values) - words else ("numbers", False)
    count = min(words, len(values) - words)
    positions = (place for place, value in enumerate(values) if math.isnan(value) == rare)
    detail = (
        f"labels mix numbers and words, and each is a class; rows whose label is one of the "
        f"rarer, the {kind}: {count:,}"
    )
    return [finding("mixed_labels", detail, count, map(survey.places.at, positions))]


def class_findings(report: DatasetReport, survey: Survey, mask: bytes | bytearray) -> list[Finding]:
    """Findings about classes that a split lacks, or that have a single row."""
    assert report.label_counts is not None
    train, validation = report.label_counts["train"], report.label_counts["validation"]
    noun = NOUNS[report.problem]

    def places(names: Iterable[str], split: str) -> Iterator[Place]:
        """The first row of each class, found only as far as needed: each is another search."""
        seen = set()
        for name in names:
            place = first_of(survey, mask, name, split)
            # Several tags may first occur in the same row.
            if place is not None and str(place) not in seen:
                seen.add(str(place))
                yield place

    kinds: tuple[tuple[FindingCode, str, Callable[[str], bool], str | None], ...] = (
        ("single_row_classes", f"one {noun} of train only", lambda name: train[name] == 1, "train"),
        (
            "unevaluated_labels",
            "in train but not in validation, so not evaluated",
            lambda name: train[name] > 0 and not validation[name],
            None,
        ),
        (
            "untrained_labels",
            f"a label of validation without a {noun} in train",
            lambda name: validation[name] > 0 and not train[name],
            "validation",
        ),
        (
            "unused_labels",
            f"a label without a {noun} in train or validation",
            lambda name: not train[name] and not validation[name],
            None,
        ),
    )
    findings = []
    for code, detail, holds, split in kinds:
        names = [name for name in report.labels if holds(name)]
        if names:
            first = places(names, split) if split else []
            findings.append(finding(code, f"{detail}: {quoted(names)}", len(names), first))
    return findings
