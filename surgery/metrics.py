"""The official metrics of the benchmarks, from scikit-learn and scipy; entities as conlleval."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from surgery.tasks import ENTITY_METRICS
from surgery.terms import Problem

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
    logits: Array,
    labels: Array,
    problem: Problem,
    names: Sequence[str],
    *,
    tags: Sequence[str] = (),
    offsets: Array | None = None,
) -> dict[str, float | None]:
    """Metrics of logits (N, C) or (N, 1) against labels (N,); None where one is undefined.

    For token classification N counts words, ``tags`` names the classes, and row i's words are
    ``offsets[i]`` to ``offsets[i + 1]``: no entity goes on from one row to the next.
    """
    predicted = logits[:, 0] if problem is Problem.REGRESSION else logits.argmax(1)
    values = {name: METRICS[name](labels, predicted) for name in names if name in METRICS}
    if set(names) & set(ENTITY_METRICS):
        assert offsets is not None
        rows = list(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True))
        told, found = (
            [[tags[i] for i in flat[a:b]] for a, b in rows] for flat in (labels, predicted)
        )
        values |= entity_scores(told, found)
    return {name: value if math.isfinite(value := values[name]) else None for name in names}


def entity_scores(
    labels: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Precision, recall and F1 of entities over all rows: right where type, start and end are.

    As the CoNLL-2003 shared task's conlleval counts (micro-averages; 0 where there is nothing to
    count).
    """
    told, found = (
        {(row, *entity) for row, tags in enumerate(rows) for entity in entities(tags)}
        for rows in (labels, predicted)
    )
    right = len(told & found)
    precision = right / len(found) if found else 0.0
    recall = right / len(told) if told else 0.0
    f1 = 2 * right / (len(told) + len(found)) if told or found else 0.0
    return {"entity_f1": f1, "entity_precision": precision, "entity_recall": recall}


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """(type, first word, word after the last) of each entity among IOB tags.

    An entity begins at ``B-``, or at an ``I-`` that continues none of its type (as in IOB1).
    """
    found: list[tuple[str, int, int]] = []
    for place, tag in enumerate(tags):
        mark, _, kind = tag.partition("-")
        continues = bool(found) and found[-1][0] == kind and found[-1][2] == place
        if mark == "I" and continues:
            found[-1] = (kind, found[-1][1], place + 1)
        elif mark in {"B", "I"}:
            found.append((kind, place, place + 1))
    return found
