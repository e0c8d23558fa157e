"""Warnings about a dataset that can be used: about its columns, labels and repeated rows.

Each finding names the first rows that show it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np

from surgery.data.files.source import shown
from surgery.data.ingest.columns.infer import settle_columns
from surgery.data.ingest.columns.shapes import is_written_list
from surgery.data.ingest.label_sets import likely_separator, separator_advice
from surgery.data.ingest.labels import is_written_number, likeness
from surgery.data.ingest.repeats import Pair, Repeats, repeated_values
from surgery.data.ingest.spool import ID_COLUMNS
from surgery.data.ingest.survey import Survey
from surgery.data.ingest.table import TableHead
from surgery.data.presets.tasks import marks_entities
from surgery.errors import DatasetInvalid
from surgery.schemas.dataset import EXAMPLES, DatasetReport, Example, Finding, FindingCode, Place
from surgery.schemas.enums import Problem

_IN_WORDS = 3  # examples that the sentence of a finding names

MANY_NUMBERS = 20  # more different whole numbers than this are seldom classes
_FREQUENT = 1.5  # a class with more rows than this many times the other's is frequent
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
_DECIMAL_COMMA = re.compile(r",(\d{1,2}|\d{4,})\s*%?$")
_ENTITY_TAG = re.compile(
    r"(?P<mark>[BIOESLUMW])[-_:./|].+|.+[-_:./|](?P<last>[BIESLUMW])", re.IGNORECASE
)

# Few encoders read more than 512 tokens, and English has some 1.3 tokens a word.
LONG_WORDS = 400
# What labels are counted in. Multiple choice is left out: the index of a choice is not a class.
_NOUNS = {
    Problem.CLASSIFICATION: "row",
    Problem.MULTI_LABEL: "row",
    Problem.TOKEN_CLASSIFICATION: "word",
}
_SEVERAL = {Problem.MULTI_LABEL, Problem.TOKEN_CLASSIFICATION}  # a row may have several labels


def finding(code: FindingCode, detail: str, count: int, examples: Iterable[Place]) -> Finding:
    """A finding whose sentence names the first of the ``examples``."""
    first = [
        place if isinstance(place, Example) else Example(file=place.file, row=place.row)
        for place in islice(examples, EXAMPLES)
    ]
    named = ", ".join(_named(example) for example in first[:_IN_WORDS])
    more = ", …" if len(first) > _IN_WORDS else ""
    sentence = f"{detail}; first: {named}{more}" if first else detail
    return Finding(code=code, detail=sentence, count=count, examples=first)


def _named(example: Example) -> str:
    where = f"{shown(example.file)} row {example.row:,}"
    if example.same_as is None:
        return where
    file = "" if example.same_as.file == example.file else f"{shown(example.same_as.file)} "
    return f"{where} (as {file}row {example.same_as.row:,})"


def quoted(names: Sequence[str]) -> str:
    """The first ten names, and how many more there are."""
    more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
    return ", ".join(repr(shown(name)) for name in names[:10]) + more


def column_findings(report: DatasetReport, survey: Survey) -> list[Finding]:
    """Columns that are not read, although they may have been meant to be."""
    if "columns" not in report.inferred:
        return []
    used = {name for _, name in report.columns.named()}
    train = survey.heads["train"]
    names = [name for name in _suspects(report, train) if name not in used]
    found = []
    if names:
        detail = f"columns that are not read: {quoted(names)}; name in columns what they are"
        found.append(finding("unread_columns", detail, len(names), []))
    held = survey.heads.get("validation")
    alone = [] if held is None else [name for name in _used(held) if name not in train.cells]
    if alone:
        detail = (
            f"columns of validation that are not read, since train never has them: {quoted(alone)}"
        )
        found.append(finding("unread_columns", detail, len(alone), []))
    return found


def _suspects(report: DatasetReport, head: TableHead) -> Iterator[str]:
    """Columns of lists of texts, and texts that choices without a text may be about."""
    lonely = report.problem is Problem.MULTIPLE_CHOICE and report.columns.text is None
    for name, value in head.cells.items():
        some = next(iter(value), None) if isinstance(value, list | dict) else None
        listed = isinstance(some, str | dict) or is_written_list(value)
        if listed or (lonely and isinstance(value, str) and name.lower() not in ID_COLUMNS):
            yield name


def _used(head: TableHead) -> list[str]:
    """The columns that would be read if this table were the only one."""
    try:
        settled = settle_columns(head.cells, None, None, head.file)
    except DatasetInvalid:
        return []
    return [name for _, name in settled.columns.named()]


def label_findings(report: DatasetReport, survey: Survey) -> list[Finding]:
    """Findings about the values of the labels."""
    if report.problem is Problem.REGRESSION:
        return _marks_among_scores(survey)
    if report.problem is Problem.MULTIPLE_CHOICE:
        return _first_choice(report)
    found = _similar(report) + _written_lists(report)
    if survey.labels.given is None:
        found += _marks(report, survey)
    if report.problem is Problem.TOKEN_CLASSIFICATION:
        return found + _entities(report, survey)
    if report.problem is Problem.MULTI_LABEL:
        return found + _sets(report)
    if survey.labels.given is None:
        found += _separated(report)
    if survey.labels.given is None and survey.labels.problem is None:
        found += _numbers(report, survey)
    return found + _f1(report)


def _whole_counts(report: DatasetReport) -> dict[str, int]:
    """How many rows (or words) of both splits together have each label."""
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
        f"{quoted(marks)} commonly marks a missing label, and is read as a class like any other; "
        f"if it marks one, leave these {noun} out: {count:,}"
    )
    return [finding("missing_label_marks", detail, count, _places(survey, set(marks)))]


def _is_number(name: str) -> bool:
    try:
        return math.isfinite(float(name))
    except ValueError:
        return False


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


def _places(survey: Survey, names: set[str]) -> Iterator[Place]:
    """The rows with some labels; where a row has several, only the first row with each."""
    labels = survey.labels
    codes = {code for name, code in labels.seen.items() if name in names}
    if labels.problem in _SEVERAL:
        first = {place: None for (_, code), place in labels.first.items() if code in codes}
        yield from (Place(file=file, row=row) for file, row in first)
        return
    positions = (place for place, code in enumerate(labels.codes) if code in codes)
    yield from map(survey.places.at, positions)


def _marks_among_scores(survey: Survey) -> list[Finding]:
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


def _sets(report: DatasetReport) -> list[Finding]:
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
    """A finding if f1 is measured for a class that most rows have, where it says little."""
    if len(report.labels) != 2 or report.label_counts is None:
        return []
    other, measured = report.labels
    train = report.label_counts["train"]
    if train[measured] <= _FREQUENT * train[other]:
        return []
    rows = train[measured] + train[other]
    # Numbers are indices, and naming them in another order would not change that.
    order = "" if _is_number(measured) else f", or name {shown(other)!r} last in labels"
    detail = (
        f"f1 is of the second label, {shown(measured)!r}, which has {train[measured]:,} of "
        f"{rows:,} rows of train, so a model that never predicts {shown(other)!r} has a high f1; "
        f"use macro_f1{order}"
    )
    return [finding("f1_of_frequent_class", detail, train[measured], [])]


def _first_choice(report: DatasetReport) -> list[Finding]:
    counts = _whole_counts(report)
    if counts["0"] or sum(counts.values()) < 5 * len(counts):
        return []
    detail = (
        "in no row the right choice is the first, with index 0: if the indices in the file count "
        "from 1, subtract 1"
    )
    return [finding("first_choice_never_right", detail, sum(counts.values()), [])]


def _entities(report: DatasetReport, survey: Survey) -> list[Finding]:
    """A finding if tags seem to mark entities in a scheme that entity_f1 does not support."""
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
    """Whether some tag says that an entity begins or continues."""
    matches = (_ENTITY_TAG.fullmatch(tag) for tag in tags)
    marks = {(match["mark"] or match["last"]).upper() for match in matches if match}
    return bool(marks & {"B", "I"})


def find(
    report: DatasetReport, survey: Survey, repeats: Repeats, mask: bytes | bytearray
) -> list[Finding]:
    """All findings. ``mask`` has one byte for each row read, which is 1 for validation rows."""
    found = [
        *_texts(survey, mask),
        *column_findings(report, survey),
        *label_findings(report, survey),
    ]
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
            "rows with a word of only invisible characters, which a tokenizer may drop, so that "
            f"its tag is neither learned nor measured: {len(survey.invisible):,}"
        )
        rows = map(survey.places.at, survey.invisible)
        found.append(finding("invisible_words", detail, len(survey.invisible), rows))
    count = sum(1 for words in survey.words if words > LONG_WORDS)
    if count:
        positions = (place for place, words in enumerate(survey.words) if words > LONG_WORDS)
        longest = max(survey.words)
        detail = (
            f"texts of more than {LONG_WORDS} words, whose end an encoder of 512 tokens does not "
            f"read: {count:,}, the longest of {longest:,} words; shorten them or take another model"
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
    detail = f"classes are unbalanced: {counts}; accuracy alone will mislead, look at macro_f1"
    return [finding("unbalanced_classes", detail, train[least], [])]


def _mixed(survey: Survey) -> list[Finding]:
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


def _classes(report: DatasetReport, survey: Survey, mask: bytes | bytearray) -> list[Finding]:
    assert report.label_counts is not None
    train, validation = report.label_counts["train"], report.label_counts["validation"]
    noun = _NOUNS[report.problem]

    def places(names: Iterable[str], split: str) -> Iterator[Place]:
        """The first row of each class, found only as far as needed: each is another search."""
        seen = set()
        for name in names:
            place = _first_of(survey, mask, name, split)
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


def _first_of(survey: Survey, mask: bytes | bytearray, name: str, split: str) -> Place | None:
    """The first row of a class in a split; where a row has several, of that split's file."""
    labels = survey.labels
    code = labels.seen[name]
    if labels.problem in _SEVERAL:
        place = labels.first.get((split, code))
        return place and Place(file=place[0], row=place[1])
    side = split == "validation"
    rows = zip(labels.codes, mask, strict=True)
    position = next((p for p, row in enumerate(rows) if row == (code, side)), None)
    return None if position is None else survey.places.at(position)


def _repeated(survey: Survey, repeats: Repeats) -> list[Finding]:
    counts = repeats.counts
    kinds: tuple[tuple[FindingCode, str, int, list[Pair]], ...] = (
        (
            "repeated_texts",
            "rows of train that repeat an earlier row's text",
            counts.within_train,
            repeats.within_train,
        ),
        (
            "texts_in_both_splits",
            "rows of validation whose text is in train too, so metrics look too good; leave it out",
            counts.train_and_validation,
            repeats.across,
        ),
        (
            "conflicting_labels",
            "texts that occur with different labels, which no model can all predict; correct them",
            counts.conflicting_labels,
            repeats.conflicting,
        ),
    )
    found = [
        finding(code, f"{detail}: {count:,}", count, _pairs(survey, pairs))
        for code, detail, count, pairs in kinds
        if count
    ]
    return found + _repeated_ids(survey)


def _repeated_ids(survey: Survey) -> list[Finding]:
    """Findings about ids that repeat within a split; ids commonly start anew in the other."""
    found, start = [], 0
    for split in ("train", "validation"):
        count, pairs = repeated_values(survey.ids.hashes, start, start + survey.rows[split])
        if count:
            examples = _pairs(survey, pairs)
            detail = (
                f"rows of the {split} file whose {shown(str(survey.ids.column))!r} is also that "
                f"of an earlier row: {count:,}"
            )
            found.append(finding("repeated_ids", detail, count, examples))
        start += survey.rows[split]
    return found
