"""The first rows of a dataset as a model will see them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from surgery.schemas.enums import Problem

MAX_CUT = 50  # tokens that are shown of what was cut off


class PreviewSequence(BaseModel):
    """One sequence of tokens: a text, a pair of texts, or a text with one of its choices."""

    tokens: list[str] = Field(description="The tokens that the model reads.")
    input_ids: list[int] = Field(description="Their ids.")
    token_type_ids: list[int] | None = Field(
        description="Which of the two texts each token is of; null if the model takes none."
    )
    length: int = Field(description="Tokens before anything was cut off.")
    truncated: bool = Field(description="Whether tokens were cut off at `max_length`.")
    cut: list[str] = Field(description=f"The tokens that were cut off, at most {MAX_CUT}.")


class PreviewRow(BaseModel):
    """One row."""

    row: int = Field(description="Its place in the stored split, counted from 1.")
    sequences: list[PreviewSequence] = Field(
        description="One sequence; for multiple choice one for each choice."
    )
    label: int | float | None = Field(
        description="The index of its class or of its right choice, or the number to predict; null "
        "for tagged words and for several labels."
    )
    label_name: str | None = Field(description="The name of its class or choice.")
    label_names: list[str] | None = Field(
        None, description="The names of its labels, where a row may have several."
    )
    token_labels: list[int | None] | None = Field(
        description="For tagged words: the index of the tag that each token is to predict; null "
        "where a token has none."
    )


class SampledLengths(BaseModel):
    """How many tokens rows have before truncation. Of several choices the longest counts."""

    unit: Literal["tokens"] = Field("tokens", description="What is counted.")
    rows: int = Field(description="Rows of the split.")
    sampled: int = Field(description="How many of them were counted, spread over the split.")
    bins: list[int] = Field(description="The smallest length in each bin; the last has no end.")
    counts: list[int] = Field(description="Counted rows in each bin.")
    longest: int = Field(description="Tokens in the longest row that was counted.")
    truncated: float = Field(description="Share of the counted rows that `max_length` cuts.")
    suggested_max_length: int = Field(
        description="The smallest of 32, 64, 128, … that cuts at most 1 % of the counted rows, or "
        "the largest that the model takes."
    )


class Preview(BaseModel):
    """Rows of a dataset as a model will see them, and how long rows are in its tokens."""

    model: str = Field(description="The model whose tokenizer was used, with its revision.")
    dataset: str = Field(description="The dataset's id.")
    split: Literal["train", "validation"] = Field(description="The split of the rows.")
    problem: Problem = Field(description="What is predicted from a row.")
    labels: list[str] = Field(description="The names of the labels in the order of their indices.")
    max_length: int = Field(
        description="The most tokens that are kept of a row: the one asked for, or what the model "
        "takes if that is less."
    )
    rows: list[PreviewRow] = Field(description="The first rows.")
    lengths: SampledLengths = Field(description="How long the rows of the split are.")


class PreviewReport(BaseModel):
    """A preview, or why there is none: what the process that makes it answers."""

    preview: Preview | None = None
    detail: str | None = None
