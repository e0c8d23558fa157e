"""The request for a checkpoint's predictions on rows, and its result."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints

from surgery.schemas.enums import Problem
from surgery.schemas.jobs.ranking import JobRequest

Json = dict[str, Any]
MAX_ROWS = 1000
MAX_TOP = 100

GivenRow = dict[Annotated[str, StringConstraints(max_length=200)], Any]
"""A row by the names of the dataset's columns. A checkpoint decides what its cells must be."""


class PredictionSpec(JobRequest):
    """Predict what a checkpoint says about some rows."""

    checkpoint: Annotated[str, StringConstraints(pattern=r"^ck_[0-9a-z]{1,37}$")] = Field(
        description="The id of the checkpoint.", examples=["ck_01kaszq0m3f4h5j6k7m8n9p0q1"]
    )
    rows: Annotated[list[GivenRow], Field(min_length=1, max_length=MAX_ROWS)] = Field(
        description="The rows, each with the columns of the checkpoint's dataset that its model "
        "reads. Other columns, such as the label, are ignored and not stored. Answers do not "
        "repeat the rows.",
        examples=[[{"sentence": "The more we study verbs, the crazier they get."}]],
    )
    top: int = Field(
        5,
        ge=0,
        le=MAX_TOP,
        description="How many of the most probable labels of each row are listed with their "
        "probabilities. For token classification, where each word has the probability of its "
        "label, and for regression it means nothing.",
    )

    def stored(self) -> Json:
        """The request without its rows, which no answer repeats."""
        return self.model_dump(mode="json", exclude={"rows"})


class LabelProbability(BaseModel):
    """A label and how probable the model says it is."""

    label: str = Field(description="The label.")
    probability: float = Field(description="Its probability, rounded to eight digits.")


class PredictedLabel(BaseModel):
    """The prediction for a row of classification or multiple choice."""

    label: str = Field(
        description="The most probable label; for multiple choice the index of the choice, from 0."
    )
    probabilities: list[LabelProbability] = Field(
        description="The `top` most probable labels, most probable first."
    )


class PredictedLabels(BaseModel):
    """The prediction for a row that may have several labels."""

    labels: list[str] = Field(
        description="The labels that are at least as probable as their thresholds."
    )
    probabilities: list[LabelProbability] = Field(
        description="The `top` most probable labels, most probable first. Each label has a "
        "probability of its own; they do not add up to one."
    )


class PredictedValue(BaseModel):
    """The prediction for a row of regression."""

    value: float = Field(description="The predicted number.")


class PredictedWord(BaseModel):
    """The prediction for a word. Both are null if the model did not read the word."""

    label: str | None = Field(description="The most probable label of the word.")
    probability: float | None = Field(description="Its probability, rounded to eight digits.")


class PredictedWords(BaseModel):
    """The prediction for a row of words."""

    words: list[PredictedWord] = Field(description="One entry for each word, in their order.")


PredictedRow = PredictedLabel | PredictedLabels | PredictedValue | PredictedWords


class PredictionResult(BaseModel):
    """What a checkpoint predicts for some rows."""

    problem: Problem = Field(description="The kind of task, which says what each row's entry has.")
    labels: list[str] = Field(
        description="The labels that the model knows, in the order of its outputs; empty for "
        "regression."
    )
    thresholds: dict[str, float] | None = Field(
        description="For problem `multi_label`: the probability from which on a row has a label."
    )
    predictions: list[PredictedRow] = Field(
        description="The prediction for each row, in the order of the request."
    )
    max_length: int = Field(description="The most tokens of a row that the model read.")
    truncated: int = Field(description="How many rows are longer, and were read only in part.")
    seconds: dict[str, float] = Field(description="Seconds by phase.")
