"""Which evaluation was the best, and whether another could still be better."""

from __future__ import annotations

import math
from collections.abc import Sequence

from surgery.results import EpochReport
from surgery.state import Progress
from surgery.training_spec import TrainingSpec


def best_report(reports: Sequence[EpochReport], metric: str) -> EpochReport:
    """The evaluation with the highest metric; the earliest of equals. An undefined one is last."""
    return max(reports, key=lambda report: _value(report, metric))


def evaluation_due(progress: Progress, training: TrainingSpec, total_steps: int) -> bool:
    """Whether the steps done since the last evaluation call for another."""
    if progress.step == (progress.reports[-1].step if progress.reports else 0):
        return False
    every = training.evaluate_every_steps
    due = progress.batch == 0 if every is None else progress.step % every == 0
    return due or progress.step == total_steps


def stops_early(reports: Sequence[EpochReport], metric: str, training: TrainingSpec) -> bool:
    """Whether the last ``early_stopping_patience`` evaluations brought nothing better.

    Better is by more than ``early_stopping_threshold`` than the best before it.
    """
    if training.early_stopping_patience is None:
        return False
    best, since = -math.inf, 0
    for report in reports:
        value = _value(report, metric)
        if value > best + training.early_stopping_threshold:
            best, since = value, 0
        else:
            since += 1
    return since >= training.early_stopping_patience


def _value(report: EpochReport, metric: str) -> float:
    value = report.metrics[metric]
    return -math.inf if value is None else value
