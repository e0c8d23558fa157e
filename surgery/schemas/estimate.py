"""The question what fine-tunes will take, and its answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from surgery.schemas import Strict
from surgery.schemas.dataset import DatasetRef
from surgery.schemas.fields import ModelId
from surgery.schemas.selection import SelectionSpec
from surgery.schemas.training import AdapterSpec, TrainingSpec

MAX_ROWS = 256  # values of k in one question
Position = Literal["exact", "lowest", "highest"]
Count = Annotated[int, Field(ge=1, le=10_000)]


class EstimateSpec(Strict):
    """What would a fine-tune cost, for each of several numbers of layers?"""

    model: ModelId
    dataset: DatasetRef
    training: TrainingSpec = TrainingSpec()
    selection: SelectionSpec | None = Field(
        None,
        description="As of a fine-tune; beside `k`, the `k` of a *_k policy may be left out. "
        "Default: `top_k`.",
    )
    adapter: AdapterSpec | None = Field(None, description="Instead of layers.")
    k: list[Count] | None = Field(
        None,
        min_length=1,
        max_length=MAX_ROWS,
        description="Numbers of layers to compare. Default: the selection's own, and without a "
        "selection every number of layers the model has.",
    )

    @model_validator(mode="before")
    @classmethod
    def _k_of_the_list(cls, values: Any) -> Any:
        """A policy that counts needs a k of its own only where no list gives some."""
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
        if self.k is not None and self.selection is not None and self.selection.k is None:
            raise ValueError(
                f"k means nothing to policy {self.selection.policy.value}; leave it out"
            )
        return self


class LengthBasis(BaseModel):
    """Where the number of tokens comes from."""

    source: Literal["job", "words", "unknown"] = Field(
        description="`job`: an earlier job of this model counted tokens of this dataset; `words`: "
        "the upload's words times `tokens_per_word`; `unknown`: neither, so times are null and "
        "memory is that of rows as long as `max_length`."
    )
    job: str | None = None
    tokens_per_word: float | None = None
    mean_tokens: float | None = Field(description="Of a row after the cut, its choices together.")
    longest: int = Field(description="Tokens of the longest row, or choice, after the cut.")


class ThroughputBasis(BaseModel):
    """How fast a worker was, and on what."""

    basis: Literal["measured on this model", "measured on other models of this device"]
    device: str = Field(description="That of the newest fine-tune that finished.")
    precision: str
    operations_per_second: float = Field(
        description="Floating-point operations of the blocks, by the count in docs/estimates.md."
    )
    jobs: int = Field(description="Fine-tunes it is taken from.")


class EstimatedSeconds(BaseModel):
    """Of training and evaluation, without loading the model and tokenising."""

    first_epoch: float = Field(description="With computing the frozen prefix's states.")
    later_epoch: float | None = Field(description="Each; null where there is none.")
    total: float


class EstimateRow(BaseModel):
    """What one fine-tune would take. What is not known is null."""

    k: int | None = Field(description="Layers, or finer parts of them; null for an adapter.")
    policy: str = Field(description="Of the selection; for an adapter its type.")
    position: Position = Field(
        description="`exact`: these very layers train. Where a ranking that is not there yet will "
        "choose them: `lowest` is the costliest choice, that with the lowest layer, and `highest` "
        "the cheapest, the topmost layers."
    )
    lowest_layer: int | None = Field(description="The lowest that trains; null for the head alone.")
    trainable_parameters: int | None
    weights_bytes: int | None
    gradient_bytes: int | None
    optimizer_bytes: int | None = Field(description="AdamW's two moments.")
    activation_bytes: int | None = Field(
        description="Kept for the backward pass of the largest batch; an upper bound."
    )
    prefix_cache_bytes: int | None = Field(
        description="States of the frozen prefix, if kept: one a "
        "token, or one a sequence where only a head trains that reads its first token's.",
    )
    peak_memory_bytes: int | None = Field(
        description="All of these at once. On a CPU the process itself comes on top: see "
        "`process_bytes`."
    )
    checkpoint_bytes: int | None = Field(description="Tensors of a delta checkpoint.")
    steps: int | None = Field(description="Optimizer steps, unless it stops early.")
    seconds: EstimatedSeconds | None = Field(
        description="Null until a worker has finished a fine-tune on the device, and where the "
        "number of tokens is not known."
    )


class Estimate(BaseModel):
    """Costs before anything runs."""

    model: str
    dataset: str
    layers: int
    total_parameters: int | None = Field(description="Of the model with its head.")
    lengths: LengthBasis
    throughput: ThroughputBasis | None
    process_bytes: int | None = Field(
        description="Memory of a worker's process before it loads a model, as last measured on "
        "this device; 0 on a GPU, null until measured."
    )
    rows: list[EstimateRow]
