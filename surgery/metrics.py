"""The official metrics of the benchmarks, from scikit-learn and scipy."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from surgery.spec import Problem

Array = np.ndarray[Any, Any]


def _correlation(measure: Callable[[Array, Array], Any]) -> Callable[[Array, Array], float]:
    def compute(labels: Array, predictions: Array) -> float:
        with warnings.catch_warnings():
            # A constant prediction has no correlation: reported as null, not as a warning.
            warnings.simplefilter("ignore")
            return float(measure(labels, predictions).statistic)

    return compute


METRICS: dict[str, Callable[[Array, Array], float]] = {
    "accuracy": lambda labels, predicted: float(accuracy_score(labels, predicted)),
    "f1": lambda labels, predicted: float(f1_score(labels, predicted, zero_division=0)),
    "macro_f1": lambda labels, predicted: float(
        f1_score(labels, predicted, average="macro", zero_division=0)
    ),
    "matthews_correlation": lambda labels, predicted: float(matthews_corrcoef(labels, predicted)),
    "pearson": _correlation(pearsonr),
    "spearman": _correlation(spearmanr),
}


def measure(
    logits: Array, labels: Array, problem: Problem, names: Sequence[str]
) -> dict[str, float | None]:
    """Metrics of logits (N, C) or (N, 1) against labels (N,); None where one is undefined."""
    predicted = logits[:, 0] if problem is Problem.REGRESSION else logits.argmax(1)
    values = {name: METRICS[name](labels, predicted) for name in names}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
