"""Warnings of a run that has learned nothing, or less than nothing, by its own numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from surgery.schemas import JobWarning
from surgery.schemas.enums import ERROR_METRICS
from surgery.schemas.jobs.finetune import EpochReport

MARGIN = 2.0  # standard errors: of runs that learned nothing, some 2 % exceed a baseline by as much
NOTICEABLE = 0.05  # of the constant's loss
NO_BETTER = "no_better_than_constant"
ONE_VALUE = "one_value_predicted"
ABOVE = "loss_above_constant"
GREW = "loss_grew"
OF_LEARNING = (NO_BETTER, ONE_VALUE, ABOVE, GREW)
LOWER_RATE = (
    "lower training.learning_rate, to a tenth, say; or name several in training.learning_rates, of "
    "which the best is chosen"
)
MORE = (
    "see whether the labels belong to their texts; if they do, train for more training.epochs, or "
    "name several rates in training.learning_rates, of which the best is chosen"
)


@dataclass(frozen=True)
class Baseline:
    """What a constant prediction reaches: its metrics on validation, its loss on train.

    ``also`` are its metrics on each further preset.
    """

    metrics: Mapping[str, float | None] = field(default_factory=dict)
    loss: float | None = None
    also: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)


def learning_warnings(
    reports: Sequence[EpochReport], judged: EpochReport, metric: str, baseline: Baseline
) -> list[JobWarning]:
    """What is wrong with what a run learned, by its evaluations so far.

    ``judged`` is the one of them whose model is judged by its metrics, of which ``metric`` is the
    primary one. Losses are judged at the last evaluation.
    """
    grew = list(_losses(reports, baseline.loss))
    remedy = LOWER_RATE if grew else MORE
    return [*_predictions(judged, remedy), *_metrics(judged, metric, baseline, remedy), *grew]


def _predictions(judged: EpochReport, remedy: str) -> Iterator[JobWarning]:
    if judged.only_prediction is None:
        return
    message = f"the model predicts the same for every validation row: {judged.only_prediction}"
    yield JobWarning(code=ONE_VALUE, message=message, remedy=remedy)


def _metrics(
    judged: EpochReport, metric: str, baseline: Baseline, remedy: str
) -> Iterator[JobWarning]:
    errors = [("rmse", judged.rmse_noise)] if "rmse" in judged.metrics else []
    told = [
        text
        for name, noise in ((metric, judged.noise), *errors)
        if (text := _no_better(name, judged.metrics[name], baseline.metrics.get(name), noise))
    ]
    value, unrelated = judged.metrics[metric], judged.unrelated
    if told:
        message = f"the model is no better than a constant prediction: {'; '.join(told)}"
        yield JobWarning(code=NO_BETTER, message=message, remedy=remedy)
    elif unrelated is not None and not _exceeds(value or 0.0, unrelated, judged.noise):
        message = (
            f"the model's predictions are no better than in random order: {metric} is "
            f"{value or 0.0:.4f} ± {judged.noise or 0.0:.4f}, and there {unrelated:.4f}"
        )
        yield JobWarning(code=NO_BETTER, message=message, remedy=remedy)


def _no_better(
    name: str, value: float | None, constant: float | None, noise: float | None
) -> str | None:
    """What the values of a metric are, if a constant's is as good; a constant's None counts as 0.

    Of correlations that is what predictions have that nothing relates to the labels.
    """
    if value is None:
        return f"{name} is not defined for what it predicts"
    sign = -1 if name in ERROR_METRICS else 1
    if _exceeds(sign * value, sign * (constant or 0.0), noise):
        return None
    beside = "none" if constant is None else f"{constant:.4f}"
    return f"{name} is {value:.4f} ± {noise or 0.0:.4f}, and a constant's {beside}"


def _exceeds(value: float, other: float, noise: float | None) -> bool:
    """Whether a metric is higher than another value by more than its noise."""
    return value > other and value - other >= MARGIN * (noise or 0.0)


def _losses(reports: Sequence[EpochReport], constant: float | None) -> Iterator[JobWarning]:
    losses = [report.train_loss for report in reports if report.train_loss is not None]
    if not losses or constant is None:
        return
    first, last = losses[0], losses[-1]
    if last > (1 + NOTICEABLE) * constant:
        message = f"the training loss ended at {last:.4g}; a constant prediction has {constant:.4g}"
        yield JobWarning(code=ABOVE, message=message, remedy=LOWER_RATE)
    if last > first + NOTICEABLE * constant:
        message = f"the training loss grew from {first:.4g} to {last:.4g}"
        yield JobWarning(code=GREW, message=message, remedy=LOWER_RATE)
