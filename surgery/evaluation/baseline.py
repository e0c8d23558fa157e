"""What a prediction that is the same for every row reaches, to judge a model's metrics by.

What is predicted is learned from the labels of the training rows, as a model's is, and measured on
the rows that measure the model. No constant is best by every metric, so each metric has its own:

- the most frequent class (position of a choice, tag of a word), but for F1 of the positive class
  that class, since no other constant has an F1 above 0;
- the mean of the labels, for a regression;
- with several labels a row, the most frequent set of labels for `subset_accuracy`, all labels for
  `macro_f1`, as many of the most frequent labels as have the highest F1 on the training rows for
  `micro_f1`, and the labels' frequencies as probabilities for `mean_average_precision`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from surgery.data.tokens.dataset import Encoded, TaskData
from surgery.evaluation.evaluate import Predictions, predictions_for
from surgery.evaluation.thresholds import decided
from surgery.schemas.enums import Problem

Array = np.ndarray[Any, Any]
OF_POSITIVE = frozenset({"f1", "f1a"})  # metrics that look at class 1 alone
HARDLY_DIFFERENT = 0.05  # of the labels' standard deviation


def baseline_metrics(
    train: Encoded, encoded: Encoded, data: TaskData, outputs: Sequence[int] | None = None
) -> dict[str, float | None]:
    """The metrics of constant predictions on ``data.validation``; None for an undefined one.

    ``train`` are the rows whose labels the constants are learned from, and ``encoded`` those of
    ``data.validation``. ``outputs`` gives for each label of ``data`` its index among the labels of
    ``train``, if their orders differ.
    """
    found: dict[str, float | None] = {}
    for name in data.metrics:
        own = constant_outputs(name, train.targets, data, outputs)
        rows = np.broadcast_to(own, (len(encoded.targets), len(own)))
        found[name] = predictions_for(rows, encoded, data).metrics([name])[name]
    return found


def constant_outputs(
    metric: str, targets: Array, data: TaskData, outputs: Sequence[int] | None = None
) -> Array:
    """The outputs (C,) of the constant prediction that a metric is compared with.

    ``targets`` are the labels to learn from, as an `Encoded` has them; for ``outputs`` see
    `baseline_metrics`.
    """
    if data.problem is Problem.REGRESSION:
        return np.array([targets.mean(dtype=np.float64)])
    if data.problem is Problem.MULTI_LABEL:
        return _label_set(metric, targets)
    counts = np.bincount(targets, minlength=len(data.labels))
    counts = counts if outputs is None else counts[list(outputs)]
    chosen = 1 if metric in OF_POSITIVE else int(counts.argmax())
    own: Array = np.eye(len(counts))[min(chosen, len(counts) - 1)]
    return own


def _label_set(metric: str, marks: Array) -> Array:
    """Outputs (C,), above 0 for a label that every row is said to have, from marks (N, C)."""
    counts = marks.sum(axis=0, dtype=np.int64)
    if metric == "mean_average_precision":
        return np.asarray(counts / len(marks))
    if metric == "subset_accuracy":
        sets, rows = np.unique(marks, axis=0, return_counts=True)
        return np.where(sets[rows.argmax()] > 0, 1.0, -1.0)
    given = np.ones(len(counts), dtype=bool)
    if metric == "micro_f1":
        order = np.argsort(-counts, kind="stable")
        taken = np.arange(1, len(counts) + 1) * len(marks)
        f1 = 2 * np.cumsum(counts[order]) / (taken + counts.sum())
        given[order[int(f1.argmax()) + 1 :]] = False
    return np.where(given, 1.0, -1.0)


def only_prediction(predictions: Predictions, labels: Sequence[str]) -> str | None:
    """What a model predicts for every row, in words; None if its predictions differ.

    Numbers count as the same if their standard deviation is below 5 % of that of the labels.
    """
    logits, targets = predictions.logits, predictions.targets
    if predictions.problem is Problem.REGRESSION:
        values = logits[:, 0].astype(np.float64)
        alike = values.std() <= HARDLY_DIFFERENT * targets.std(dtype=np.float64)
        span = f"{values.min():.4g} to {values.max():.4g}"
        return (span if np.ptp(values) else f"{values[0]:.4g}") if alike else None
    if predictions.problem is Problem.MULTI_LABEL:
        thresholds = 0.5 if predictions.thresholds is None else predictions.thresholds
        sets = decided(logits, np.asarray(thresholds))
        given = [name for name, mark in zip(labels, sets[0], strict=True) if mark]
        return (", ".join(given) or "no label") if (sets == sets[0]).all() else None
    chosen = logits.argmax(1)
    return str(labels[chosen[0]]) if (chosen == chosen[0]).all() else None
