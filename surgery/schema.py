"""What is known of a dataset once it has been read."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from surgery.dataset_spec import Columns
from surgery.terms import Problem

WORD_BINS = (0, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
EXAMPLES = 5  # rows named of each finding

FindingCode = Literal[
    "half_empty_texts",
    "long_texts",
    "repeated_texts",
    "texts_in_both_splits",
    "conflicting_labels",
    "repeated_ids",
    "unbalanced_classes",
    "single_row_classes",
    "unevaluated_labels",
    "untrained_labels",
    "unused_labels",
    "mixed_labels",
    "constant_label",
    "missing_label_marks",
    "similar_labels",
    "numbers_as_words",
    "many_numbers",
    "lists_as_labels",
    "f1_of_frequent_class",
    "unmeasured_entities",
    "invisible_words",
    "unread_columns",
    "first_choice_never_right",
]


class Place(BaseModel):
    """A row of a file, counted from 1, without the header."""

    file: str
    row: int


class Example(Place):
    """A row that shows what was found."""

    same_as: Place | None = Field(None, description="The earlier row that it is like.")


class Finding(BaseModel):
    """Something that is no error but worth knowing."""

    code: FindingCode
    detail: str
    count: int = Field(description="Rows, or labels, of which this is so.")
    examples: list[Example] = Field(description=f"The first of them, {EXAMPLES} at most.")


class TextLengths(BaseModel):
    """How long the texts of train are: a pair together, a text with its longest choice."""

    unit: Literal["words"] = "words"
    bins: list[int] = Field(description="The smallest length in each bin; the last has no end.")
    train: list[int] = Field(description="Rows in each bin.")
    longest: int = Field(0, description="Words of the longest text of either split.")
    longest_at: Place | None = None


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
    warnings: list[str] = Field(description="The findings in words.")
    findings: list[Finding] = []
    fingerprint: str
