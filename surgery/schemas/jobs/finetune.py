"""The request for a fine-tune, and its result."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints, model_validator

from surgery.schemas import JobWarning, Strict
from surgery.schemas.data.dataset import TokenLengths
from surgery.schemas.enums import POLICIES, Policy, TrainingPrecision
from surgery.schemas.jobs.ranking import Agreement, Submission
from surgery.schemas.jobs.selection import SelectionSpec
from surgery.schemas.options.adapter import LORA_LEARNING_RATE, AdapterSpec
from surgery.schemas.options.head import HeadReport
from surgery.schemas.options.training import CheckpointSpec, TrainingSpec, names_a_rate

AlsoEvaluate = Annotated[
    list[Annotated[str, StringConstraints(max_length=100)]],
    Field(
        max_length=8,
        description="Further presets to measure at each evaluation, such as `glue/ax` for a model "
        "trained on `glue/mnli`.",
        examples=[["glue/ax"]],
    ),
]


class Throughput(BaseModel):
    """How fast the steps were. Later estimates are based on this."""

    device: str = Field(description="The device that trained.")
    precision: TrainingPrecision = Field(description="Number format of the matrix products.")
    operations: float = Field(
        description="Floating-point operations of the blocks in all steps, computed from sizes."
    )
    seconds: float = Field(description="Seconds of all steps.")
    mean_tokens: float = Field(
        description="Mean tokens of a training row after truncation, over all its choices."
    )
    mean_squares: float = Field(
        description="Mean over rows of the sum of the squared lengths of their sequences."
    )
    process_bytes: int | None = Field(
        description="Memory of the process without the model; 0 on a GPU."
    )


class OnnxReport(BaseModel):
    """The comparison of the exported model, run by onnxruntime, with torch."""

    opset: int = Field(description="The version of ONNX's operators.")
    bytes: int = Field(description="The size of the exported file.")
    rows: int = Field(description="The number of validation rows compared.")
    lengths: list[int] = Field(description="The lengths of these rows, in tokens.")
    max_abs_difference: float = Field(description="The largest difference of a logit on any row.")
    seconds: float = Field(0.0, description="Seconds that the export took.")


class SelectionOrAdapter(Strict):
    """What trains: either selected layers or an adapter."""

    selection: SelectionSpec = Field(description="Which layers train.")
    adapter: AdapterSpec | None = Field(
        None, description="Train an adapter instead of layers, for comparison."
    )

    @model_validator(mode="before")
    @classmethod
    def _adapter_alone(cls, values: Any) -> Any:
        """Select the head alone for an adapter, since every layer stays frozen."""
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


def check_scheduled(
    training: TrainingSpec, adapter: AdapterSpec | None, selection: SelectionSpec | None
) -> None:
    """Raise ValueError if a layer schedule has no layers to schedule."""
    if training.layer_schedule is None:
        return
    if adapter is not None:
        raise ValueError(
            "training.layer_schedule says when layers train, and an adapter trains in place of "
            "layers; leave one of them out"
        )
    if selection is not None and selection.policy is Policy.HEAD_ONLY:
        raise ValueError(
            "training.layer_schedule says when selected layers train, and policy head_only selects "
            "none; leave it out"
        )


class FinetuneSpec(SelectionOrAdapter, Submission):
    """Fine-tune a model on a dataset, training only the selected layers and the head."""

    training: TrainingSpec = Field(TrainingSpec(), description="How it trains.")
    checkpoints: CheckpointSpec = Field(
        CheckpointSpec(), description="Which checkpoints are kept, and in which form."
    )
    continue_from: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        None,
        description="The id of a checkpoint whose weights to start from instead of the model's. It "
        "must be of the same model and labels.",
    )
    also_evaluate: AlsoEvaluate = Field([])
    track_ranking: bool = Field(
        False,
        description="Score 128 training rows at the start and at every evaluation, to show whether "
        "the ranking of the layers stays the same during training.",
    )
    processes: int = Field(
        1, ge=1, le=64, description="Train on this many devices of one machine at once."
    )

    @model_validator(mode="after")
    def _rate_of_lora(self) -> FinetuneSpec:
        """Give LoRA a rate of its own, stored with the request, unless that names one."""
        is_lora = self.adapter is not None and self.adapter.type == "lora"
        if is_lora and not names_a_rate(self.training):
            rate = {"learning_rate": LORA_LEARNING_RATE}
            self.training = self.training.model_copy(update=rate)
        return self

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
    def _one_head(self) -> FinetuneSpec:
        if self.continue_from and self.training.head.init == "new":
            raise ValueError(
                "training.head.init new draws a head, and continue_from goes on with the "
                "checkpoint's; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _fits_layer_schedule(self) -> FinetuneSpec:
        check_scheduled(self.training, self.adapter, self.selection)
        if self.training.layer_schedule is not None and self.processes > 1:
            raise ValueError(
                "training.layer_schedule does not go with several processes, whose exchange of "
                "gradients is laid out once for all; leave processes out"
            )
        return self

    @model_validator(mode="after")
    def _fits_search(self) -> FinetuneSpec:
        if not POLICIES[self.selection.policy].searches:
            return self
        several = self.training.learning_rates is not None
        if several or self.training.learning_rate != TrainingSpec().learning_rate:
            field = "learning_rates" if several else "learning_rate"
            raise ValueError(
                f"training.{field} means nothing to policy search, which trains at the rate that "
                "the search finds; leave it out"
            )
        if self.training.layer_schedule and not isinstance(self.selection.search, str):
            raise ValueError(
                "training.layer_schedule does not go with a new search, whose candidates train all "
                "their layers in every step; leave it out, or name a finished search by its id"
            )
        if self.continue_from and not isinstance(self.selection.search, str):
            raise ValueError(
                "continue_from does not go with a new search, which tries candidates from the "
                "model's own weights; leave it out, or name a finished search by its id"
            )
        return self

    @model_validator(mode="after")
    def _rates_need_scores(self) -> FinetuneSpec:
        facts = POLICIES[self.selection.policy]
        scored = facts.needs_ranking or facts.searches
        if self.training.layer_learning_rates and not scored:
            raise ValueError(
                "training.layer_learning_rates go by the scores of a ranking, and policy "
                f"{self.selection.policy.value} has none"
            )
        return self


class RankingTrack(Agreement):
    """The ranking at one evaluation of a fine-tune, compared with that at its start."""

    scores: dict[str, float] = Field(description="Scores by layer.")


class RateTrial(BaseModel):
    """One of `learning_rates`, tried on a part of the train rows."""

    learning_rate: float = Field(description="The learning rate at the end of the warm-up.")
    metric: float | None = Field(
        description="The primary metric on the rows set aside, after the last epoch; null where it "
        "is not defined or the loss was not finite."
    )
    loss: float | None = Field(
        description="Mean loss on the rows set aside, which decides among equal metrics; null if "
        "it was not finite."
    )
    seconds: float = Field(description="Seconds of its steps and its measurement.")


class EpochReport(BaseModel):
    """The results of one evaluation."""

    epoch: float = Field(
        description="Epochs so far; a fraction is possible with `evaluate_every_steps`."
    )
    step: int = Field(description="Optimizer steps so far.")
    train_loss: float | None = Field(description="Mean loss since the previous evaluation.")
    metrics: dict[str, float | None] = Field(
        description="The validation metrics; a metric is null where it is not defined."
    )
    also: dict[str, dict[str, float | None]] = Field(
        {}, description="The official metrics of each preset of `also_evaluate`."
    )
    ranking: RankingTrack | None = Field(None, description="With `track_ranking`.")
    thresholds: dict[str, float] | None = Field(
        None,
        description="With several labels a row: from which probability on a row is said to have "
        "each label. Fitted on the training rows that `training.threshold_share` sets aside.",
    )
    noise: float | None = Field(
        None,
        description="Standard error of the primary metric due to the choice of the validation "
        "rows, from a bootstrap over them.",
    )
    unrelated: float | None = Field(
        None,
        description="What the primary metric would be if the same predictions were made for other "
        "rows: its mean over 20 random orders of them.",
    )
    rmse_noise: float | None = Field(
        None, description="Of a regression: the same of `rmse`, by which it is judged too."
    )
    only_prediction: str | None = Field(
        None,
        description="What the model predicts for every validation row, in words; null if its "
        "predictions differ. Numbers count as the same if their standard deviation is below 5 % of "
        "that of the labels.",
    )


PrefixMode = Literal["memory", "disk", "recompute", "none"]


class PrefixStage(BaseModel):
    """The cached states from one unfreezing to the next."""

    step: int = Field(description="The optimizer steps before it.")
    mode: PrefixMode = Field(description="Where the states were cached.")
    reason: str = Field(description="Why the mode was chosen, in words.")
    layers: int = Field(description="How many runs of a layer are below the lowest trained one.")
    seconds: float = Field(description="Seconds spent on computing or fetching the states.")


class PrefixReport(BaseModel):
    """How the states below the lowest trained layer were cached, as they never change."""

    mode: PrefixMode = Field(
        description="Where the states were cached. `recompute`: nowhere, so every step computed "
        "them again. `none`: there are no such layers."
    )
    reason: str = Field(description="Why the mode was chosen, in words.")
    layers: int = Field(
        description="How many runs of a layer a forward pass has below the lowest trained one."
    )
    share: float = Field(
        description="The share that these are of all runs of a layer in a forward pass, which each "
        "step saves in modes `memory` and `disk`."
    )
    rows: int = Field(0, description="Rows of train and validation whose states are cached.")
    states: int = Field(
        0,
        description="Vectors cached: one for each token, or one for each text if the head reads no "
        "other.",
    )
    bytes: int = Field(0, description="The size of the cached states.")
    dtype: str | None = Field(
        None, description="Number format of the cached states; null if none are cached."
    )
    reused: bool = Field(
        False, description="Whether an earlier job had computed all of the states."
    )
    seconds: float = Field(0.0, description="Seconds spent on computing or fetching the states.")
    stages: list[PrefixStage] = Field(
        [],
        description="With gradual unfreezing, which moves the lowest trained layer: the stages of "
        "this attempt. The other fields are those of the first.",
    )


class FinetuneResult(BaseModel):
    """What a fine-tune trained and achieved."""

    trained_layers: list[str] = Field(
        description="The names of the layers, or parts of layers, that trained."
    )
    included: list[str] = Field(description="What else trained beside them and the head.")
    adapter: AdapterSpec | None = Field(
        None, description="The adapter that trained in place of layers."
    )
    ranking: str | None = Field(
        None, description="The id of the ranking that the selection went by."
    )
    search: str | None = Field(
        None, description="The id of the search that found the layers and the learning rate."
    )
    learning_rate: float | None = Field(
        None,
        description="The learning rate at the end of the warm-up; null in results of early "
        "versions.",
    )
    learning_rates: list[RateTrial] = Field(
        [], description="With `learning_rates`: what each of them reached on the rows set aside."
    )
    trainable_parameters: int = Field(
        description="Parameters that trained, with the head; with `layer_schedule`, not all of "
        "them at once."
    )
    active_parameters: int | None = Field(
        None,
        description="The most parameters that trained in one step, with `layer_schedule`; null "
        "without.",
    )
    total_parameters: int = Field(description="Parameters of the model with its head.")
    primary_metric: str = Field(description="The metric that is highest at the best evaluation.")
    baseline: dict[str, float | None] = Field(
        {},
        description="The same metrics of a prediction that is the same for every row: the most "
        "frequent label of the training rows or the mean of theirs, as suits each metric. Measured "
        "on the same validation rows as `metrics` of every evaluation. Null where a constant has "
        "none, as of a correlation; empty in results of early versions.",
    )
    baseline_loss: float | None = Field(
        None,
        description="The lowest loss on the training rows that a constant can reach: what "
        "`train_loss` falls below as soon as something is learned. Null in results of early "
        "versions.",
    )
    baseline_also: dict[str, dict[str, float | None]] = Field(
        {}, description="As `baseline`, on each preset of `also_evaluate`."
    )
    best: EpochReport = Field(description="The best evaluation.")
    epochs: list[EpochReport] = Field(description="All evaluations.")
    stopped_early: bool = Field(
        False,
        description="Whether the run ended before its last epoch, because the metric no longer "
        "rose.",
    )
    best_checkpoint: str | None = Field(
        None, description="The id of the checkpoint of the best evaluation."
    )
    onnx: OnnxReport | None = Field(None, description="With `checkpoints.onnx`.")
    head: HeadReport | None = Field(
        None, description="The head that training began with; null in results of older versions."
    )
    ranking_at_start: dict[str, float] | None = Field(
        None, description="Scores by layer before the first step, with `track_ranking`."
    )
    frozen_verified: bool = Field(
        description="Whether every frozen tensor had the same SHA-256 before and after. With "
        "`layer_schedule`, a selected layer counts as frozen from where the schedule freezes it to "
        "where it trains again."
    )
    peak_memory_bytes: int = Field(
        description="The most memory that the run used: of the GPU, or of the process on a CPU."
    )
    samples_per_second: float | None = Field(
        description="Training rows a second; null if no step was timed."
    )
    lengths: TokenLengths | None = Field(
        None, description="How long the rows are in tokens, and what `max_length` cut."
    )
    prefix: PrefixReport | None = Field(
        None, description="How the states below the lowest trained layer were cached."
    )
    processes: int = Field(1, description="The number of processes that shared each step.")
    precision: TrainingPrecision = Field(
        TrainingPrecision.FP32, description="Number format of the matrix products."
    )
    dropout: bool = Field(
        True, description="Whether the model dropped states at random while it trained."
    )
    throughput: Throughput | None = Field(
        None,
        description="How fast the steps were; null if no step was timed, and with "
        "`layer_schedule`, whose steps differ.",
    )
    seconds: dict[str, float] = Field(description="Seconds by phase.")
    warnings: list[JobWarning] = Field(description="What a reader of the numbers should know.")
