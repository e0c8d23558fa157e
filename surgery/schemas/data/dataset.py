"""A dataset as a request names and describes it, and the report on a dataset that was read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints, model_validator

from surgery.schemas import Strict
from surgery.schemas.enums import NAMED, Problem
from surgery.schemas.fields import WORD

HUB_DATASET_PATTERN = rf"^{WORD}(?:/{WORD})?$"
NAME_PATTERN = rf"^{WORD}$"

ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
PartName = Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=96)]
MAX_CHOICES = 64
LabelNames = Annotated[
    list[Annotated[str, StringConstraints(min_length=1, max_length=256, strip_whitespace=True)]],
    Field(
        min_length=2,
        max_length=1000,
        description="Class or tag names in index order, if the data contain indices.",
    ),
]

_PARTS = {
    Problem.CLASSIFICATION: ("text", "text_pair", "label"),
    Problem.MULTI_LABEL: ("text", "text_pair", "label"),
    Problem.REGRESSION: ("text", "text_pair", "label"),
    Problem.MULTIPLE_CHOICE: ("text", "text_pair", "choices", "label"),
    Problem.TOKEN_CLASSIFICATION: ("tokens", "label"),
}
_NEEDED = {
    Problem.CLASSIFICATION: "text",
    Problem.MULTI_LABEL: "text",
    Problem.REGRESSION: "text",
    Problem.MULTIPLE_CHOICE: "choices",
    Problem.TOKEN_CLASSIFICATION: "tokens",
}

LabelSeparator = Annotated[
    str,
    StringConstraints(min_length=1, max_length=8),
    Field(
        description="For problem `multi_label`: what stands between the labels of a row if they "
        "are written as one text, such as `;` in `news;sport`. Spaces around a label are dropped, "
        "and an empty text is a row without labels. Lists of labels need none.",
        examples=[";"],
    ),
]

WORD_BINS = (0, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
PAIRS = 50  # the most pairs of labels that a report lists
EXAMPLES = 5  # the most rows that a finding names

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
    "separated_labels",
    "one_label_a_row",
    "rows_without_labels",
    "f1_of_frequent_class",
    "unmeasured_entities",
    "invisible_words",
    "unread_columns",
    "first_choice_never_right",
]


class Columns(Strict):
    """Which column of a table plays which role."""

    text: ColumnName | None = Field(
        None, description="The text, the first text of a pair, or the context of a choice."
    )
    text_pair: ColumnName | None = Field(
        None, description="The second text of a pair, or the question about the context."
    )
    choices: (
        ColumnName | Annotated[list[ColumnName], Field(min_length=2, max_length=MAX_CHOICES)] | None
    ) = Field(
        None,
        description="For multiple choice: the column of lists, or one column for each choice.",
    )
    tokens: ColumnName | None = Field(
        None, description="For token classification: the column of lists of words."
    )
    label: ColumnName | Annotated[list[ColumnName], Field(min_length=2, max_length=1000)] | None = (
        Field(
            None,
            description="The class, the number to predict, the right choice (its index from 0, or "
            "its text), or the list of tags. For several labels a row: the column of their list or "
            "text, or one column of zeros and ones for each label, which has its name.",
        )
    )

    @model_validator(mode="after")
    def _columns_differ(self) -> Columns:
        for part in ("choices", "label"):
            names = getattr(self, part)
            if isinstance(names, list) and len(set(names)) < len(names):
                raise ValueError(f"{part} names a column twice")
        return self

    @property
    def label_name(self) -> str:
        """The column of the label, or the first of several."""
        return self.label[0] if isinstance(self.label, list) else str(self.label)

    def named(self) -> list[tuple[str, str]]:
        """Each named column with its path in this object, as in ("choices/0", "ending0")."""
        found = []
        for part, names in self.model_dump(exclude_none=True).items():
            if isinstance(names, list):
                found += [(f"{part}/{place}", name) for place, name in enumerate(names)]
            else:
                found.append((part, names))
        return found

    def misplaced(self, problem: Problem) -> tuple[str, str] | None:
        """The first named role that the problem cannot use, and the reason; None if it uses all."""
        if isinstance(self.label, list) and problem is not Problem.MULTI_LABEL:
            return "label", (
                "columns.label names several columns, which is for problem multi_label, and the "
                f"problem is {problem.value}"
            )
        parts = self.model_dump(exclude_none=True)
        part = next((part for part in parts if part not in _PARTS[problem]), None)
        if part is None:
            return None
        return part, f"columns.{part} has no meaning for problem {problem.value}; leave it out"


def check_label_names(names: list[str], problem: Problem, columns: Columns | None = None) -> None:
    """Raise ValueError unless the names are distinct and the problem has labels to name."""
    if columns is not None and isinstance(columns.label, list) and names != columns.label:
        raise ValueError("columns.label names each label by its column; leave labels out")
    if problem not in NAMED:
        raise ValueError(f"labels mean nothing to problem {problem.value}; leave them out")
    if len(set(names)) < len(names):
        raise ValueError("two of the labels are equal; give each class a different name")


def check_label_separator(
    separator: str | None, problem: Problem | None, columns: Columns | None
) -> None:
    """Raise ValueError if a separator of labels is given where no text holds several labels."""
    if separator is None:
        return
    if problem is not None and problem is not Problem.MULTI_LABEL:
        raise ValueError(
            f"label_separator is for problem multi_label, and the problem is {problem.value}; "
            "leave one of them out"
        )
    if columns is not None and isinstance(columns.label, list):
        raise ValueError(
            "label_separator is for labels in one column, and columns.label names several; leave "
            "one of them out"
        )


class UploadSpec(Strict):
    """What an upload says about itself. Everything left out is inferred."""

    columns: Columns | None = Field(None, description="Inferred if left out.")
    problem: Problem | None = Field(
        None, description="What is predicted from a row. Inferred if left out."
    )
    labels: LabelNames | None = None
    label_separator: LabelSeparator | None = None
    seed: int = Field(
        0,
        description="Seed for the choice of the tenth of the rows that is set aside for validation "
        "if there is no validation file.",
    )

    @model_validator(mode="after")
    def _separator_fits(self) -> UploadSpec:
        check_label_separator(self.label_separator, self.problem, self.columns)
        return self


class HubDataset(Strict):
    """A dataset on the Hugging Face Hub, or under the same id in the mirror directory."""

    hub: Annotated[str, StringConstraints(pattern=HUB_DATASET_PATTERN, max_length=200)] = Field(
        description="Dataset id on the Hub.", examples=["nyu-mll/glue"]
    )
    config: PartName | None = Field(None, description="The configuration of the dataset.")
    revision: PartName | None = Field(
        None, description="A branch, a tag or a commit. Default: the newest commit."
    )
    train: PartName = Field("train", description="The split to train on.")
    validation: PartName = Field("validation", description="The split to evaluate on.")
    columns: Columns = Field(
        Columns(text="text", label="label"), description="Which column plays which role."
    )
    problem: Problem = Field(Problem.CLASSIFICATION, description="The kind of task.")
    labels: LabelNames | None = None
    label_separator: LabelSeparator | None = None

    @model_validator(mode="after")
    def _columns_named(self) -> HubDataset:
        needed = _NEEDED[self.problem]
        if getattr(self.columns, needed) is None or self.columns.label is None:
            raise ValueError(
                f"columns.{needed} and columns.label must both be named for a Hub dataset"
                f" of problem {self.problem.value}"
            )
        misplaced = self.columns.misplaced(self.problem)
        if misplaced is not None:
            raise ValueError(misplaced[1])
        if self.labels is not None:
            check_label_names(self.labels, self.problem, self.columns)
        check_label_separator(self.label_separator, self.problem, self.columns)
        return self


DatasetName = Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]


class DatasetReference(HubDataset):
    """A dataset of the Hub to be checked and stored, so that jobs can name it by its own id."""

    name: DatasetName | None = Field(None, description="A name of your choice, for lists.")


class DatasetChanges(Strict):
    """What can be changed of a stored dataset. What is left out stays as it is."""

    name: DatasetName | None = Field(None, description="Another name; null takes the name away.")


DatasetRef = Annotated[
    Annotated[str, StringConstraints(min_length=1, max_length=120)] | HubDataset,
    Field(
        description="A preset (`glue/cola`), an upload's id (`ds_…`), or a Hub reference.",
        examples=["glue/cola"],
    ),
]


class Place(BaseModel):
    """A row of a file. Rows are counted from 1, without the header."""

    file: str = Field(description="The file's name.")
    row: int = Field(description="The number of the row.")


class Example(Place):
    """A row that shows a finding."""

    same_as: Place | None = Field(None, description="The earlier row that it repeats.")


class Finding(BaseModel):
    """Something about the data that is not an error but worth knowing."""

    code: FindingCode = Field(description="What kind of finding it is, for programs.")
    detail: str = Field(description="The finding in words.")
    count: int = Field(description="The number of rows or labels concerned.")
    examples: list[Example] = Field(description=f"The first of these rows, at most {EXAMPLES}.")


class TextLengths(BaseModel):
    """How long the training texts are: a pair together, a text together with its longest choice."""

    unit: Literal["words"] = Field("words", description="What is counted.")
    bins: list[int] = Field(description="The smallest length in each bin; the last has no end.")
    train: list[int] = Field(description="Rows in each bin.")
    longest: int = Field(0, description="Words in the longest text of either split.")
    longest_at: Place | None = Field(None, description="Where the longest text is.")


class Duplicates(BaseModel):
    """Rows whose texts (or choices, or words) are equal, letter for letter."""

    within_train: int = Field(description="Training rows that repeat an earlier one.")
    train_and_validation: int = Field(description="Validation rows whose text is also in train.")
    conflicting_labels: int = Field(description="Texts that occur with different labels.")


class LabelPair(BaseModel):
    """Two labels that rows of train have together."""

    labels: tuple[str, str] = Field(description="The two labels.")
    count: int = Field(description="Rows of train with both.")


class LabelSets(BaseModel):
    """How the labels of rows with several labels go together."""

    separator: str | None = Field(
        description="The `label_separator` that the texts were divided by, if any."
    )
    cardinality: dict[str, float] = Field(description="Mean number of labels a row, by split.")
    unlabelled: dict[str, int] = Field(description="Rows without any label, by split.")
    pairs: list[LabelPair] = Field(
        description=f"The pairs of labels that occur together most often, at most {PAIRS}."
    )


class DatasetReport(BaseModel):
    """What was found when the dataset was read."""

    problem: Problem = Field(description="The kind of task.")
    columns: Columns = Field(description="Which column plays which role.")
    inferred: list[Literal["columns", "problem", "validation"]] = Field(
        description="What the request left out and the service inferred."
    )
    labels: list[str] = Field(
        description="Names in index order; for multiple choice the positions of the choices; "
        "empty for regression."
    )
    rows: dict[str, int] = Field(description="Rows by split.")
    label_counts: dict[str, dict[str, int]] | None = Field(
        description="Rows with each label; for token classification, words with each tag."
    )
    label_range: dict[str, tuple[float, float]] | None = Field(
        description="Smallest and largest label by split, for regression."
    )
    label_sets: LabelSets | None = Field(
        None, description="How labels go together, for problem `multi_label`."
    )
    text_lengths: TextLengths = Field(description="How long the texts are.")
    duplicates: Duplicates = Field(description="How many rows repeat others.")
    warnings: list[str] = Field(description="The findings in words.")
    findings: list[Finding] = Field(
        [], description="What is no error but worth knowing, with the rows that show it."
    )
    fingerprint: str = Field(description="SHA-256 of the content; equal rows have equal ones.")


class SplitLengths(BaseModel):
    """How long the rows of a split are before truncation. Of several choices the longest counts."""

    rows: int = Field(
        description="Rows counted: those a ranking scores, or all of the split in a fine-tune."
    )
    counts: list[int] = Field(description="Rows in each bin.")
    longest: int = Field(description="Tokens of the longest row.")
    truncated: float = Field(description="Share of rows that the job's `max_length` truncated.")


class TokenLengths(SplitLengths):
    """How long the training rows are and, in a fine-tune, the validation rows."""

    unit: Literal["tokens"] = Field("tokens", description="What is counted.")
    bins: list[int] = Field(description="The smallest length in each bin; the last has no end.")
    suggested_max_length: int = Field(
        description="The smallest of 32, 64, 128, … that truncates at most 1 % of the rows of each "
        "split, or the largest that the model takes."
    )
    validation: SplitLengths | None = Field(
        None, description="For a fine-tune only: a ranking reads no validation rows."
    )
