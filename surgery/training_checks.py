"""What a fine-tune's options must fit: the dataset's labels, metrics and size. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from surgery.errors import Fault, TrainingInvalid
from surgery.spec import nearest
from surgery.terms import Problem
from surgery.training_spec import TrainingSpec

CLASSES = (Problem.CLASSIFICATION, Problem.TOKEN_CLASSIFICATION)


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
