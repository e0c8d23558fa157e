"""How a ranking is asked for, and its result.

Each shape is defined once, for the API, the worker and the library.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints, model_validator

from surgery.schemas import Strict
from surgery.schemas.dataset import DatasetRef, TokenLengths
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

Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=64)],
        Annotated[str, StringConstraints(max_length=512)],
    ],
    Field(max_length=16, description="Your own labels: up to 16 pairs of strings."),
]


class HeadSpec(Strict):
    """The task head through which gradients flow."""

    init: Literal["auto", "new"] = Field(
        "auto",
        description="`auto` keeps the checkpoint's own head when it fits the labels; `new` never.",
    )
    warmup_epochs: int | None = Field(
        None,
        ge=0,
        le=100,
        description="Passes over cached features with the encoder frozen. "
        "Default: 1 for a new head, 0 for the checkpoint's own.",
    )
    warmup_samples: int = Field(
        1024, ge=1, le=100_000, description="Training rows whose features are computed for it."
    )


class RankingOptions(Strict):
    """How layers are ranked, the same wherever a ranking is asked for."""

    method: Method = Field(Method.FISHER, description="What a layer's score measures.")
    aggregate: Aggregate = Field(
        Aggregate.TRACE,
        description="How the Fisher information of a layer becomes one number. For method fisher.",
    )
    granularity: Granularity = Field(
        Granularity.LAYER,
        description="What is ranked: layers, their attention and feed-forward parts, or single "
        "tensors.",
    )
    samples: int = Field(
        256, ge=SAMPLES[0], le=SAMPLES[1], description="Training rows scored, each once."
    )
    adaptive: bool = Field(
        False,
        description="Score ever more rows, up to `samples`, until the set of the top "
        "`recommended_k` recurs in 95 % of the resamples. For trace and mean.",
    )
    max_length: int = Field(128, ge=4, le=8192, description="Tokens kept of a row.")
    batch_size: int | None = Field(
        None, ge=1, le=4096, description="Rows a batch; default: by a budget of tokens."
    )
    seed: int = Field(
        0, ge=0, lt=2**31, description="Seed of the sample and of all that is drawn at random."
    )
    fisher: Fisher = Field(
        Fisher.EMPIRICAL,
        description="Which labels the gradients are taken at: the dataset's, some drawn from the "
        "model's own prediction, or all by their probability. For method fisher.",
    )
    draws: int = Field(1, ge=1, le=64, description="Labels drawn for each row. For fisher sampled.")
    head: HeadSpec = HeadSpec()
    head_seeds: int = Field(
        1, ge=1, le=16, description="Average over so many new heads and report their spread."
    )
    bootstrap: int = Field(1000, ge=0, le=20_000, description="Resamples behind the intervals.")
    model_prior: bool = Field(
        True,
        description="Also rank on shuffled labels and on shuffled tokens, with up to 128 rows "
        "each, to tell how much of the ranking is about the task. For method fisher.",
    )
    precision: Precision | None = Field(
        None,
        description="Number format while scoring. Default: bf16 on a GPU that has it, else fp32; "
        "the result says which.",
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
        if self.granularity is not Granularity.LAYER and facts.whole_layers_only:
            raise ValueError(f"method {self.method} scores whole layers: leave granularity out")
        return self

    @property
    def scores_in_precision(self) -> bool:
        """Whether the method computes in ``precision``; the others do in float32."""
        return "precision" not in METHODS[self.method].ignores


class Submission(Strict):
    """What every job carries."""

    model: ModelId
    dataset: DatasetRef
    name: Annotated[str, StringConstraints(max_length=200)] | None = None
    metadata: Metadata = {}  # noqa: RUF012  # pydantic copies it
    priority: int = Field(0, ge=-100, le=100, description="Higher runs first.")


class RankingSpec(Submission, RankingOptions):
    """Rank the layers of a model on a dataset."""

    cache: Literal["use", "bypass"] = Field(
        "use", description="`use` answers a repeated ranking from the stored result."
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
    *options_of(RankingOptions, "max_length", "seed"),
)
"""What a command line can say of a ranking."""


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
