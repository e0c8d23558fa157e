"""The request for an estimate of what fine-tunes will cost, and its result."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from surgery.schemas import Strict
from surgery.schemas.data.dataset import DatasetRef
from surgery.schemas.fields import ModelId
from surgery.schemas.jobs.finetune import check_scheduled
from surgery.schemas.jobs.search import SearchOptions, check_searched
from surgery.schemas.jobs.selection import SelectionSpec
from surgery.schemas.options.adapter import AdapterSpec
from surgery.schemas.options.training import TrainingSpec

MAX_ROWS = 256  # values of k in one request
Position = Literal["exact", "lowest", "highest"]
Count = Annotated[int, Field(ge=1, le=10_000)]


class EstimateSpec(Strict):
    """Estimate what fine-tunes of several numbers of layers would cost, or what a search would."""

    model: ModelId
    dataset: DatasetRef
    training: TrainingSpec = Field(TrainingSpec(), description="How it would train.")
    selection: SelectionSpec | None = Field(
        None,
        description="As in a fine-tune. With `k`, a *_k policy needs no `k` in its selection. "
        "Default: `top_k`.",
    )
    adapter: AdapterSpec | None = Field(None, description="An adapter to train instead of layers.")
    search: SearchOptions | None = Field(
        None, description="The options of a search, to estimate that instead of a fine-tune."
    )
    k: list[Count] | None = Field(
        None,
        min_length=1,
        max_length=MAX_ROWS,
        description="Numbers of layers to compare. Default: the selection's `k` or, without a "
        "selection, every number of layers that the model has.",
    )

    @model_validator(mode="before")
    @classmethod
    def _k_of_the_list(cls, values: Any) -> Any:
        """Take the selection's k from the list, if a policy that needs one has none."""
        if not isinstance(values, dict) or not isinstance(values.get("selection"), dict):
            return values
        selection, listed = values["selection"], values.get("k")
        counts = str(selection.get("policy", "top_k")).endswith("_k")
        if counts and "k" not in selection and isinstance(listed, list) and listed:
            return {**values, "selection": {**selection, "k": listed[0]}}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> EstimateSpec:
        if self.adapter is not None and (self.selection is not None or self.k is not None):
            raise ValueError("adapter trains no layers: leave selection and k out")
        check_scheduled(self.training, self.adapter, self.selection)
        if self.search is not None and (self.adapter or self.selection or self.k):
            raise ValueError("search finds the layers: leave selection, k and adapter out")
        if self.search is not None:
            check_searched(self.training)
        if self.k is not None and self.selection is not None and self.selection.k is None:
            raise ValueError(
                f"k means nothing to policy {self.selection.policy.value}; leave it out"
            )
        return self


class LengthBasis(BaseModel):
    """Where the number of tokens in a row comes from."""

    source: Literal["job", "words", "first_rows", "unknown"] = Field(
        description="`job`: an earlier job of this model counted the tokens of this dataset. "
        "`words`: the words of the upload times `tokens_per_word`. `first_rows`: so, but of the "
        "first rows of a mirror's file, and memory is that of rows as long as `max_length`. "
        "`unknown`: neither is known, so times and memory are those of rows as long as "
        "`max_length`, which is the most that they can be."
    )
    job: str | None = Field(None, description="The job that counted the tokens, for source `job`.")
    tokens_per_word: float | None = Field(
        None, description="Tokens for each word, for sources `words` and `first_rows`."
    )
    mean_tokens: float | None = Field(
        description="Mean tokens of a row after truncation, over all its choices."
    )
    longest: int = Field(description="Tokens of the longest row, or choice, after truncation.")


class SpeedBasis(StrEnum):
    """What the seconds of an estimate are computed from."""

    OWN_RUNS = "measured on this model"
    OTHER_RUNS = "measured on other models of this device"
    PROBE = "measured by a worker when it started"
    NONE = "none"


class ThroughputBasis(BaseModel):
    """How fast the device trains, where that was measured, and how good the seconds are."""

    basis: SpeedBasis = Field(
        description="`measured on this model`: by earlier fine-tunes of this model. `measured on "
        "other models of this device`: by earlier fine-tunes of others. `measured by a worker when "
        "it started`: by a short probe, before any fine-tune in this precision. `none`: by nothing "
        "yet; all seconds are null."
    )
    accuracy: str = Field(
        description="How far the seconds may be off, in words; for `none`, why there are none."
    )
    device: str | None = Field(
        None,
        description="The device of the last fine-tune that finished, or that a probe measured.",
    )
    precision: str | None = Field(None, description="Number format of the matrix products.")
    operations_per_second: float | None = Field(
        None,
        description="Floating-point operations of the blocks, counted as in "
        "docs/science/estimates.md.",
    )
    jobs: int = Field(0, description="How many fine-tunes it is based on.")
    worker: str | None = Field(None, description="The worker whose probe it is.")
    measured_at: datetime | None = Field(None, description="When the probe was made.")


class ProbedSpeed(BaseModel):
    """How fast a device takes training steps of an encoder of one width, in one precision."""

    precision: str = Field(description="Number format of the matrix products.")
    width: int = Field(description="Width of a token's state in the encoder that was made for it.")
    operations_per_second: float = Field(
        gt=0, description="Floating-point operations, counted as those of estimates."
    )


class Probe(BaseModel):
    """What a worker measured when it started: training steps of a small encoder on made tokens."""

    device: str = Field(max_length=200, description="The device, on a CPU with its threads.")
    torch: str = Field(max_length=80, description="The version of torch.")
    speeds: list[ProbedSpeed] = Field(max_length=64, description="One for each that was measured.")
    failures: dict[str, str] = Field({}, description="What failed, by precision.")
    seconds: float = Field(description="How long it took.")


class EstimatedSeconds(BaseModel):
    """Seconds of training and evaluation, without loading the model and tokenising."""

    first_epoch: float = Field(
        description="Includes fitting a new head, and computing the states of the frozen prefix."
    )
    later_epoch: float | None = Field(
        description="Each of the other epochs; null if there is only one."
    )
    rates: float | None = Field(
        None, description="Choosing among `learning_rates`, before the first epoch; else null."
    )
    total: float = Field(description="All epochs together, and the choice of a rate.")


class EstimateRow(BaseModel):
    """What one fine-tune would cost. Unknown values are null."""

    k: int | None = Field(
        description="The number of layers, or of finer parts; null for an adapter."
    )
    policy: str = Field(description="The policy of the selection or, for an adapter, its type.")
    position: Position = Field(
        description="`exact`: these very layers train. If a ranking that does not exist yet will "
        "choose them, `lowest` is the costliest choice, with the lowest layer, and `highest` is "
        "the cheapest, the topmost layers; so of the candidates of a search that has not run yet."
    )
    lowest_layer: int | None = Field(
        description="The lowest layer that trains; null if only the head does."
    )
    trainable_parameters: int | None = Field(
        description="Parameters that would train, with the head; with `layer_schedule` not all of "
        "them at once, which the bytes below allow for."
    )
    weights_bytes: int | None = Field(description="The model's weights.")
    gradient_bytes: int | None = Field(
        description="The gradients of what trains; with `layer_schedule`, of the most that does in "
        "one step."
    )
    optimizer_bytes: int | None = Field(description="The two moments of AdamW, of the same.")
    activation_bytes: int | None = Field(
        description="An upper bound on what the backward pass of the largest batch needs."
    )
    prefix_cache_bytes: int | None = Field(
        description="States of the frozen prefix, if they are cached: one for each token, or one "
        "for each sequence if only the head trains and reads the first token alone.",
    )
    peak_memory_bytes: int | None = Field(
        description="The sum of these. On a CPU the memory of the process itself comes on top, see "
        "`process_bytes`."
    )
    checkpoint_bytes: int | None = Field(
        description="The size of the tensors in a delta checkpoint."
    )
    steps: int | None = Field(
        description="Optimizer steps, unless it stops early; without those of `learning_rates`."
    )
    seconds: EstimatedSeconds | None = Field(
        description="Null until a worker has measured its device, which it does when it starts, "
        "and if the number of rows is unknown."
    )


class SearchEstimate(BaseModel):
    """What a search would cost, before it runs. Unknown values are null."""

    candidates: int = Field(description="How many sets of layers it may try.")
    singles_seconds: float | None = Field(
        description="What training each layer alone once, on all rows for all epochs, would take."
    )
    budget_seconds: float | None = Field(
        description="The most that trying candidates takes; it may end earlier."
    )
    peak_memory_bytes: int | None = Field(
        description="The memory of its costliest candidate. The states of frozen layers that "
        "candidates share come on top where there is room."
    )


class Estimate(BaseModel):
    """Estimated costs of fine-tunes or of a search, before any of them runs."""

    model: str = Field(description="The model's id.")
    dataset: str = Field(description="The dataset's id.")
    layers: int = Field(description="How many layers the model has.")
    total_parameters: int | None = Field(description="Parameters of the model with its head.")
    lengths: LengthBasis = Field(description="Where the number of tokens in a row comes from.")
    throughput: ThroughputBasis = Field(
        description="What the seconds are based on, and how far they may be off."
    )
    process_bytes: int | None = Field(
        description="Memory of a worker's process before it loads a model, as last measured on "
        "this device; 0 on a GPU, null until it is measured."
    )
    rows: list[EstimateRow] = Field(
        description="One row for each number of layers; none for a search alone."
    )
    search: SearchEstimate | None = Field(
        None, description="For a search, alone or before a fine-tune: what that would cost."
    )
