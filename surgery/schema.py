"""What is known of a dataset once it has been read, and which column plays which part."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, Field

from surgery.errors import DatasetInvalid, Fault
from surgery.files import shown
from surgery.spec import Columns, Problem, nearest

WORD_BINS = (0, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)

_LABELS = ("label", "labels", "target", "class", "score", "y")
_IGNORED = {"idx", "id", "index"}
_PAIRS = (
    ("sentence1", "sentence2"), ("question1", "question2"), ("premise", "hypothesis"),
    ("question", "passage"), ("question", "sentence"), ("question", "context"),
    ("query", "passage"), ("query", "document"), ("text", "text_pair"), ("text1", "text2"),
    ("text_a", "text_b"),
)  # fmt: skip
_TEXTS = (
    "text", "sentence", "sentence1", "question", "premise", "review", "content", "document",
    "body", "comment", "message", "tweet", "utterance", "query", "title",
)  # fmt: skip
_NUMERIC = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)


class TextLengths(BaseModel):
    """How long the texts of train are, the two of a pair together."""

    unit: Literal["words"] = "words"
    bins: list[int] = Field(description="The smallest length in each bin; the last has no end.")
    train: list[int] = Field(description="Rows in each bin.")


class Duplicates(BaseModel):
    """Rows whose texts are equal, letter for letter."""

    within_train: int = Field(description="Rows of train that repeat an earlier one.")
    train_and_validation: int = Field(description="Rows of validation whose text train has too.")
    conflicting_labels: int = Field(description="Texts that occur with different labels.")


class DatasetReport(BaseModel):
    """What reading a dataset found."""

    problem: Problem
    columns: Columns
    inferred: list[Literal["columns", "problem", "validation"]]
    labels: list[str] = Field(description="Names in index order; empty for regression.")
    rows: dict[str, int]
    label_counts: dict[str, dict[str, int]] | None
    label_range: dict[str, tuple[float, float]] | None
    text_lengths: TextLengths
    duplicates: Duplicates
    warnings: list[str]
    fingerprint: str


def settle_columns(
    row: Mapping[str, object], given: Columns | None, file: str
) -> tuple[Columns, bool]:
    """The columns to use and whether any was inferred, from the first row.

    Raises DatasetInvalid where a named column does not exist or none can be inferred.
    """
    given = given or Columns(text=None, text_pair=None, label=None)
    check_columns(row, given, file)
    label = given.label or _find(row, _LABELS)
    if label is None:
        raise _missing("label", "no column is called label", row, file)
    if given.text:
        return given.model_copy(update={"label": label}), given.label is None
    others = {
        name: value
        for name, value in row.items()
        if name not in {label, given.text_pair} and name.lower() not in _IGNORED
    }
    text, pair = _find_texts(others)
    if text is None:
        raise _missing("text", "which column is the text is not plain", row, file)
    return Columns(text=text, text_pair=given.text_pair or pair, label=label), True


def check_columns(
    row: Mapping[str, object], columns: Columns, file: str, pointer: str = "/columns"
) -> None:
    """Raise DatasetInvalid with a fault for each named column that the row lacks."""
    known = [shown(name) for name in row]
    faults = []
    for part, name in columns.model_dump().items():
        if name is None or name in row:
            continue
        near = nearest(name, known)
        hint = f" (did you mean {near!r}?)" if near else ""
        detail = f"{file} has no column {shown(name)!r}{hint}. Its columns are: {_listed(known)}"
        faults.append(Fault(detail, f"{pointer}/{part}", file, column=shown(name)))
    if faults:
        raise DatasetInvalid(faults[0].detail, faults)


def _missing(part: str, reason: str, row: Mapping[str, object], file: str) -> DatasetInvalid:
    known = [shown(name) for name in row]
    detail = (
        f"{file}: {reason}; name the {part} column in columns.{part}, "
        f'as in {{"{part}": "{known[0]}"}}. Its columns are: {_listed(known)}'
    )
    return DatasetInvalid(detail, [Fault(detail, f"/columns/{part}", file)])


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(names[:20]) + more


def _find(row: Mapping[str, object], wanted: tuple[str, ...]) -> str | None:
    lowered = {name.lower(): name for name in reversed(list(row))}
    return next((lowered[name] for name in wanted if name in lowered), None)


def _find_texts(row: Mapping[str, object]) -> tuple[str | None, str | None]:
    for first, second in _PAIRS:
        text, pair = _find(row, (first,)), _find(row, (second,))
        if text and pair:
            return text, pair
    named = _find(row, _TEXTS)
    if named:
        return named, None
    # Every cell of a csv is a string; one that reads as a number is hardly a text.
    strings = [
        name
        for name, value in row.items()
        if isinstance(value, str) and not _NUMERIC.fullmatch(value)
    ]
    return (strings[0], None) if len(strings) == 1 else (None, None)


def warnings_of(report: DatasetReport, half_empty: Mapping[str, int]) -> list[str]:
    """What is no error but worth knowing; ``half_empty`` counts pairs with one text empty."""
    found = [
        f"rows of {split} with one text of the pair empty: {count:,}"
        for split, count in half_empty.items()
        if count
    ]
    if report.label_counts is not None:
        found += _class_warnings(report.label_counts["train"], report.label_counts["validation"])
    if report.label_range is not None and len(set(report.label_range["train"])) == 1:
        found.append("every label of train is the same number; nothing can be learned from it")
    return found + _duplicate_warnings(report.duplicates)


def _class_warnings(train: dict[str, int], validation: dict[str, int]) -> list[str]:
    found = []
    most = max(train, key=lambda name: train[name])
    least = min((name for name in train if train[name]), key=lambda name: train[name])
    if train[most] > 20 * train[least]:
        found.append(
            f"classes are unbalanced: {shown(most)!r} has {train[most]:,} rows of train, "
            f"{shown(least)!r} {train[least]:,}; accuracy alone will mislead"
        )
    single = [name for name, count in train.items() if count == 1]
    if single:
        found.append(f"one row of train only: {_quoted(single)}")
    unseen = [name for name, count in validation.items() if not count and train[name]]
    if unseen:
        found.append(f"in train but not in validation, so not evaluated: {_quoted(unseen)}")
    untrained = [name for name, count in train.items() if not count]
    if untrained:
        found.append(f"a label without a row in train: {_quoted(untrained)}")
    return found


def _duplicate_warnings(duplicates: Duplicates) -> list[str]:
    found = []
    if duplicates.within_train:
        found.append(
            f"rows of train that repeat an earlier row's text: {duplicates.within_train:,}"
        )
    if duplicates.train_and_validation:
        found.append(
            "rows of validation whose text is in train too, so the metrics flatter: "
            f"{duplicates.train_and_validation:,}"
        )
    if duplicates.conflicting_labels:
        found.append(
            "texts with different labels, which no model can all get right: "
            f"{duplicates.conflicting_labels:,}"
        )
    return found


def _quoted(names: list[str]) -> str:
    more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
    return ", ".join(repr(shown(name)) for name in names[:10]) + more
