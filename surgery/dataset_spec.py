"""How a request names and describes its dataset. Torch-free."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from surgery.terms import Problem

# A dot is always followed by something else: no name is "..", and none leaves its folder.
WORD = r"[A-Za-z0-9_](?:\.?[A-Za-z0-9_-])*"
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
        description="Class or tag names in index order, where the data hold indices.",
    ),
]


class Strict(BaseModel):
    """Unknown fields are refused: a misspelt option must not be ignored."""

    model_config = ConfigDict(extra="forbid", use_enum_values=False, ser_json_inf_nan="null")


_PARTS = {
    Problem.CLASSIFICATION: ("text", "text_pair", "label"),
    Problem.REGRESSION: ("text", "text_pair", "label"),
    Problem.MULTIPLE_CHOICE: ("text", "text_pair", "choices", "label"),
    Problem.TOKEN_CLASSIFICATION: ("tokens", "label"),
}
_NEEDED = {
    Problem.CLASSIFICATION: "text",
    Problem.REGRESSION: "text",
    Problem.MULTIPLE_CHOICE: "choices",
    Problem.TOKEN_CLASSIFICATION: "tokens",
}


class Columns(Strict):
    """Which column of a table plays which part."""

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
    label: ColumnName | None = Field(
        None,
        description="The class, the number to predict, the right choice (its index from 0, or "
        "its text), or the list of tags.",
    )

    @model_validator(mode="after")
    def _choices_differ(self) -> Columns:
        if isinstance(self.choices, list) and len(set(self.choices)) < len(self.choices):
            raise ValueError("choices names a column twice")
        return self

    def named(self) -> list[tuple[str, str]]:
        """Each named column after its place in this object, as in ("choices/0", "ending0")."""
        found = []
        for part, names in self.model_dump(exclude_none=True).items():
            if isinstance(names, list):
                found += [(f"{part}/{place}", name) for place, name in enumerate(names)]
            else:
                found.append((part, names))
        return found

    def misplaced(self, problem: Problem) -> str | None:
        """A part that is named and means nothing to the problem."""
        parts = self.model_dump(exclude_none=True)
        return next((part for part in parts if part not in _PARTS[problem]), None)


def check_label_names(names: list[str], problem: Problem) -> None:
    """Raise ValueError unless the names are distinct and the problem has classes to name."""
    if problem not in {Problem.CLASSIFICATION, Problem.TOKEN_CLASSIFICATION}:
        raise ValueError(f"labels mean nothing to problem {problem.value}; leave them out")
    if len(set(names)) < len(names):
        raise ValueError("two of the labels are equal; give each class a name of its own")


class UploadSpec(Strict):
    """What an upload says about itself; the rest is inferred."""

    columns: Columns | None = None
    problem: Problem | None = None
    labels: LabelNames | None = None
    seed: int = Field(0, description="Of what is set aside where there is no validation file.")


class HubDataset(Strict):
    """A dataset on the Hugging Face Hub, or in the mirror under the same id."""

    hub: Annotated[str, StringConstraints(pattern=HUB_DATASET_PATTERN, max_length=200)] = Field(
        description="Dataset id on the Hub.", examples=["nyu-mll/glue"]
    )
    config: PartName | None = None
    revision: PartName | None = None
    train: PartName = "train"
    validation: PartName = "validation"
    columns: Columns = Columns(text="text", label="label")
    problem: Problem = Problem.CLASSIFICATION
    labels: LabelNames | None = None

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
            raise ValueError(f"columns.{misplaced} means nothing to problem {self.problem.value}")
        if self.labels is not None:
            check_label_names(self.labels, self.problem)
        return self


DatasetRef = Annotated[
    Annotated[str, StringConstraints(min_length=1, max_length=120)] | HubDataset,
    Field(
        description="A preset (`glue/cola`), an upload's id (`ds_…`), or a Hub reference.",
        examples=["glue/cola"],
    ),
]
