"""What is known of a model, and what a job remembers: which model, data and layers names mean.

What a job remembers is written when the job is submitted and completed while it runs. In the
database it is JSON without the fields that still have their default; `Resolved` reads it back.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_serializer

from surgery.schemas.comparison import ArmPlan
from surgery.schemas.enums import Granularity, Problem

Json = dict[str, Any]


class LayerInfo(BaseModel):
    """One block of the encoder, or at a finer granularity one part of it."""

    name: str
    index: int = Field(description="Of the block.")
    parameters: int


class ModelInfo(BaseModel):
    """What a checkpoint's headers tell: no weight is read."""

    id: str
    revision: str | None
    fingerprint: str
    model_type: str
    architecture: str | None
    hidden_size: int | None
    parameters: int = Field(description="Of the checkpoint, heads included.")
    layers: list[LayerInfo]
    parts: dict[Granularity, list[LayerInfo]] = Field(
        {}, description="The parts of the layers, bottom to top, with `granularity`."
    )
    groups: dict[str, int] = Field(description="Parameters beside the layers: embeddings, pooler.")
    source: Literal["mirror", "hub"]

    def at(self, granularity: Granularity) -> list[LayerInfo]:
        """The layers or the parts that a selection of this granularity chooses among."""
        return self.layers if granularity is Granularity.LAYER else self.parts[granularity]


class Stored(BaseModel):
    """A part of what a job remembers."""

    model_config = ConfigDict(frozen=True)

    def stored(self) -> Json:
        """As it is kept in the database, without fields that have their default."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @classmethod
    def of(cls, stored: Json) -> Self:
        """From what the database holds; fields that another version stored are passed over."""
        return cls.model_validate(stored)


class Pinned(Stored):
    """A model or a dataset by its content: the same name may stand for other bytes tomorrow."""

    id: str
    revision: str | None
    fingerprint: str


class ResolvedModel(Pinned):
    """The model that a job works on."""

    layers: int | None = None
    parameters: int | None = None

    @property
    def reference(self) -> str:
        """The id under which exactly this revision is found again."""
        return f"{self.id}@{self.revision}" if self.revision else self.id


class ResolvedDataset(Pinned):
    """The dataset that a job works on, and what is known of it before it is read."""

    rows: dict[str, int | None]
    problem: Problem
    path: str | None = None  # where the files of an upload are stored; no answer shows it
    metrics: list[str] | None = None  # not stored of uploads by the first versions
    classes: int | None = None
    labels: list[str] | None = None


class ResolvedCheckpoint(Stored):
    """The checkpoint that a fine-tune begins with."""

    checkpoint: str
    job: str
    step: int


class ResolvedSelection(Stored):
    """What a fine-tune trains. ``layers`` is None until the ranking that chooses them is there."""

    ranking: str | None = None
    granularity: Granularity | None = None  # jobs of the first versions knew whole layers only
    layers: list[str] | None = None
    selected_parameters: int | None = None
    scores: dict[str, float] | None = None
    trainable_parameters: int | None = None  # the head's too, as the worker counted them


class Learned(Stored):
    """What only opening the data and running the job told."""

    versions: dict[str, str] | None = None
    device: Json | None = None
    rows: dict[str, int] | None = None
    labels: list[str] | None = None


class Resolved(Learned):
    """What a job of any kind remembers; a ranking remembers no more than this."""

    model: ResolvedModel
    dataset: ResolvedDataset
    digest: str
    also_evaluate: list[Pinned] = []  # presets measured beside the dataset


class ResolvedFinetune(Resolved, ResolvedSelection):
    """What a fine-tune remembers."""

    continue_from: ResolvedCheckpoint | None = None
    arm: str | None = None  # of the comparison that made it


class ResolvedComparison(Resolved):
    """What a comparison remembers."""

    arms: list[ArmPlan]
    ranking: str | None  # by every method, beside the gains of single layers
    runs: int

    @field_serializer("arms")
    def _whole(self, arms: list[ArmPlan]) -> list[Json]:
        return [arm.model_dump(mode="json") for arm in arms]


def completed(stored: Json, addition: Stored) -> Json:
    """What a job remembers, with what became known since."""
    return {**stored, **addition.stored()}


def shown(stored: Json) -> Json:
    """What a job remembers, as answers show it: of every version's jobs, without stored paths."""
    dataset = {name: value for name, value in stored.get("dataset", {}).items() if name != "path"}
    return {**stored, "dataset": dataset}
