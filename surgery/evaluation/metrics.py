"""The official metrics of the benchmarks, from scikit-learn and scipy.

Entities are counted as conlleval does, questions of several rows as SuperGLUE's evaluation does.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from surgery.data.presets.tasks import ENTITY_METRICS
from surgery.schemas.enums import Problem

Array = np.ndarray[Any, Any]


# Both libraries take a second or two to import, and a job that is ranked or stopped needs neither.
def _score(name: str, **options: Any) -> Callable[[Array, Array], float]:
    def compute(labels: Array, predictions: Array) -> float:
        from sklearn import metrics

        return float(getattr(metrics, name)(labels, predictions, **options))

    return compute


def _correlation(name: str) -> Callable[[Array, Array], float]:
    def compute(labels: Array, predictions: Array) -> float:
        from scipy import stats

        with warnings.catch_warnings():
            # A constant prediction has no correlation: reported as null, not as a warning.
            warnings.simplefilter("ignore")
            return float(getattr(stats, name)(labels, predictions).statistic)

    return compute


METRICS: dict[str, Callable[[Array, Array], float]] = {
    "accuracy": _score("accuracy_score"),
    "f1": _score("f1_score", zero_division=0),
    "f1a": _score("f1_score", zero_division=0),
    "macro_f1": _score("f1_score", average="macro", zero_division=0),
    "matthews_correlation": _score("matthews_corrcoef"),
    "pearson": _correlation("pearsonr"),
    "spearman": _correlation("spearmanr"),
}


def measure(
    logits: Array,
    labels: Array,
    problem: Problem,
    names: Sequence[str],
    *,
    tags: Sequence[str] = (),
    offsets: Array | None = None,
    groups: Array | None = None,
    earnings: Mapping[str, Array] = MappingProxyType({}),
) -> dict[str, float | None]:
    """Metrics of logits (N, C) or (N, 1) against labels (N,); None where one is undefined.

    For token classification N counts words, ``tags`` names the classes, and row i's words are
    ``offsets[i]`` to ``offsets[i + 1]``: no entity goes on from one row to the next.

    Rows of equal ``groups`` (N,) belong to one question. ``earnings`` say by metric what choosing a
    row as the answer to its question earns, (N,); that metric is the mean of it over questions.
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
    if groups is not None:
        values |= group_scores(labels, predicted, groups)
        values |= {name: chosen_credit(logits, groups, earned) for name, earned in earnings.items()}
    return {name: value if math.isfinite(value := values[name]) else None for name in names}


def group_scores(labels: Array, predicted: Array, groups: Array) -> dict[str, float]:
    """Shares of groups in which every row is right, and in which all predictions are equal.

    The first is the exact match of MultiRC (Khashabi et al., 2018), the second the gender parity
    of Winogender pairs (Rudinger et al., 2018), NaN where not every group is a pair.
    """
    order, starts = _grouped(groups)
    right = np.logical_and.reduceat((labels == predicted)[order], starts)
    said = predicted[order]
    alike = np.maximum.reduceat(said, starts) == np.minimum.reduceat(said, starts)
    pairs = bool((np.diff(starts, append=len(order)) == 2).all())
    parity = float(alike.mean()) if pairs else math.nan
    return {"exact_match": float(right.mean()), "gender_parity": parity}


def chosen_credit(logits: Array, groups: Array, earned: Array) -> float:
    """Mean over groups of what the row likeliest to be of class 1 earns; logits (N, 2).

    Of rows equally likely the first counts. So ReCoRD's queries are answered (Zhang et al., 2018).
    """
    order, starts = _grouped(groups)
    margins = (logits[:, 1] - logits[:, 0])[order]
    ends = np.append(starts[1:], len(order))
    chosen = [a + int(margins[a:b].argmax()) for a, b in zip(starts, ends, strict=True)]
    return float(earned[order][chosen].mean())


def _grouped(groups: Array) -> tuple[Array, Array]:
    """Rows in order of their groups, and where each group begins among them."""
    order = np.argsort(groups, kind="stable")
    return order, np.unique(groups[order], return_index=True)[1]


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
