"""How a model is trained and what is kept of it, and checks of these options against a dataset."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from surgery.errors import Fault, SurgeryError, TrainingInvalid, nearest
from surgery.schemas import Strict
from surgery.schemas.enums import ERROR_METRICS, NAMED, Problem, TrainingPrecision
from surgery.schemas.fields import option_of, options_of
from surgery.schemas.options.adapter import LORA_LEARNING_RATE
from surgery.schemas.options.head import HEAD_FIT, HeadSpec
from surgery.schemas.options.layer_schedule import (
    SCHEDULE_OPTIONS,
    GradualUnfreezing,
    LayerSchedule,
    layer_schedule_from,
)

HELD_OUT_SHARE = 0.2  # of the train rows, to choose among `learning_rates` by
LearningRate = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
LearningRates = Annotated[list[LearningRate], Field(min_length=2, max_length=8)]


class TrainingSpec(Strict):
    """How the trained tensors are optimised, by AdamW."""

    epochs: int = Field(3, ge=1, le=1000, description="Passes over the training rows.")
    max_steps: int | None = Field(None, ge=1, description="Stop after this many optimizer steps.")
    learning_rate: float = Field(
        5e-5,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="The learning rate of AdamW at the end of the warm-up. Left out, it is "
        f"{LORA_LEARNING_RATE:g} for an adapter of type `lora`, and stored so.",
    )
    learning_rates: LearningRates | None = Field(
        None,
        description="Choose the learning rate among these: train at each on four fifths of the "
        "train rows, measure on the rest, and then train on all rows at the best. The validation "
        "rows are not read for it. In place of `learning_rate`.",
        examples=[[1e-4, 3e-4, 1e-3]],
    )
    layer_learning_rate_decay: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Factor between the learning rates of each layer and the layer above it, "
        "trained or not. The topmost layer and the head learn at `learning_rate`.",
    )
    layer_learning_rates: Literal["fisher"] | None = Field(
        None,
        description="`fisher`: the learning rate of each trained layer is proportional to its "
        "score in the selection's ranking or, for policy `search`, to its Fisher score. The best "
        "layer and the head learn at `learning_rate`.",
    )
    layer_schedule: LayerSchedule | None = Field(
        None,
        description="When each selected layer trains. Default: all of them in every step. The head "
        "always trains, and so does what `selection.include` names, but the embeddings, which "
        "gradual unfreezing reaches after the lowest layer.",
        examples=[
            {"type": "gradual", "every_epochs": 1},
            {"type": "lisa", "layers": 2, "interval": 20},
        ],
    )
    weight_decay: float = Field(
        0.01,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="AdamW's weight decay, for all weights but biases and norms.",
    )
    warmup_ratio: float = Field(
        0.06, ge=0, lt=1, description="Share of the steps during which the learning rate rises."
    )
    warmup_steps: int | None = Field(
        None,
        ge=0,
        description="The same as a number of steps, which must be fewer than the run has.",
    )
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear",
        description="The learning rate after the warm-up: it falls to zero, linearly or along a "
        "cosine, or stays constant.",
    )
    max_grad_norm: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="If the gradient of a step has a larger norm, it is scaled down to this one.",
    )
    batch_size: int = Field(32, ge=1, le=4096, description="Rows in one forward and backward pass.")
    gradient_accumulation_steps: int = Field(
        1, ge=1, le=4096, description="Batches in one optimizer step."
    )
    out_of_memory: Literal["fail", "halve"] = Field(
        "halve",
        description="If a batch does not fit in memory, `halve` repeats the step in batches of "
        "half the size, which gives the same optimisation, and `fail` ends the job.",
    )
    max_length: int = Field(
        128, ge=4, le=8192, description="Rows are truncated to this many tokens."
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the target that is spread over all classes; with several labels a "
        "row, over having and not having each label.",
    )
    class_weights: Literal["balanced"] | Annotated[list[float], Field(max_length=1000)] | None = (
        Field(
            None,
            description="Weight of each class in the loss, in the order of the labels. `balanced`: "
            "inversely proportional to how often the class occurs in train. With several labels a "
            "row (`multi_label`), the weight of the rows that have the label beside those that do "
            "not; `balanced`: rows without it over rows with it.",
        )
    )
    threshold_share: float | None = Field(
        None,
        ge=0,
        le=0.5,
        description="For problem `multi_label` only: the share of the training rows that is set "
        "aside, drawn by `seed`, and not trained on. From which probability on a row is said to "
        "have a label is fitted on them, label by label. 0: no row is set aside, and that "
        "probability is 0.5. Default: 0.1.",
    )
    precision: TrainingPrecision | None = Field(
        None,
        description="Number format of the matrix products. Default: bf16 on a GPU that supports "
        "it, otherwise fp32; the result says which.",
    )
    deterministic: bool = Field(
        False,
        description="Use only algorithms whose results repeat to the last bit, even if slower.",
    )
    evaluate_every_steps: int | None = Field(
        None,
        ge=1,
        description="Evaluate after this many optimizer steps. Default: after each epoch.",
    )
    metric: Annotated[str, StringConstraints(max_length=80)] | None = Field(
        None, description="The metric that decides which checkpoint is best. Default: the task's."
    )
    early_stopping_patience: int | None = Field(
        None, ge=1, le=1000, description="Stop after this many evaluations without a better metric."
    )
    early_stopping_threshold: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="By how much the metric must rise to count as better.",
    )
    prefix_cache: Literal["auto", "memory", "disk", "off"] = Field(
        "auto",
        description="Where the states below the lowest trained layer are cached between epochs. "
        "`auto`: in memory if they fit into a budget, otherwise in a file if they fit there, "
        "otherwise nowhere.",
    )
    prefix_cache_dtype: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="Number format of the cached states; bf16 halves their size and rounds them.",
    )
    head: HeadSpec = Field(
        HeadSpec(),
        description="The head that training begins with. `warmup_epochs: 0` begins with a new head "
        "as it was drawn.",
    )
    dropout: bool | None = Field(
        None,
        description="Whether the model drops states at random while it trains, as its config says. "
        "Default: yes, but not for a regression, whose one output it would blur. The frozen layers "
        "below the lowest trained one never do, and a LoRA adapter has a dropout of its own.",
    )
    seed: int = Field(
        0,
        ge=0,
        lt=2**31,
        description="Seed of everything random: a new head, the order of rows, dropout.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> TrainingSpec:
        if self.layer_learning_rates and self.layer_learning_rate_decay:
            raise ValueError(
                "layer_learning_rates and layer_learning_rate_decay both set the layers' rates; "
                "leave one of them out"
            )
        if self.learning_rates is not None:
            if len(set(self.learning_rates)) < len(self.learning_rates):
                raise ValueError("learning_rates are named once each")
            if self.learning_rate != type(self).model_fields["learning_rate"].default:
                raise ValueError("learning_rate and learning_rates: leave one of them out")
        if self.early_stopping_threshold and self.early_stopping_patience is None:
            raise ValueError("early_stopping_threshold goes with early_stopping_patience")
        ratio = type(self).model_fields["warmup_ratio"].default  # stored requests name the default
        if self.warmup_steps is not None and self.warmup_ratio != ratio:
            raise ValueError("warmup_steps and warmup_ratio are the same thing; leave one out")
        if isinstance(self.class_weights, list) and not all(
            0 < weight < float("inf") for weight in self.class_weights
        ):
            raise ValueError("class_weights must be positive and finite")
        return self


def names_a_rate(training: TrainingSpec) -> bool:
    """Whether a request says at which rate to train, be it the default."""
    return "learning_rate" in training.model_fields_set or training.learning_rates is not None


TRAINING_OPTIONS = options_of(
    TrainingSpec, "epochs", "learning_rate", "batch_size", "max_length", "seed"
)
"""The command-line options of a training."""
TRIAL_OPTIONS = (
    option_of(TrainingSpec, "learning_rates", metavar="RATE,…"),
    *SCHEDULE_OPTIONS,
    HEAD_FIT,
)
"""The command-line options of several learning rates, of a layer schedule and of the head."""


def trials_from(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of training that TRIAL_OPTIONS describe, by their names. Raises SurgeryError."""
    rates = given["learning_rates"]
    return {
        "learning_rates": None if rates is None else [_rate(part) for part in rates.split(",")],
        "layer_schedule": layer_schedule_from(given),
        "head": {"fit": given["head_fit"]},
    }


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not math.isfinite(rate):
        raise SurgeryError(f"--learning-rates: {text!r} is no number; write them as in 1e-4,3e-4")
    return rate


class CheckpointSpec(Strict):
    """Which checkpoints of a run are kept, and in which form."""

    keep: Literal["best", "last", "best_and_last", "all"] | Annotated[int, Field(ge=1, le=1000)] = (
        Field(
            "best_and_last",
            description="Which checkpoints are kept. A number keeps the best and that many of the "
            "newest. Pinned checkpoints are always kept.",
        )
    )
    form: Literal["delta", "full"] = Field(
        "delta", description="`delta` holds only what was trained; `full` is a transformers folder."
    )
    onnx: bool = Field(
        False,
        description="Also export the best checkpoint's model to ONNX at the end, and compare it "
        "with torch on real rows. A model that cannot be exported fails before training.",
    )

    @model_validator(mode="after")
    def _best_is_kept(self) -> CheckpointSpec:
        if self.onnx and self.keep == "last":
            raise ValueError("onnx exports the best checkpoint, which keep last drops; keep best")
        return self


THRESHOLD_SHARE = 0.1  # enough rows of most labels, and little to learn from is lost


def threshold_share(training: TrainingSpec, problem: Problem) -> float:
    """The share of the training rows that is set aside to fit the labels' thresholds."""
    if problem is not Problem.MULTI_LABEL:
        return 0.0
    share = training.threshold_share
    return THRESHOLD_SHARE if share is None else share


def with_dropout_decided(training: TrainingSpec, problem: Problem) -> TrainingSpec:
    """The options, with ``dropout`` decided if they leave it open: all but regressions use it.

    Dropout scales what it keeps, so that the mean of a state stays but its spread grows. That moves
    a single number that is to be met exactly, while a class only has to stay the highest.
    """
    if training.dropout is not None:
        return training
    return training.model_copy(update={"dropout": problem is not Problem.REGRESSION})


def rows_set_aside(training: TrainingSpec, problem: Problem, rows: int) -> int:
    """How many of the training rows are set aside, if none have to stay together."""
    share = threshold_share(training, problem)
    return max(1, round(share * rows)) if share else 0


def run_rows(
    training: TrainingSpec, problem: Problem, rows: Mapping[str, int | None]
) -> tuple[int | None, int | None]:
    """The rows that a run trains on and those that it measures, of these rows by split.

    Rows that are set aside are measured beside validation. A number is None if it is not known.
    """
    train, validation = rows.get("train"), rows.get("validation")
    if train is None:
        return None, validation
    aside = rows_set_aside(training, problem, train)
    return train - aside, None if validation is None else validation + aside


def steps_per_epoch(training: TrainingSpec, rows: int, processes: int = 1) -> int:
    """The number of optimizer steps in an epoch."""
    batches = math.ceil(rows / training.batch_size)
    return math.ceil(batches / (training.gradient_accumulation_steps * processes))


def total_steps(training: TrainingSpec, rows: int, processes: int = 1) -> int:
    """The number of optimizer steps in the whole run, unless it stops early."""
    whole = steps_per_epoch(training, rows, processes) * training.epochs
    return min(training.max_steps or whole, whole)


def rows_tried_on(rows: int) -> int:
    """About how many of the train rows each of `learning_rates` is tried on."""
    return max(1, rows - max(1, round(rows * HELD_OUT_SHARE)))


def warmup_steps(training: TrainingSpec, steps: int) -> int:
    """The number of steps, out of ``steps`` in the run, during which the learning rate rises."""
    if training.warmup_steps is not None:
        return training.warmup_steps
    return int(training.warmup_ratio * steps)


def check_training(
    training: TrainingSpec,
    problem: Problem,
    metrics: Sequence[str],
    *,
    classes: int | None = None,
    rows: int | None = None,
    processes: int = 1,
) -> None:
    """Raise TrainingInvalid, naming the fields, unless the options fit the dataset.

    ``classes`` and ``rows`` are None if they are not known yet.
    """
    faults = [
        Fault(detail, pointer=f"/training/{field}")
        for field, detail in (
            *_label_faults(training, problem, classes),
            *_metric_faults(training, metrics),
            *_length_faults(training, rows, processes),
        )
    ]
    if faults:
        raise TrainingInvalid(faults[0].detail, faults)


def _label_faults(
    training: TrainingSpec, problem: Problem, classes: int | None
) -> Iterator[tuple[str, str]]:
    weights = training.class_weights
    if training.threshold_share is not None and problem is not Problem.MULTI_LABEL:
        yield "threshold_share", f"problem {problem.value} has no thresholds to fit; leave it out"
    if training.label_smoothing and problem is Problem.REGRESSION:
        yield "label_smoothing", "a regression has no classes to smooth; leave it out"
    if weights is not None and problem not in NAMED:
        yield "class_weights", f"problem {problem.value} has no classes to weigh; leave it out"
    elif isinstance(weights, list) and classes is not None and len(weights) != classes:
        yield "class_weights", f"has {len(weights)} weights, the dataset has {classes} classes"


def _metric_faults(training: TrainingSpec, metrics: Sequence[str]) -> Iterator[tuple[str, str]]:
    highest = [name for name in metrics if name not in ERROR_METRICS]
    if training.metric in ERROR_METRICS and highest:
        yield "metric", f"is lowest where a model is best; name one of {', '.join(highest)}"
    elif training.metric is not None and metrics and training.metric not in metrics:
        near = nearest(training.metric, highest)
        hint = f"; did you mean {near!r}?" if near else ""
        yield "metric", f"the dataset's metrics are {', '.join(highest)}{hint}"


def _length_faults(
    training: TrainingSpec, rows: int | None, processes: int
) -> Iterator[tuple[str, str]]:
    if rows is None:
        return
    steps = total_steps(training, rows, processes)
    shortest = steps
    if training.learning_rates is not None:
        shortest = total_steps(training, rows_tried_on(rows), processes)
    if training.warmup_steps is not None and training.warmup_steps >= shortest:
        which = "the run" if shortest == steps else "a trial of learning_rates"
        detail = (
            f"the rate would rise over {training.warmup_steps:,} steps, but {which} has "
            f"{shortest:,}; nothing would be learned at the full rate"
        )
        yield "warmup_steps", detail
    every = training.evaluate_every_steps
    if every is not None and every > steps:
        yield "evaluate_every_steps", f"is {every:,}, but the run has {steps:,} steps"
    schedule = training.layer_schedule
    if isinstance(schedule, GradualUnfreezing):
        period = schedule.period(steps_per_epoch(training, rows, processes))
        if period >= steps:
            detail = f"the second layer would train from step {period + 1:,}, of {steps:,}"
            yield "layer_schedule", detail
