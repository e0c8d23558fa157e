"""The official metrics of the benchmarks, computed by scikit-learn and scipy.

Entities are counted as in conlleval, and questions of several rows as in SuperGLUE's evaluation.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from surgery.data.presets.tasks import ENTITY_METRICS
from surgery.evaluation.thresholds import DEFAULT, decided
from surgery.schemas.enums import Problem

Array = np.ndarray[Any, Any]


# Both libraries take a second or two to import, and a ranking needs neither.
def _score(name: str, **options: Any) -> Callable[[Array, Array], float]:
    def compute(labels: Array, predictions: Array) -> float:
        from sklearn import metrics

        return float(getattr(metrics, name)(labels, predictions, **options))

    return compute


def _correlation(name: str) -> Callable[[Array, Array], float]:
    def compute(labels: Array, predictions: Array) -> float:
        from scipy import stats

        with warnings.catch_warnings():
            # A constant prediction has no correlation; it is reported as null and not as a warning.
            warnings.simplefilter("ignore")
            return float(getattr(stats, name)(labels, predictions).statistic)

    return compute


METRICS: dict[str, Callable[[Array, Array], float]] = {
    "accuracy": _score("accuracy_score"),
    "f1": _score("f1_score", zero_division=0),
    "f1a": _score("f1_score", zero_division=0),
    "macro_f1": _score("f1_score", average="macro", zero_division=0),
    "matthews_correlation": _score("matthews_corrcoef"),
    "mae": _score("mean_absolute_error"),
    "pearson": _correlation("pearsonr"),
    "rmse": _score("root_mean_squared_error"),
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
    """Metrics of logits (N, C) or (N, 1) against labels (N,); None for one that is undefined.

    In token classification N counts words, and ``tags`` names the classes. The words of row i are
    ``offsets[i]`` to ``offsets[i + 1]``; no entity extends from one row into the next.

    Rows with the same value in ``groups`` (N,) belong to one question. ``earnings`` maps a metric
    to what choosing each row as the answer to its question earns, (N,); the metric is the mean over
    the questions. For several labels a row, see `measure_label_sets`.
    """
    predicted = logits[:, 0] if problem is Problem.REGRESSION else logits.argmax(1)
    values = {name: METRICS[name](labels, predicted) for name in names if name in METRICS}
    if set(names) & set(ENTITY_METRICS):
        assert offsets is not None
        rows = list(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True))
        expected, found = (
            [[tags[i] for i in flat[a:b]] for a, b in rows] for flat in (labels, predicted)
        )
        values |= entity_scores(expected, found)
    if groups is not None:
        values |= group_scores(labels, predicted, groups)
        values |= {name: chosen_credit(logits, groups, earned) for name, earned in earnings.items()}
    return _defined(values, names)


def measure_label_sets(
    logits: Array, labels: Array, thresholds: Array | None, names: Sequence[str]
) -> dict[str, float | None]:
    """Metrics of logits (N, C) against zeros and ones (N, C); None for one that is undefined.

    A row is said to have a label if its probability is at least the threshold, of (C,) for each
    label or (N, C) for each row and label, by default a half. By that go ``micro_f1``, over all
    labels of all rows together, ``macro_f1``, the mean over the labels, and ``subset_accuracy``,
    the share of rows whose labels are all right. ``mean_average_precision`` goes by the order of
    the rows, needs no threshold, and is the mean over the labels that some row has.
    """
    from sklearn import metrics

    own = np.full(labels.shape[1], DEFAULT) if thresholds is None else thresholds
    predicted = decided(logits, own)
    known = labels.any(axis=0)
    kinds: dict[str, Callable[[], float]] = {
        "micro_f1": lambda: metrics.f1_score(labels, predicted, average="micro", zero_division=0),
        "macro_f1": lambda: metrics.f1_score(labels, predicted, average="macro", zero_division=0),
        "subset_accuracy": lambda: metrics.accuracy_score(labels, predicted),
        "mean_average_precision": lambda: (
            metrics.average_precision_score(labels[:, known], logits[:, known])
            if known.any()
            else math.nan
        ),
    }
    return _defined({name: float(kinds[name]()) for name in names}, names)


def _defined(values: Mapping[str, float], names: Sequence[str]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value := values[name]) else None for name in names}


def group_scores(labels: Array, predicted: Array, groups: Array) -> dict[str, float]:
    """The shares of groups in which every row is right, and in which all predictions are equal.

    The first is the exact match of MultiRC (Khashabi et al., 2018). The second is the gender parity
    of Winogender pairs (Rudinger et al., 2018), or NaN unless every group is a pair.
    """
    order, starts = _grouped(groups)
    right = np.logical_and.reduceat((labels == predicted)[order], starts)
    ordered = predicted[order]
    alike = np.maximum.reduceat(ordered, starts) == np.minimum.reduceat(ordered, starts)
    pairs = bool((np.diff(starts, append=len(order)) == 2).all())
    parity = float(alike.mean()) if pairs else math.nan
    return {"exact_match": float(right.mean()), "gender_parity": parity}


def chosen_credit(logits: Array, groups: Array, earned: Array) -> float:
    """The mean over groups of what the row most likely of class 1 earns; logits (N, 2).

    Of equally likely rows the first counts. This is how queries of ReCoRD are answered (Zhang et
    al., 2018).
    """
    order, starts = _grouped(groups)
    margins = (logits[:, 1] - logits[:, 0])[order]
    ends = np.append(starts[1:], len(order))
    chosen = [a + int(margins[a:b].argmax()) for a, b in zip(starts, ends, strict=True)]
    return float(earned[order][chosen].mean())


def _grouped(groups: Array) -> tuple[Array, Array]:
    """The indices of the rows, ordered by group, and where each group begins among them."""
    order = np.argsort(groups, kind="stable")
    return order, np.unique(groups[order], return_index=True)[1]


def entity_scores(
    labels: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Precision, recall and F1 of entities over all rows, as conlleval of CoNLL-2003 counts them.

    An entity is right if its type, start and end are. These are micro-averages, and 0 if there is
    nothing to count.
    """
    expected, found = (
        {(row, *entity) for row, tags in enumerate(rows) for entity in entities(tags)}
        for rows in (labels, predicted)
    )
    right = len(expected & found)
    precision = right / len(found) if found else 0.0
    recall = right / len(expected) if expected else 0.0
    f1 = 2 * right / (len(expected) + len(found)) if expected or found else 0.0
    return {"entity_f1": f1, "entity_precision": precision, "entity_recall": recall}


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """(type, first word, word after the last) of each entity in a sequence of IOB tags.

    An entity begins at ``B-``, or at an ``I-`` that does not continue one of its type (as in IOB1).
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
