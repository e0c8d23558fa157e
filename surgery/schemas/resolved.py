"""Facts about a model, and the record in which a job stores what its names resolved to.

The record says which exact model, data and layers a job works on. It is written when the job is
submitted and completed while it runs. The database holds it as JSON, without fields that have their
default; `Resolved` reads it back.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_serializer

from surgery.schemas.enums import Granularity, Problem
from surgery.schemas.jobs.comparison import ArmPlan

Json = dict[str, Any]


class LayerInfo(BaseModel):
    """One block of the encoder, or at a finer granularity one part of it."""

    name: str = Field(description="The name in the model, as a selection takes it.")
    index: int = Field(description="The index of the block.")
    parameters: int = Field(description="How many parameters it has.")


class ModelInfo(BaseModel):
    """What the headers of a checkpoint say about a model; its weights are not read."""

    id: str = Field(description="The model's id.")
    revision: str | None = Field(
        description="The commit on the Hub; null for a mirror's folder that names none."
    )
    fingerprint: str = Field(description="SHA-256 over the files that a worker reads.")
    model_type: str = Field(description="The architecture, as transformers names it.")
    architecture: str | None = Field(
        description="The class that the checkpoint was saved from; null if it names none."
    )
    hidden_size: int | None = Field(
        description="Size of a token's state; null if the configuration has none."
    )
    parameters: int = Field(description="Parameters in the checkpoint, including its heads.")
    layers: list[LayerInfo] = Field(description="The layers, bottom to top.")
    parts: dict[Granularity, list[LayerInfo]] = Field(
        {}, description="The parts of the layers, bottom to top, if `granularity` is given."
    )
    groups: dict[str, int] = Field(description="Parameters beside the layers: embeddings, pooler.")
    source: Literal["mirror", "hub"] = Field(description="Where it was found.")

    def at(self, granularity: Granularity) -> list[LayerInfo]:
        """What a selection of this granularity chooses among: layers or parts of them."""
        return self.layers if granularity is Granularity.LAYER else self.parts[granularity]


class PeakMemory(BaseModel):
    """The most memory that one process of a job held at once; null where nobody measured it."""

    model_config = ConfigDict(frozen=True)

    host: int | None = Field(None, ge=0, lt=1 << 63, description="Bytes of main memory.")
    device: int | None = Field(
        None, ge=0, lt=1 << 63, description="Bytes of a GPU's memory; null on a CPU."
    )

    def combined(self, other: PeakMemory) -> PeakMemory:
        """The higher ones of two peaks."""
        return PeakMemory(
            host=_highest(self.host, other.host), device=_highest(self.device, other.device)
        )


def _highest(*values: int | None) -> int | None:
    return max((value for value in values if value is not None), default=None)


class Stored(BaseModel):
    """A part of a job's record."""

    model_config = ConfigDict(frozen=True)

    def stored(self) -> Json:
        """The JSON for the database, without fields that have their default."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @classmethod
    def of(cls, stored: Json) -> Self:
        """Read the JSON of the database; unknown fields of other versions are ignored."""
        return cls.model_validate(stored)


class Pinned(Stored):
    """A model or a dataset pinned to its content, since a name can later refer to other bytes."""

    id: str
    revision: str | None
    fingerprint: str


class ResolvedModel(Pinned):
    """The model that a job works on."""

    layers: int | None = None
    parameters: int | None = None

    @property
    def reference(self) -> str:
        """The id with the revision, which refers to exactly this model."""
        return f"{self.id}@{self.revision}" if self.revision else self.id


class ResolvedDataset(Pinned):
    """The dataset that a job works on, with what is known before the job reads it."""

    rows: dict[str, int | None]
    problem: Problem
    path: str | None = None  # where an upload is stored; never shown in answers
    metrics: list[str] | None = None  # the first versions did not store it for uploads
    classes: int | None = None
    labels: list[str] | None = None


class ResolvedCheckpoint(Stored):
    """The checkpoint that a fine-tune starts from, or that a prediction or an export names."""

    checkpoint: str
    job: str
    step: int


class ResolvedSelection(Stored):
    """What a fine-tune trains. ``layers`` is None until a ranking or a search has chosen them."""

    ranking: str | None = None
    search: str | None = None
    learning_rate: float | None = None  # that the search found
    granularity: Granularity | None = None  # None in jobs of the first versions: whole layers
    layers: list[str] | None = None
    selected_parameters: int | None = None
    scores: dict[str, float] | None = None
    trainable_parameters: int | None = None  # with the head, as the worker counted them


class Learned(Stored):
    """What becomes known only when the job runs and opens its data."""

    versions: dict[str, str] | None = None
    device: Json | None = None
    rows: dict[str, int] | None = None
    labels: list[str] | None = None


class Resolved(Learned):
    """The record of a job of any kind. A ranking or a search has no further fields."""

    model: ResolvedModel
    dataset: ResolvedDataset
    digest: str
    also_evaluate: list[Pinned] = []  # presets that are evaluated too


class ResolvedFinetune(Resolved, ResolvedSelection):
    """The record of a fine-tune."""

    continue_from: ResolvedCheckpoint | None = None
    arm: str | None = None  # in the comparison that submitted it


class ResolvedPrediction(Resolved):
    """The record of a prediction. The dataset is that of the checkpoint, and is not read."""

    checkpoint: ResolvedCheckpoint
    given_rows: int


class ResolvedExport(Resolved):
    """The record of an export. The dataset is that of the checkpoint, and is not read."""

    checkpoint: ResolvedCheckpoint


class ResolvedComparison(Resolved):
    """The record of a comparison."""

    arms: list[ArmPlan]
    ranking: str | None  # by every method, compared with the gains of single layers
    runs: int

    @field_serializer("arms")
    def _whole(self, arms: list[ArmPlan]) -> list[Json]:
        return [arm.model_dump(mode="json") for arm in arms]


def completed(stored: Json, addition: Stored) -> Json:
    """A stored record, completed with what became known later."""
    return {**stored, **addition.stored()}


def shown(stored: Json) -> Json:
    """A stored record of any version as answers show it, without the paths of files."""
    dataset = {name: value for name, value in stored.get("dataset", {}).items() if name != "path"}
    return {**stored, "dataset": dataset}
