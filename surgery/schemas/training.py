"""How a model is trained and what is kept of it, and what these options must fit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from surgery.errors import Fault, TrainingInvalid, nearest
from surgery.schemas import Strict
from surgery.schemas.enums import Problem, TrainingPrecision

CLASSES = (Problem.CLASSIFICATION, Problem.TOKEN_CLASSIFICATION)


class TrainingSpec(Strict):
    """The optimisation: AdamW on the trained tensors."""

    epochs: int = Field(3, ge=1, le=1000, description="Passes over the training rows.")
    max_steps: int | None = Field(None, ge=1, description="Stop after so many optimizer steps.")
    learning_rate: float = Field(
        5e-5, gt=0, le=1, allow_inf_nan=False, description="AdamW's rate at the end of the warm-up."
    )
    layer_learning_rate_decay: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Each layer learns at this times the rate of the one above it, trained or not; "
        "the topmost and the head at `learning_rate`.",
    )
    layer_learning_rates: Literal["fisher"] | None = Field(
        None,
        description="`fisher`: each trained layer learns in proportion to its score in the "
        "selection's ranking, the best one and the head at `learning_rate`.",
    )
    weight_decay: float = Field(0.01, ge=0, le=1, allow_inf_nan=False)
    warmup_ratio: float = Field(
        0.06, ge=0, lt=1, description="Share of the steps over which the rate rises."
    )
    warmup_steps: int | None = Field(
        None, ge=0, description="The same as a number of steps, fewer than the run has."
    )
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear",
        description="How the rate goes on after the warm-up: down to zero at the end, in a line or "
        "along a cosine, or unchanged.",
    )
    max_grad_norm: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="The gradient of a step is scaled down to this norm where it is larger.",
    )
    batch_size: int = Field(32, ge=1, le=4096, description="Rows forward and backward at once.")
    gradient_accumulation_steps: int = Field(
        1, ge=1, le=4096, description="Batches an optimizer step."
    )
    out_of_memory: Literal["fail", "halve"] = Field(
        "halve",
        description="When a batch does not fit in memory: `halve` does the step again in batches "
        "of half the size, the same optimisation; `fail` ends the job.",
    )
    max_length: int = Field(128, ge=4, le=8192, description="Tokens kept of a row.")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of the target spread over all classes."
    )
    class_weights: Literal["balanced"] | Annotated[list[float], Field(max_length=1000)] | None = (
        Field(
            None,
            description="Weight of each class in the loss, in the order of the labels; `balanced`: "
            "in inverse proportion to how often it occurs in train.",
        )
    )
    precision: TrainingPrecision | None = Field(
        None,
        description="Number format of the matrix products. Default: bf16 on a GPU that has it, "
        "else fp32; the result says which.",
    )
    deterministic: bool = Field(
        False, description="Use only algorithms that give the same bits each time, where slower."
    )
    evaluate_every_steps: int | None = Field(
        None, ge=1, description="Evaluate after so many optimizer steps. Default: each epoch."
    )
    metric: Annotated[str, StringConstraints(max_length=80)] | None = Field(
        None, description="The metric that the best checkpoint is chosen by. Default: the task's."
    )
    early_stopping_patience: int | None = Field(
        None, ge=1, le=1000, description="Stop after so many evaluations without a better metric."
    )
    early_stopping_threshold: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="By how much better counts as better."
    )
    prefix_cache: Literal["auto", "memory", "disk", "off"] = Field(
        "auto",
        description="Where the states below the lowest trained layer are kept between epochs: "
        "`auto` in memory within a budget, then in a file, else they are computed again.",
    )
    prefix_cache_dtype: Literal["fp32", "bf16"] = Field(
        "fp32", description="How they are kept; bf16 takes half the room and rounds."
    )
    seed: int = Field(
        0,
        ge=0,
        lt=2**31,
        description="Seed of all that is drawn at random: a new head, the order of rows, dropout.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> TrainingSpec:
        if self.layer_learning_rates and self.layer_learning_rate_decay:
            raise ValueError(
                "layer_learning_rates and layer_learning_rate_decay both set the layers' rates; "
                "leave one of them out"
            )
        if self.early_stopping_threshold and self.early_stopping_patience is None:
            raise ValueError("early_stopping_threshold goes with early_stopping_patience")
        ratio = type(self).model_fields["warmup_ratio"].default  # as a stored request names it
        if self.warmup_steps is not None and self.warmup_ratio != ratio:
            raise ValueError("warmup_steps and warmup_ratio are the same thing; leave one out")
        if isinstance(self.class_weights, list) and not all(
            0 < weight < float("inf") for weight in self.class_weights
        ):
            raise ValueError("class_weights are positive and finite")
        return self


class AdapterSpec(Strict):
    """What trains in place of layers: a peer of selective fine-tuning. The head trains too."""

    type: Literal["lora", "bitfit"] = Field(
        description="`lora`: low-rank updates of every linear map of the blocks (Hu et al., ICLR "
        "2022; PEFT). `bitfit`: the biases (Ben Zaken et al., ACL 2022)."
    )
    rank: int = Field(8, ge=1, le=1024, description="For lora.")
    alpha: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="For lora; default: twice the rank."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="For lora.")

    @model_validator(mode="after")
    def _consistent(self) -> AdapterSpec:
        if self.type == "lora":
            return self
        # A stored request names every field, so the defaults pass.
        for name in ("rank", "alpha", "dropout"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} means nothing to bitfit; leave it out")
        return self


class CheckpointSpec(Strict):
    """What is kept of a run."""

    keep: Literal["best", "last", "best_and_last", "all"] | Annotated[int, Field(ge=1, le=1000)] = (
        Field(
            "best_and_last",
            description="Which checkpoints stay; a number keeps the best and that many of the "
            "newest. Pinned ones always stay.",
        )
    )
    form: Literal["delta", "full"] = Field(
        "delta", description="`delta` holds what was trained; `full` is a transformers folder."
    )
    onnx: bool = Field(
        False,
        description="Also export the best checkpoint's model to ONNX at the end, checked against "
        "torch on real rows. A model that cannot be exported fails before it trains.",
    )

    @model_validator(mode="after")
    def _best_is_kept(self) -> CheckpointSpec:
        if self.onnx and self.keep == "last":
            raise ValueError("onnx exports the best checkpoint, which keep last drops; keep best")
        return self


def steps_per_epoch(training: TrainingSpec, rows: int, processes: int = 1) -> int:
    """Optimizer steps of an epoch."""
    batches = math.ceil(rows / training.batch_size)
    return math.ceil(batches / (training.gradient_accumulation_steps * processes))


def total_steps(training: TrainingSpec, rows: int, processes: int = 1) -> int:
    """Optimizer steps of the whole run, unless it stops early."""
    whole = steps_per_epoch(training, rows, processes) * training.epochs
    return min(training.max_steps or whole, whole)


def warmup_steps(training: TrainingSpec, steps: int) -> int:
    """Over how many of a run's steps the rate rises."""
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

    ``classes`` and ``rows`` are None where they are not known yet.
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
    if training.label_smoothing and problem is Problem.REGRESSION:
        yield "label_smoothing", "a regression has no classes to smooth; leave it out"
    if weights is not None and problem not in CLASSES:
        yield "class_weights", f"problem {problem.value} has no classes to weigh; leave it out"
    elif isinstance(weights, list) and classes is not None and len(weights) != classes:
        yield "class_weights", f"has {len(weights)} weights, the dataset has {classes} classes"


def _metric_faults(training: TrainingSpec, metrics: Sequence[str]) -> Iterator[tuple[str, str]]:
    if training.metric is not None and metrics and training.metric not in metrics:
        near = nearest(training.metric, list(metrics))
        hint = f"; did you mean {near!r}?" if near else ""
        yield "metric", f"the dataset's metrics are {', '.join(metrics)}{hint}"


def _length_faults(
    training: TrainingSpec, rows: int | None, processes: int
) -> Iterator[tuple[str, str]]:
    if rows is None:
        return
    steps = total_steps(training, rows, processes)
    if training.warmup_steps is not None and training.warmup_steps >= steps:
        detail = (
            f"the rate would rise over {training.warmup_steps:,} steps, but the run has "
            f"{steps:,}; nothing would be learned at the full rate"
        )
        yield "warmup_steps", detail
    every = training.evaluate_every_steps
    if every is not None and every > steps:
        yield "evaluate_every_steps", f"is {every:,}, but the run has {steps:,} steps"
