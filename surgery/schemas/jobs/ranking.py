"""The request for a ranking, and its result, for the API, the worker and the library."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints, model_validator

from surgery.schemas import JobWarning, Strict
from surgery.schemas.data.dataset import DatasetRef, TokenLengths
from surgery.schemas.enums import (
    METHODS,
    SAMPLES,
    Aggregate,
    Fisher,
    Granularity,
    Method,
    Precision,
)
from surgery.schemas.fields import ModelId, option_of, options_of
from surgery.schemas.options.head import HeadReport, HeadSpec

Json = dict[str, Any]
Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=64)],
        Annotated[str, StringConstraints(max_length=512)],
    ],
    Field(max_length=16, description="Your own labels: up to 16 pairs of strings."),
]

SHUFFLES = 8  # of the labels, with `minus`: from fewer, the spread among them is hardly known


class RankingOptions(Strict):
    """How layers are ranked, with the same options wherever a ranking is requested."""

    method: Method = Field(Method.FISHER, description="What a layer's score measures.")
    aggregate: Aggregate = Field(
        Aggregate.TRACE,
        description="How the Fisher information of a layer becomes one number, for method fisher.",
    )
    granularity: Granularity = Field(
        Granularity.LAYER,
        description="What is ranked: layers, their attention and feed-forward parts, or single "
        "tensors.",
    )
    samples: int = Field(
        256, ge=SAMPLES[0], le=SAMPLES[1], description="Training rows to score, each once."
    )
    adaptive: bool = Field(
        False,
        description="Score more and more rows, up to `samples`, until it is certain which layers "
        "are the top `recommended_k`: a wrong set is called certain in at most 5 % of rankings, "
        "however often they looked. For aggregates trace and mean.",
    )
    max_length: int = Field(
        128, ge=4, le=8192, description="Rows are truncated to this many tokens."
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="Rows in a batch. Default: as many as fit into a budget of tokens.",
    )
    seed: int = Field(
        0, ge=0, lt=2**31, description="Seed of the sample and of everything else that is random."
    )
    fisher: Fisher = Field(
        Fisher.EMPIRICAL,
        description="The labels at which gradients are taken: the dataset's, labels drawn from the "
        "model's own prediction, or all labels by their probability. For method fisher.",
    )
    draws: int = Field(1, ge=1, le=64, description="Labels drawn for each row, for fisher sampled.")
    head: HeadSpec = Field(HeadSpec(), description="The head through which the gradients flow.")
    head_seeds: int = Field(
        1, ge=1, le=16, description="Average over this many new heads, and report their spread."
    )
    bootstrap: int = Field(
        1000, ge=0, le=20_000, description="The number of resamples for the intervals."
    )
    model_prior: bool = Field(
        True,
        description="Also rank on shuffled labels and on shuffled tokens, with up to 128 rows "
        "each, to tell how much of the ranking is about the task. For method fisher.",
    )
    minus: Literal["shuffled"] | None = Field(
        None,
        description="`shuffled`: score by how far a layer's part of all Fisher scores is above "
        f"its part on shuffled labels, the mean of {SHUFFLES} shuffles, in standard errors of that "
        "difference; below zero, it is a smaller part. A head that is trained here is trained anew "
        "on each shuffle. For method fisher, with fisher empirical and aggregate trace or mean. It "
        f"costs {1 + SHUFFLES} times the scoring.",
        exclude_if=lambda minus: minus is None,  # rankings without it keep their digests
    )
    precision: Precision | None = Field(
        None,
        description="Number format while scoring. Default: bf16 on a GPU that supports it, "
        "otherwise fp32; the result says which.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> RankingOptions:
        facts = METHODS[self.method]
        for name in facts.ignores:
            default = type(self).model_fields[name].default
            if name in self.model_fields_set and getattr(self, name) != default:
                raise ValueError(f"{name} means nothing to method {self.method}; leave it out")
        if self.draws > 1 and self.fisher is not Fisher.SAMPLED:
            raise ValueError("draws goes with fisher sampled; leave it out")
        if self.head_seeds > 1 and self.head.init != "new":
            raise ValueError("head_seeds averages over new heads: set head.init to new with it")
        if self.adaptive and self.aggregate is Aggregate.FROBENIUS:
            raise ValueError("adaptive needs a score for each sample: aggregate trace or mean")
        if self.adaptive and self.bootstrap < 200:
            raise ValueError("adaptive looks at resamples: set bootstrap to 200 or more")
        if self.adaptive and self.head_seeds > 1:
            raise ValueError("adaptive goes with one head: leave head_seeds out")
        self._check_minus()
        if self.granularity is not Granularity.LAYER and facts.whole_layers_only:
            raise ValueError(f"method {self.method} scores whole layers: leave granularity out")
        return self

    def _check_minus(self) -> None:
        if self.minus is None:
            return
        if self.fisher is not Fisher.EMPIRICAL:
            raise ValueError(
                f"minus compares the dataset's labels with shuffled ones, and fisher {self.fisher} "
                "reads neither; use fisher empirical"
            )
        if self.aggregate is Aggregate.FROBENIUS:
            raise ValueError("minus needs a score for each sample: aggregate trace or mean")
        if self.adaptive:
            raise ValueError("minus scores all samples at once: leave adaptive out")
        if self.head_seeds > 1:
            raise ValueError("minus goes with one head: leave head_seeds out")

    @property
    def scores_in_precision(self) -> bool:
        """Whether the method computes in ``precision``; the others do in float32."""
        return "precision" not in METHODS[self.method].ignores


class JobRequest(Strict):
    """The fields of every request for a job."""

    name: Annotated[str, StringConstraints(max_length=200)] | None = Field(
        None, description="A name of your choice, for lists."
    )
    metadata: Metadata = {}  # noqa: RUF012  # pydantic copies it
    priority: int = Field(0, ge=-100, le=100, description="Jobs of higher priority run first.")
    deadline_seconds: int | None = Field(
        None,
        ge=1,
        le=30 * 24 * 3600,
        description="The job ends with error `deadline_exceeded` if it is not over this many "
        "seconds after it was accepted, however long it waits. Default: no deadline.",
    )

    def stored(self) -> Json:
        """The request as its job shows it, with defaults filled in."""
        return self.model_dump(mode="json")


class Submission(JobRequest):
    """The fields of every request for a job on a model and a dataset."""

    model: ModelId
    dataset: DatasetRef


class RankingSpec(Submission, RankingOptions):
    """Rank the layers of a model on a dataset."""

    cache: Literal["use", "bypass"] = Field(
        "use", description="`use` answers a repeated request with the stored result."
    )


RANKING_OPTIONS = (
    *options_of(RankingOptions, "method", "aggregate", "granularity", "fisher", "draws"),
    *options_of(RankingOptions, "samples", "adaptive", "head_seeds", "precision"),
    option_of(
        RankingOptions,
        "model_prior",
        spelling="--no-prior",
        help="Do not also rank on shuffled labels and tokens.",
    ),
    option_of(RankingOptions, "minus"),
    *options_of(RankingOptions, "max_length", "seed"),
)
"""The command-line options of a ranking."""


class LayerScore(BaseModel):
    """One layer in a ranking, or one part of a layer at a finer granularity."""

    rank: int = Field(description="The place in the ranking, from 1.")
    name: str = Field(description="The name in the model, as a selection takes it.")
    index: int = Field(description="The index of the block.")
    score: float = Field(description="The score by the ranking's method; higher is better.")
    share: float = Field(
        description="The share of the sum of all scores; negative scores count as zero."
    )
    ci: tuple[float, float] | None = Field(
        description="95 % bootstrap interval of the score; null if single samples have no score, "
        "or if a few rows make up all of it."
    )
    p_top_k: dict[str, float] | None = Field(
        description="By k: the probability of being among the top k."
    )
    parameters: int = Field(description="How many parameters the layer has.")
    unbiased: float | None = Field(
        None,
        description="For frobenius: Σ √⟨D¹, D²⟩ over two halves of the samples. With few samples "
        "the score itself is biased upwards, and this value is not.",
    )
    head_std: float | None = Field(
        None, description="Standard deviation of the score over the heads, with `head_seeds`."
    )


class GroupScore(BaseModel):
    """A group of parameters beside the layers. It is scored in the same way but never ranked."""

    name: Literal["embeddings", "pooler", "head", "other"] = Field(
        description="Which part of the model it is."
    )
    score: float | None = Field(description="Null if it was not scored; the warnings say why.")
    parameters: int = Field(description="How many parameters it has.")


class Stability(BaseModel):
    """How far the ranking depends on the sample."""

    split_half_kendall_tau: float | None = Field(
        description="Kendall's rank correlation of the rankings on two halves of the rows; null "
        "if single rows have no score."
    )
    rank_confidence: float | None = Field(
        description="Share of the resamples with exactly this order."
    )
    ambiguous_k: list[int] | None = Field(
        description="Each k whose top-k set recurs in less than 95 % of the resamples."
    )


class RecommendedK(BaseModel):
    """A suggestion for how many layers to train."""

    k: int = Field(description="How many layers to train.")
    reason: str = Field(description="The rule that suggests it, in words.")


class HeadSpread(BaseModel):
    """How far the ranking depends on the random initial weights of the head."""

    heads: int = Field(description="How many heads were averaged.")
    kendall_tau_mean: float | None = Field(description="Mean over all pairs of heads.")
    kendall_tau_min: float | None = Field(description="The smallest of any pair of heads.")


class Agreement(BaseModel):
    """How far two rankings of the same layers agree."""

    kendall_tau: float | None = Field(
        description="Kendall's rank correlation (tau-b) of the two; null if it is not defined, as "
        "for one layer."
    )
    top_k_overlap: dict[str, float] = Field(
        description="By k: the share of the top k that both have."
    )


class ModelPrior(Agreement):
    """How much of the ranking is a property of the model and not of the task.

    Its own fields compare the ranking with that on shuffled labels.
    """

    shuffled_tokens: Agreement = Field(
        description="The same comparison with the ranking on shuffled tokens."
    )
    samples: int = Field(description="Rows that were scored for it.")
    note: str = Field(description="What the numbers mean, in words.")


class AdaptiveRound(BaseModel):
    """How certain the top k were after a number of samples."""

    samples: int = Field(description="Rows scored by then.")
    k: int = Field(description="How many layers were looked at: the recommended k by then.")
    probability: float = Field(
        description="The share of the resamples with the same set of the top k. It decides nothing."
    )
    p_value: float | None = Field(
        None,
        description="Of the least clear difference between one of the top k and another layer, by "
        "a t test paired by row, corrected for skewness, for the number of layers, and for `k` and "
        "its layers being chosen on the same rows. Null in rankings of early versions.",
    )
    level: float | None = Field(
        None,
        description="The top k are certain if `p_value` is at most this: the report's `error_rate` "
        "divided by the number of rounds that were planned. Null in rankings of early versions.",
    )


class AdaptiveReport(BaseModel):
    """Whether, and when, the top k became certain."""

    certain: bool = Field(
        description="Whether the last `p_value` is at most its `level`. In rankings of early "
        "versions: whether the last probability reached 0.95."
    )
    error_rate: float | None = Field(
        None,
        description="How often a ranking like this one calls a wrong set of layers certain, at "
        "most, all rounds together. Null in rankings of early versions.",
    )
    rounds: list[AdaptiveRound] = Field(description="Each look at the top k, in order.")


class MethodScores(BaseModel):
    """The scores of every layer by one method."""

    method: str = Field(description="The method's name.")
    order: list[str] = Field(description="Names, best first.")
    scores: dict[str, float] = Field(description="Scores by name.")
    stability: Stability = Field(description="How far this method's order depends on the sample.")


class MethodTable(BaseModel):
    """The scores by every method on the same samples, and how far the methods agree."""

    methods: list[MethodScores] = Field(description="The scores of each method.")
    kendall_tau: dict[str, dict[str, float | None]] = Field(
        description="Kendall's rank correlation of each pair of methods."
    )


class RankingResult(BaseModel):
    """The layers of an encoder in order of their score."""

    method: str = Field(description="The scoring method.")
    aggregate: Aggregate | None = Field(description="For methods fisher and all.")
    fisher: str | None = Field(description="For methods fisher and all.")
    minus: Literal["shuffled"] | None = Field(
        None,
        description="`shuffled`: a score is how far the layer's part of the total is above its "
        "part on shuffled labels, in standard errors. Null: it is the method's own.",
    )
    granularity: Granularity = Field(Granularity.LAYER, description="What is ranked.")
    precision: Precision = Field(Precision.FP32, description="Number format while scoring.")
    samples: int = Field(
        description="Rows that were scored, each once; 0 for a method that reads no rows."
    )
    path: Literal["batched", "one_sample", "mixed"] | None = Field(
        description="`batched`: all rows of a batch at once. `one_sample`: one row at a time, the "
        "slow path. `mixed`: some batches each. Null if no gradient is taken."
    )
    layers: list[LayerScore] = Field(description="The layers, or parts of layers, best first.")
    groups: list[GroupScore] = Field(
        [], description="Parts of the model beside the layers, which are never ranked."
    )
    stability: Stability = Field(description="How far the order depends on the sample.")
    recommended_k: RecommendedK = Field(
        description="How many layers to train, as far as the scores tell."
    )
    head: HeadReport | None = Field(description="Null if no gradient is taken.")
    head_spread: HeadSpread | None = Field(
        None, description="How far the order depends on the head, with `head_seeds`."
    )
    model_prior: ModelPrior | None = Field(
        None,
        description="How much of the order is the model's own and not the task's; null if it was "
        "not asked for or does not apply.",
    )
    adaptive: AdaptiveReport | None = Field(
        None, description="Whether the top k became certain, with `adaptive`."
    )
    methods: MethodTable | None = Field(None, description="Every method's scores, for method all.")
    processes: int = Field(1, description="The number of processes that shared the scoring.")
    lengths: TokenLengths | None = Field(
        None,
        description="Null if no row is read, and for `paper_compat`, which ignores `max_length`.",
    )
    warnings: list[JobWarning] = Field(description="What a reader of the numbers should know.")
    seconds: dict[str, float] = Field(description="Seconds by phase.")
