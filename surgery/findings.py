"""What a first reading found that is no error but worth knowing, with the first rows of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from surgery.column_findings import column_findings
from surgery.files import shown
from surgery.label_findings import label_findings
from surgery.named_findings import finding, quoted
from surgery.repeats import Pair, Repeats, repeated_values
from surgery.schema import DatasetReport, Example, Finding, FindingCode, Place
from surgery.survey import Survey
from surgery.terms import Problem

# Few encoders read over 512 tokens, and English has some 1.3 tokens a word.
LONG_WORDS = 400
# What a label is counted in; the place of the right choice is no class.
_NOUNS = {Problem.CLASSIFICATION: "row", Problem.TOKEN_CLASSIFICATION: "word"}


def find(
    report: DatasetReport, survey: Survey, repeats: Repeats, mask: bytes | bytearray
) -> list[Finding]:
    """All findings; ``mask`` has one byte a row read, 1 for those of validation."""
    found = [
        *_texts(survey, mask), *column_findings(report, survey), *label_findings(report, survey),
    ]  # fmt: skip
    if report.problem is Problem.CLASSIFICATION:
        found += _balance(report) + _mixed(survey)
    if report.problem in _NOUNS:
        found += _classes(report, survey, mask)
    if report.label_range is not None and len(set(report.label_range["train"])) == 1:
        detail = "every label of train is the same number; nothing can be learned from it"
        found.append(finding("constant_label", detail, report.rows["train"], []))
    return found + _repeated(survey, repeats)


def _pairs(survey: Survey, pairs: Sequence[Pair]) -> list[Example]:
    found = []
    for position, earlier in pairs:
        place = survey.places.at(position)
        found.append(Example(file=place.file, row=place.row, same_as=survey.places.at(earlier)))
    return found


def _texts(survey: Survey, mask: bytes | bytearray) -> list[Finding]:
    found = []
    for side, split in enumerate(("train", "validation")):
        half = [position for position in survey.half_empty if mask[position] == side]
        if half:
            detail = f"rows of {split} with one text of the pair empty: {len(half):,}"
            places = (survey.places.at(position) for position in half)
            found.append(finding("half_empty_texts", detail, len(half), places))
    if survey.invisible:
        detail = (
            "rows with a word of invisible characters alone, of which a tokenizer may leave "
            f"nothing, so that it is neither learned nor measured: {len(survey.invisible):,}"
        )
        rows = map(survey.places.at, survey.invisible)
        found.append(finding("invisible_words", detail, len(survey.invisible), rows))
    count = sum(1 for words in survey.words if words > LONG_WORDS)
    if count:
        positions = (place for place, words in enumerate(survey.words) if words > LONG_WORDS)
        longest = max(survey.words)
        detail = (
            f"texts over {LONG_WORDS} words, of which an encoder of 512 tokens does not read the "
            f"end: {count:,}, the longest of {longest:,} words"
        )
        found.append(finding("long_texts", detail, count, map(survey.places.at, positions)))
    return found


def _balance(report: DatasetReport) -> list[Finding]:
    assert report.label_counts is not None
    train = report.label_counts["train"]
    most = max(train, key=lambda name: train[name])
    least = min((name for name in train if train[name]), key=lambda name: train[name])
    if train[most] <= 20 * train[least]:
        return []
    counts = f"{shown(most)!r} has {train[most]:,} rows of train, {shown(least)!r} {train[least]:,}"
    detail = f"classes are unbalanced: {counts}; accuracy alone will mislead"
    return [finding("unbalanced_classes", detail, train[least], [])]


def _mixed(survey: Survey) -> list[Finding]:
    """Numbers among words, or words among numbers: often a typing error, or a mark for none."""
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


def _classes(report: DatasetReport, survey: Survey, mask: bytes | bytearray) -> list[Finding]:
    assert report.label_counts is not None
    train, validation = report.label_counts["train"], report.label_counts["validation"]
    noun = _NOUNS[report.problem]

    def places(names: Iterable[str], split: str) -> Iterator[Place]:
        """Looked for only as far as they are shown: each name is another search."""
        seen = set()
        for name in names:
            place = _first_of(survey, mask, name, split)
            # Tags of several names may first stand in the same row.
            if place is not None and str(place) not in seen:
                seen.add(str(place))
                yield place

    kinds: tuple[tuple[FindingCode, str, Callable[[str], bool], str | None], ...] = (
        ("single_row_classes", f"one {noun} of train only",
         lambda name: train[name] == 1, "train"),
        ("unevaluated_labels", "in train but not in validation, so not evaluated",
         lambda name: train[name] > 0 and not validation[name], None),
        ("untrained_labels", f"a label of validation without a {noun} in train",
         lambda name: validation[name] > 0 and not train[name], "validation"),
        ("unused_labels", f"a label without a {noun} in train or validation",
         lambda name: not train[name] and not validation[name], None),
    )  # fmt: skip
    findings = []
    for code, detail, holds, split in kinds:
        names = [name for name in report.labels if holds(name)]
        if names:
            first = places(names, split) if split else []
            findings.append(finding(code, f"{detail}: {quoted(names)}", len(names), first))
    return findings


def _first_of(survey: Survey, mask: bytes | bytearray, name: str, split: str) -> Place | None:
    """The first row of a class; for tags the first row of the files, whichever split it went to."""
    labels = survey.labels
    code = labels.seen[name]
    if labels.problem is Problem.TOKEN_CLASSIFICATION:
        place = labels.first.get((split, code))
        return place and Place(file=place[0], row=place[1])
    side = split == "validation"
    rows = zip(labels.codes, mask, strict=True)
    position = next((p for p, row in enumerate(rows) if row == (code, side)), None)
    return None if position is None else survey.places.at(position)


def _repeated(survey: Survey, repeats: Repeats) -> list[Finding]:
    counts = repeats.counts
    kinds: tuple[tuple[FindingCode, str, int, list[Pair]], ...] = (
        ("repeated_texts", "rows of train that repeat an earlier row's text",
         counts.within_train, repeats.within_train),
        ("texts_in_both_splits",
         "rows of validation whose text is in train too, so the metrics flatter",
         counts.train_and_validation, repeats.across),
        ("conflicting_labels", "texts with different labels, which no model can all get right",
         counts.conflicting_labels, repeats.conflicting),
    )  # fmt: skip
    found = [
        finding(code, f"{detail}: {count:,}", count, _pairs(survey, pairs))
        for code, detail, count, pairs in kinds
        if count
    ]
    return found + _repeated_ids(survey)


def _repeated_ids(survey: Survey) -> list[Finding]:
    """Within each file's split alone: ids commonly start anew in the next."""
    found, start = [], 0
    for split in ("train", "validation"):
        count, pairs = repeated_values(survey.ids.hashes, start, start + survey.rows[split])
        if count:
            examples = _pairs(survey, pairs)
            detail = (
                f"rows of the {split} file whose {shown(str(survey.ids.column))!r} an earlier row "
                f"has too: {count:,}"
            )
            found.append(finding("repeated_ids", detail, count, examples))
        start += survey.rows[split]
    return found
