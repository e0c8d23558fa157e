"""How a fine-tune is asked for, and its result."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints, model_validator

from surgery.schemas import Strict
from surgery.schemas.dataset import TokenLengths
from surgery.schemas.enums import POLICIES, Policy, TrainingPrecision
from surgery.schemas.ranking import Agreement, Submission
from surgery.schemas.selection import SelectionSpec
from surgery.schemas.training import AdapterSpec, CheckpointSpec, TrainingSpec

AlsoEvaluate = Annotated[
    list[Annotated[str, StringConstraints(max_length=100)]],
    Field(
        max_length=8,
        description="Presets on which each evaluation measures too, such as `glue/ax` for a model "
        "trained on `glue/mnli`.",
        examples=[["glue/ax"]],
    ),
]


class Throughput(BaseModel):
    """How fast the steps were; what later estimates are taken from."""

    device: str
    precision: TrainingPrecision
    operations: float = Field(
        description="Floating-point operations of the blocks in all steps, counted from sizes."
    )
    seconds: float
    mean_tokens: float = Field(description="Of a training row after the cut, its choices together.")
    mean_squares: float = Field(description="Of the squared lengths of a row's sequences.")
    process_bytes: int | None = Field(
        description="Memory that the process held beside the model; 0 on a GPU."
    )


class OnnxReport(BaseModel):
    """The exported model, run by onnxruntime beside torch."""

    opset: int
    bytes: int
    rows: int = Field(description="Validation rows compared.")
    lengths: list[int] = Field(description="Their lengths, in tokens.")
    max_abs_difference: float = Field(description="Of a logit, on any of the rows.")
    seconds: float = 0.0


class SelectionOrAdapter(Strict):
    """What trains: selected layers, or an adapter."""

    selection: SelectionSpec
    adapter: AdapterSpec | None = Field(
        None, description="Train an adapter instead of layers, as a peer to compare with."
    )

    @model_validator(mode="before")
    @classmethod
    def _adapter_alone(cls, values: Any) -> Any:
        """An adapter leaves every layer frozen: its selection is the head."""
        if isinstance(values, dict) and values.get("adapter") and "selection" not in values:
            return {**values, "selection": {"policy": Policy.HEAD_ONLY}}
        return values

    @model_validator(mode="after")
    def _one_of_both(self) -> SelectionOrAdapter:
        if self.adapter is not None and self.selection.policy is not Policy.HEAD_ONLY:
            raise ValueError(
                "selection does not go with an adapter, which trains in place of layers"
            )
        if self.adapter is not None and self.selection.include:
            raise ValueError("selection.include does not go with an adapter; leave it out")
        return self


class FinetuneSpec(SelectionOrAdapter, Submission):
    """Fine-tune a model on a dataset, training only the selected layers and the head."""

    training: TrainingSpec = TrainingSpec()
    checkpoints: CheckpointSpec = CheckpointSpec()
    continue_from: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        None,
        description="A checkpoint's id: begin with its weights instead of the model's. It is of "
        "the same model and labels.",
    )
    also_evaluate: AlsoEvaluate = Field([])
    track_ranking: bool = Field(
        False,
        description="Score 128 training rows at the start and at every evaluation, to see whether "
        "the ranking of the layers stays the same while they train.",
    )
    processes: int = Field(
        1, ge=1, le=64, description="Train on so many devices of one machine at once."
    )

    @model_validator(mode="after")
    def _fits_lora(self) -> FinetuneSpec:
        if self.adapter is None or self.adapter.type != "lora":
            return self
        if self.track_ranking:
            raise ValueError(
                "track_ranking scores layers as they were loaded, and lora changes what they "
                "hold; leave it out"
            )
        if self.continue_from and self.checkpoints.form == "delta":
            raise ValueError(
                "an adapter of a continued model would not fit the model named here; set "
                "checkpoints.form to full with continue_from"
            )
        return self

    @model_validator(mode="after")
    def _rates_need_scores(self) -> FinetuneSpec:
        ranked = POLICIES[self.selection.policy].needs_ranking
        if self.training.layer_learning_rates and not ranked:
            raise ValueError(
                "training.layer_learning_rates go by the scores of a ranking, and policy "
                f"{self.selection.policy.value} has none"
            )
        return self


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
