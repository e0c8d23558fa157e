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


class Strict(BaseModel):
    """Unknown fields are refused: a misspelt option must not be ignored."""

    model_config = ConfigDict(extra="forbid", use_enum_values=False, ser_json_inf_nan="null")


class Problem(StrEnum):
    """What is predicted from a row."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"
    MULTIPLE_CHOICE = "multiple_choice"
    TOKEN_CLASSIFICATION = "token_classification"


class Aggregate(StrEnum):
    """How the diagonal of a layer's Fisher information becomes one number."""

    TRACE = "trace"
    """Its sum: the mean over samples of the squared gradient norm. Cheapest; exact intervals."""
    MEAN = "mean"
    """The trace over the number of parameters: layers of different sizes on one scale."""
    FROBENIUS = "frobenius"
    """The norm of the diagonal, summed over tensors: the released code of the paper."""


class Policy(StrEnum):
    """Which layers train."""

    TOP_K = "top_k"
    FIRST_K = "first_k"
    LAST_K = "last_k"
    RANDOM_K = "random_k"
    LAYERS = "layers"
    ALL = "all"
    HEAD_ONLY = "head_only"


class Columns(Strict):
    """Which column of a table plays which part."""

    text: ColumnName | None = Field(None, description="The text, or the first text of a pair.")
    text_pair: ColumnName | None = Field(None, description="The second text of a pair.")
    label: ColumnName | None = Field(None, description="The class, or the number to predict.")


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

    @model_validator(mode="after")
    def _columns_named(self) -> HubDataset:
        if not self.columns.text or not self.columns.label:
            raise ValueError("columns.text and columns.label must both be named for a Hub dataset")
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

    method: Literal["fisher"] = "fisher"
    aggregate: Aggregate = Aggregate.TRACE
    granularity: Literal["layer"] = "layer"
    samples: int = Field(256, ge=2, le=1_000_000, description="Training rows scored, each once.")
    max_length: int = Field(128, ge=4, le=8192, description="Tokens kept of a row.")
    batch_size: int | None = Field(
        None, ge=1, le=4096, description="Rows a batch; default: by a budget of tokens."
    )
    seed: int = Field(0, ge=0, lt=2**31)
    fisher: Literal["empirical"] = "empirical"
    head: HeadSpec = HeadSpec()
    bootstrap: int = Field(1000, ge=0, le=20_000, description="Resamples behind the intervals.")


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
