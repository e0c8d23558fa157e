"""The shapes of requests and results, defined once for the API, the worker and the library.

Importing this module does not import torch.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from surgery.dataset_spec import WORD, DatasetRef, Strict
from surgery.terms import Aggregate, Fisher, Granularity, Method, Policy, Precision

MODEL_PATTERN = rf"^{WORD}(?:/{WORD})?(?:@{WORD})?$"

ModelId = Annotated[
    str,
    StringConstraints(max_length=300),
    Field(
        description="Hugging Face model id, `owner/name` or `name`, with an optional `@revision`.",
        examples=["google-bert/bert-base-cased"],
    ),
]


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

    method: Method = Method.FISHER
    aggregate: Aggregate = Field(Aggregate.TRACE, description="For method fisher.")
    granularity: Granularity = Granularity.LAYER
    samples: int = Field(256, ge=2, le=1_000_000, description="Training rows scored, each once.")
    adaptive: bool = Field(
        False,
        description="Score ever more rows, up to `samples`, until the set of the top "
        "`recommended_k` recurs in 95 % of the resamples. For trace and mean.",
    )
    max_length: int = Field(128, ge=4, le=8192, description="Tokens kept of a row.")
    batch_size: int | None = Field(
        None, ge=1, le=4096, description="Rows a batch; default: by a budget of tokens."
    )
    seed: int = Field(0, ge=0, lt=2**31)
    fisher: Fisher = Field(Fisher.EMPIRICAL, description="For method fisher.")
    draws: int = Field(1, ge=1, le=64, description="Labels drawn a sample, for fisher sampled.")
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
    precision: Precision = Precision.FP32

    @model_validator(mode="after")
    def _consistent(self) -> RankingOptions:
        for name in self._meaningless():
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
        if self.granularity is not Granularity.LAYER and self.method in _BY_LAYER:
            raise ValueError(f"method {self.method} scores whole layers: leave granularity out")
        return self

    def _meaningless(self) -> tuple[str, ...]:
        if self.method is Method.PAPER_COMPAT:
            return (*_FISHER_ONLY, "samples", "max_length", "head_seeds", "bootstrap", "precision")
        if self.method is Method.ALL:
            return ("adaptive",)
        if self.method is Method.FISHER:
            return ()
        if self.method in _HEADLESS:
            return (*_FISHER_ONLY, "head_seeds", "precision")
        if self.method is Method.TANGENT:
            return (*_FISHER_ONLY, "precision")
        return _FISHER_ONLY


_FISHER_ONLY = ("aggregate", "fisher", "draws", "adaptive", "model_prior")
_HEADLESS = {
    Method.WEIGHT_SNR, Method.CLS_SIMILARITY, Method.FIRST, Method.LAST, Method.RANDOM,
}  # fmt: skip
_BY_LAYER = {Method.CLS_SIMILARITY, Method.TANGENT, Method.PAPER_COMPAT, Method.ALL}


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


class SelectionSpec(Strict):
    """Which layers train. The head always does."""

    policy: Policy = Policy.TOP_K
    k: int | None = Field(None, ge=1, le=10_000, description="How many, for the *_k policies.")
    ranking: Annotated[str, StringConstraints(max_length=64)] | RankingOptions | None = Field(
        None,
        description="For top_k: a ranking's id, options of one to compute first, or nothing for "
        "the default ranking of the same model and dataset.",
    )
    layers: list[str | int] | None = Field(
        None, max_length=10_000, description="Names or indices, for `layers`."
    )
    seed: int = Field(0, ge=0, lt=2**31, description="For random_k.")
    include: list[Literal["embeddings", "pooler"]] = Field(
        [], description="What else trains beside the layers and the head."
    )

    @model_validator(mode="after")
    def _complete(self) -> SelectionSpec:
        counted = self.policy.value.endswith("_k")
        if counted and self.k is None:
            raise ValueError(f"policy {self.policy.value} needs k, the number of layers to train")
        if not counted and self.k is not None:
            raise ValueError(f"k means nothing to policy {self.policy.value}; leave it out")
        if (self.policy is Policy.LAYERS) != (self.layers is not None):
            raise ValueError("layers goes with policy layers, and is needed there")
        if self.layers == []:
            raise ValueError("layers is empty: name a layer, or use policy head_only")
        if self.ranking is not None and self.policy is not Policy.TOP_K:
            raise ValueError(f"ranking means nothing to policy {self.policy.value}; leave it out")
        given = self.ranking
        if isinstance(given, RankingOptions) and given.granularity is not Granularity.LAYER:
            raise ValueError("a selection is of whole layers: leave the ranking's granularity out")
        return self


class TrainingSpec(Strict):
    """The optimisation: AdamW on the trained tensors."""

    epochs: int = Field(3, ge=1, le=1000)
    max_steps: int | None = Field(None, ge=1, description="Stop after so many optimizer steps.")
    learning_rate: float = Field(5e-5, gt=0, le=1, allow_inf_nan=False)
    weight_decay: float = Field(0.01, ge=0, le=1, allow_inf_nan=False)
    warmup_ratio: float = Field(
        0.06,
        ge=0,
        lt=1,
        description="Share of the steps over which the rate rises.",
    )
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    max_grad_norm: float = Field(1.0, gt=0, allow_inf_nan=False)
    batch_size: int = Field(32, ge=1, le=4096)
    max_length: int = Field(128, ge=4, le=8192)
    seed: int = Field(0, ge=0, lt=2**31)


class CheckpointSpec(Strict):
    """What is kept of a run."""

    keep: Literal["best", "last", "best_and_last", "all"] = "best_and_last"
    form: Literal["delta", "full"] = Field(
        "delta", description="`delta` holds what was trained; `full` is a transformers folder."
    )


class FinetuneSpec(Submission):
    """Fine-tune a model on a dataset, training only the selected layers and the head."""

    selection: SelectionSpec
    training: TrainingSpec = TrainingSpec()
    checkpoints: CheckpointSpec = CheckpointSpec()
    track_ranking: bool = Field(
        False,
        description="Score 128 training rows at the start and at every evaluation, to see whether "
        "the ranking of the layers stays the same while they train.",
    )


def nearest(word: str, known: list[str]) -> str | None:
    """The known name most like a misspelt one, if any is near."""
    from difflib import get_close_matches

    found = get_close_matches(word, known, n=1, cutoff=0.6)
    return found[0] if found else None
