"""The shapes of requests and results, defined once for the API, the worker and the library.

Importing this module does not import torch.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

# A dot is always followed by something else: no name is "..", and none leaves its folder.
_WORD = r"[A-Za-z0-9_](?:\.?[A-Za-z0-9_-])*"
MODEL_PATTERN = rf"^{_WORD}(?:/{_WORD})?(?:@{_WORD})?$"
HUB_DATASET_PATTERN = rf"^{_WORD}(?:/{_WORD})?$"
NAME_PATTERN = rf"^{_WORD}$"

ModelId = Annotated[
    str,
    StringConstraints(max_length=300),
    Field(
        description="Hugging Face model id, `owner/name` or `name`, with an optional `@revision`.",
        examples=["google-bert/bert-base-cased"],
    ),
]
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


class Problem(StrEnum):
    """What is predicted from a row."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"
    MULTIPLE_CHOICE = "multiple_choice"
    TOKEN_CLASSIFICATION = "token_classification"  # noqa: S105  # no password


class Aggregate(StrEnum):
    """How the diagonal of a layer's Fisher information becomes one number."""

    TRACE = "trace"
    """Its sum: the mean over samples of the squared gradient norm. Cheapest; exact intervals."""
    MEAN = "mean"
    """The trace over the number of parameters: layers of different sizes on one scale."""
    FROBENIUS = "frobenius"
    """The norm of the diagonal, summed over tensors: the released code of the paper."""


class Method(StrEnum):
    """What a layer's score measures."""

    FISHER = "fisher"
    """The diagonal of the Fisher information: mean squared per-sample gradients."""
    GRADIENT_NORM = "gradient_norm"
    """‖ḡ‖ of the mean gradient."""
    RELATIVE_GRADIENT_NORM = "relative_gradient_norm"
    """Mean over tensors of ‖ḡ_p‖/‖θ_p‖ (Lee et al., "Surgical Fine-Tuning", ICLR 2023)."""
    SNIP = "snip"
    """Σ|ḡ·θ| (Lee et al., "SNIP", ICLR 2019)."""
    WEIGHT_SNR = "weight_snr"
    """Singular values above the noise edge over those below (Spectrum, 2024); uses no data."""
    CLS_SIMILARITY = "cls_similarity"
    """How far a layer turns the first token's state: 1 − cosine. One forward pass."""
    TANGENT = "tangent"
    """How well the layer's tangent kernel predicts what the head leaves unexplained."""
    LAST = "last"
    """Upper layers first."""
    FIRST = "first"
    """Lower layers first."""
    RANDOM = "random"
    """A seeded order: what any method has to beat."""
    PAPER_COMPAT = "paper_compat"
    """The computation of the paper's released code, for comparison only."""
    ALL = "all"
    """Rank by `fisher`, and tabulate every other method beside it."""


class Granularity(StrEnum):
    """What is ranked."""

    LAYER = "layer"
    """Transformer blocks."""
    SUBLAYER = "sublayer"
    """Attention and feed-forward part of each block, each with its norms."""
    TENSOR = "tensor"
    """Single parameter tensors of the blocks."""


class Fisher(StrEnum):
    """Which labels the squared gradients are taken at. Cost in backward passes a batch."""

    EMPIRICAL = "empirical"
    """The dataset's labels: one pass."""
    SAMPLED = "sampled"
    """Labels drawn from the model's own prediction: one pass a draw."""
    EXACT = "exact"
    """The expectation over the model's prediction: one pass for two classes and for regression,
    C − 1 for C classes, as many a labelled token for token classification."""


class Precision(StrEnum):
    """Number format of weights and activations while scoring; sums are always float32 or wider."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class Policy(StrEnum):
    """Which layers train."""

    TOP_K = "top_k"
    FIRST_K = "first_k"
    LAST_K = "last_k"
    RANDOM_K = "random_k"
    LAYERS = "layers"
    ALL = "all"
    HEAD_ONLY = "head_only"


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
    metadata: Metadata = {}
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


def nearest(word: str, known: list[str]) -> str | None:
    """The known name most like a misspelt one, if any is near."""
    from difflib import get_close_matches

    found = get_close_matches(word, known, n=1, cutoff=0.6)
    return found[0] if found else None
