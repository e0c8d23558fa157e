"""What is known of a dataset once it has been read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, Field

from surgery.dataset_spec import Columns
from surgery.files import shown
from surgery.terms import Problem

# What a label is counted in; the place of the right choice is no class.
_NOUNS = {Problem.CLASSIFICATION: "row", Problem.TOKEN_CLASSIFICATION: "word"}
WORD_BINS = (0, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


class TextLengths(BaseModel):
    """How long the texts of train are: a pair together, a text with its longest choice."""

    unit: Literal["words"] = "words"
    bins: list[int] = Field(description="The smallest length in each bin; the last has no end.")
    train: list[int] = Field(description="Rows in each bin.")


class Duplicates(BaseModel):
    """Rows whose texts (choices, words) are equal, letter for letter."""

    within_train: int = Field(description="Rows of train that repeat an earlier one.")
    train_and_validation: int = Field(description="Rows of validation whose text train has too.")
    conflicting_labels: int = Field(description="Texts that occur with different labels.")


class DatasetReport(BaseModel):
    """What reading a dataset found."""

    problem: Problem
    columns: Columns
    inferred: list[Literal["columns", "problem", "validation"]]
    labels: list[str] = Field(
        description="Names in index order; the choices' places for multiple choice; "
        "empty for regression."
    )
    rows: dict[str, int]
    label_counts: dict[str, dict[str, int]] | None = Field(
        description="Rows of each label; words of each tag for token classification."
    )
    label_range: dict[str, tuple[float, float]] | None
    text_lengths: TextLengths
    duplicates: Duplicates
    warnings: list[str]
    fingerprint: str


def warnings_of(report: DatasetReport, half_empty: Mapping[str, int]) -> list[str]:
    """What is no error but worth knowing; ``half_empty`` counts pairs with one text empty."""
    found = [
        f"rows of {split} with one text of the pair empty: {count:,}"
        for split, count in half_empty.items()
        if count
    ]
    counts = report.label_counts or {}
    if report.problem is Problem.CLASSIFICATION:
        found += _unbalanced(counts["train"])
    if report.problem in _NOUNS:
        found += _class_warnings(counts["train"], counts["validation"], _NOUNS[report.problem])
    if report.label_range is not None and len(set(report.label_range["train"])) == 1:
        found.append("every label of train is the same number; nothing can be learned from it")
    return found + _duplicate_warnings(report.duplicates)


def _unbalanced(train: dict[str, int]) -> list[str]:
    most = max(train, key=lambda name: train[name])
    least = min((name for name in train if train[name]), key=lambda name: train[name])
    if train[most] <= 20 * train[least]:
        return []
    counts = f"{shown(most)!r} has {train[most]:,} rows of train, {shown(least)!r} {train[least]:,}"
    return [f"classes are unbalanced: {counts}; accuracy alone will mislead"]


def _class_warnings(train: dict[str, int], validation: dict[str, int], noun: str) -> list[str]:
    found = []
    single = [name for name, count in train.items() if count == 1]
    if single:
        found.append(f"one {noun} of train only: {_quoted(single)}")
    unseen = [name for name, count in validation.items() if not count and train[name]]
    if unseen:
        found.append(f"in train but not in validation, so not evaluated: {_quoted(unseen)}")
    untrained = [name for name, count in train.items() if not count]
    if untrained:
        found.append(f"a label without a {noun} in train: {_quoted(untrained)}")
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
