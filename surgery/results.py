"""The shapes of results: what jobs answer with. Torch-free."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from surgery.onnx_report import OnnxReport
from surgery.terms import Aggregate, Granularity, Precision, TrainingPrecision
from surgery.throughput_result import Throughput
from surgery.training_spec import AdapterSpec


class LayerInfo(BaseModel):
    """One block of the encoder, or at a finer granularity one part of it."""

    name: str
    index: int = Field(description="Of the block.")
    parameters: int


class LayerScore(BaseModel):
    """The place in a ranking of one layer, or of one part of it at a finer granularity."""

    rank: int
    name: str
    index: int = Field(description="Of the block.")
    score: float
    share: float = Field(description="Of the sum over all; a negative score counts as none.")
    ci: tuple[float, float] | None = Field(
        description="95 % bootstrap interval of the score; null where no sample has a score of its "
        "own, or where a few rows carry all of it."
    )
    p_top_k: dict[str, float] | None = Field(description="Probability to be among the top k.")
    parameters: int
    unbiased: float | None = Field(
        None,
        description="For frobenius: Σ √⟨D¹, D²⟩ over two halves of the samples. The score itself "
        "is too large at few samples, this is not.",
    )
    head_std: float | None = Field(
        None, description="Standard deviation of the score over the heads, with head_seeds."
    )


class GroupScore(BaseModel):
    """A group of parameters beside the layers, scored alike and never ranked."""

    name: Literal["embeddings", "pooler", "head", "other"]
    score: float | None = Field(description="Null where the warnings say why.")
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


class HeadSpread(BaseModel):
    """How far the ranking depends on the head's random start."""

    heads: int
    kendall_tau_mean: float | None = Field(description="Between the rankings of two heads.")
    kendall_tau_min: float | None


class Agreement(BaseModel):
    """How alike two rankings of the same layers are."""

    kendall_tau: float | None
    top_k_overlap: dict[str, float] = Field(description="Share of the top k in common, by k.")


class ModelPrior(Agreement):
    """How much of the ranking is the model's own and not about the task.

    The fields of its own compare with the ranking on shuffled labels.
    """

    shuffled_tokens: Agreement
    samples: int
    note: str


class AdaptiveRound(BaseModel):
    """How sure the top k were after so many samples."""

    samples: int
    k: int
    probability: float = Field(description="That the set of the top k recurs in a resample.")


class AdaptiveReport(BaseModel):
    """Whether sampling could stop early."""

    certain: bool = Field(description="Whether the last probability reached 0.95.")
    rounds: list[AdaptiveRound]


class MethodScores(BaseModel):
    """What one method says of every layer."""

    method: str
    order: list[str] = Field(description="Names, best first.")
    scores: dict[str, float]
    stability: Stability


class MethodTable(BaseModel):
    """Every method on the same samples, and how far they agree."""

    methods: list[MethodScores]
    kendall_tau: dict[str, dict[str, float | None]]


class SplitLengths(BaseModel):
    """How long the rows of a split are before they are cut; of choices, the longest counts."""

    rows: int = Field(
        description="Rows counted: a ranking's sample, or all of the split in a fine-tune."
    )
    counts: list[int] = Field(description="Rows in each bin.")
    longest: int
    truncated: float = Field(description="Share of rows that the job's `max_length` cut.")


class TokenLengths(SplitLengths):
    """How long the training rows are and, in a fine-tune, those of validation."""

    unit: Literal["tokens"] = "tokens"
    bins: list[int] = Field(description="The smallest length in each bin; the last has no end.")
    suggested_max_length: int = Field(
        description="The smallest of 32, 64, 128, … that cuts at most 1 % of the rows of each "
        "split, or the largest that the model takes."
    )
    validation: SplitLengths | None = Field(
        None, description="Of a fine-tune; a ranking reads no validation rows."
    )


class RankingResult(BaseModel):
    """The layers of an encoder in order of their score."""

    method: str
    aggregate: Aggregate | None = Field(description="For methods fisher and all.")
    fisher: str | None = Field(description="For methods fisher and all.")
    granularity: Granularity = Granularity.LAYER
    precision: Precision = Precision.FP32
    samples: int = Field(
        description="Rows that were scored, each once; 0 for a method that reads none."
    )
    path: Literal["batched", "one_sample", "mixed"] | None = Field(
        description="`batched`: all rows of a batch at once; `one_sample`: the exact slow path; "
        "`mixed`: some batches each; null where no gradient is taken."
    )
    layers: list[LayerScore]
    groups: list[GroupScore] = []
    stability: Stability
    recommended_k: RecommendedK
    head: HeadReport | None = Field(description="Null where no gradient is taken.")
    head_spread: HeadSpread | None = None
    model_prior: ModelPrior | None = None
    adaptive: AdaptiveReport | None = None
    methods: MethodTable | None = None
    processes: int = Field(1, description="That shared the scoring.")
    lengths: TokenLengths | None = Field(
        None,
        description="Null where no row is read, and for `paper_compat`, which cuts nothing "
        "by `max_length`.",
    )
    warnings: list[str]
    seconds: dict[str, float]


class RankingTrack(Agreement):
    """The ranking at one evaluation of a fine-tune, beside that at its start."""

    scores: dict[str, float]


class EpochReport(BaseModel):
    """What one evaluation measured."""

    epoch: float = Field(description="Epochs done; inside one with `evaluate_every_steps`.")
    step: int
    train_loss: float | None = Field(description="Mean since the evaluation before.")
    metrics: dict[str, float | None]
    also: dict[str, dict[str, float | None]] = Field(
        {}, description="The official metrics of each preset of `also_evaluate`."
    )
    ranking: RankingTrack | None = Field(None, description="With `track_ranking`.")
    noise: float | None = Field(
        None,
        description="Standard error of the primary metric due to the choice of the validation "
        "rows, by a bootstrap over them.",
    )


class PrefixReport(BaseModel):
    """What became of the layers below the lowest trained one, whose work need not be repeated."""

    mode: Literal["memory", "disk", "recompute", "none"] = Field(
        description="Where their output was kept; `recompute`: nowhere, every step computed it "
        "again; `none`: there are no such layers."
    )
    reason: str
    layers: int = Field(description="How many runs of a layer a forward pass has there.")
    share: float = Field(
        description="Of all runs of a layer in a forward pass: what each step is spared in modes "
        "`memory` and `disk`."
    )
    rows: int = Field(0, description="Rows of train and validation whose states are kept.")
    states: int = Field(
        0, description="Vectors kept: one a token, or one a text where the head reads no other."
    )
    bytes: int = 0
    dtype: str | None = None
    reused: bool = Field(False, description="An earlier job had computed all of them.")
    seconds: float = Field(0.0, description="Spent on computing or fetching the states.")


class FinetuneResult(BaseModel):
    """What a fine-tune trained and reached."""

    trained_layers: list[str]
    included: list[str]
    adapter: AdapterSpec | None = Field(None, description="What trained in place of layers.")
    ranking: str | None = Field(None, description="The ranking behind the selection.")
    trainable_parameters: int
    total_parameters: int
    primary_metric: str = Field(description="The best evaluation is the one where it is highest.")
    best: EpochReport
    epochs: list[EpochReport] = Field(description="Each evaluation.")
    stopped_early: bool = False
    best_checkpoint: str | None = None
    onnx: OnnxReport | None = Field(None, description="With `checkpoints.onnx`.")
    ranking_at_start: dict[str, float] | None = Field(
        None, description="Scores by layer before the first step, with `track_ranking`."
    )
    frozen_verified: bool
    peak_memory_bytes: int
    samples_per_second: float | None
    lengths: TokenLengths | None = None
    prefix: PrefixReport | None = Field(
        None, description="What became of the layers below the lowest trained one."
    )
    processes: int = Field(1, description="That shared each step.")
    precision: TrainingPrecision = Field(
        TrainingPrecision.FP32, description="Number format of the matrix products."
    )
    throughput: Throughput | None = None
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
    parts: dict[Granularity, list[LayerInfo]] = Field(
        {}, description="The parts of the layers, bottom to top, with `granularity`."
    )
    groups: dict[str, int] = Field(description="Parameters beside the layers: embeddings, pooler.")
    source: Literal["mirror", "hub"]

    def at(self, granularity: Granularity) -> list[LayerInfo]:
        """The layers or the parts that a selection of this granularity chooses among."""
        return self.layers if granularity is Granularity.LAYER else self.parts[granularity]
