"""The shapes of results: what jobs answer with. Torch-free."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from surgery.spec import Aggregate


class LayerInfo(BaseModel):
    """One block of the encoder."""

    name: str
    index: int
    parameters: int


class LayerScore(BaseModel):
    """One layer's place in a ranking."""

    rank: int
    name: str
    index: int
    score: float
    share: float = Field(description="Of the sum over layers.")
    ci: tuple[float, float] | None = Field(description="95 % bootstrap interval of the score.")
    p_top_k: dict[str, float] | None = Field(description="Probability to be among the top k.")
    parameters: int


class Stability(BaseModel):
    """How far the sample decides the ranking."""

    split_half_kendall_tau: float | None
    rank_confidence: float | None = Field(description="Share of resamples with this very order.")
    ambiguous_k: list[int] | None = Field(
        description="k whose top-k set recurs in fewer than 95 % of the resamples."
    )


class RecommendedK(BaseModel):
    """A suggestion of how many layers to train."""

    k: int
    reason: str


class HeadReport(BaseModel):
    """Through which head the gradients flowed."""

    source: Literal["checkpoint", "new"]
    warmup_epochs: int
    warmup_rows: int
    warmup_loss: float | None


class RankingResult(BaseModel):
    """The layers of an encoder in order of their score."""

    method: str
    aggregate: Aggregate
    fisher: str
    samples: int
    path: Literal["batched", "one_sample"] = Field(
        description="`batched`: all rows of a batch at once; `one_sample`: the exact slow path."
    )
    layers: list[LayerScore]
    stability: Stability
    recommended_k: RecommendedK
    head: HeadReport
    warnings: list[str]
    seconds: dict[str, float]


class EpochReport(BaseModel):
    """What one evaluation measured."""

    epoch: int
    step: int
    train_loss: float | None
    metrics: dict[str, float | None]


class FinetuneResult(BaseModel):
    """What a fine-tune trained and reached."""

    trained_layers: list[str]
    included: list[str]
    ranking: str | None = Field(None, description="The ranking behind the selection.")
    trainable_parameters: int
    total_parameters: int
    primary_metric: str
    best: EpochReport
    epochs: list[EpochReport]
    best_checkpoint: str | None = None
    frozen_verified: bool
    peak_memory_bytes: int
    samples_per_second: float | None
    seconds: dict[str, float]
    warnings: list[str]


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
    groups: dict[str, int] = Field(description="Parameters beside the layers: embeddings, pooler.")
    source: Literal["mirror", "hub"]
