"""Thresholds of labels: the probability from which a row is said to have a label."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
DEFAULT = 0.5


def probabilities(logits: Array) -> Array:
    """σ(z) in float64, which does not overflow for any logit."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64))))


def decided(logits: Array, thresholds: Array) -> Array:
    """Zeros and ones (N, C): where the probability is at least the threshold, (C,) or (N, C)."""
    return np.asarray(probabilities(logits) >= thresholds, dtype=np.int8)


def fit_thresholds(logits: Array, labels: Array) -> Array:
    """For each label the threshold (C,) with the highest F1 on these rows, of logits (N, C).

    The candidates lie halfway between probabilities that follow each other. Of equally good ones
    the nearest to a half is taken, and a label that no row has keeps a half. F1 of one label at a
    time is also what macro F1 needs to be highest (Lipton, Elkan and Naryanaswamy, "Optimal
    thresholding of classifiers to maximize F1 measure", ECML PKDD 2014).
    """
    scores = probabilities(logits)
    return np.array([_best(own, marks) for own, marks in zip(scores.T, labels.T, strict=True)])


def cross_fitted(logits: Array, labels: Array) -> Array:
    """Thresholds (N, C): those of each row are fitted on half of the other rows.

    So rows that judge runs need no others beside them, and no row tells of its own threshold.
    """
    thresholds = np.full(labels.shape, DEFAULT)
    for own in (slice(0, None, 2), slice(1, None, 2)):
        others = slice(1 - own.start, None, 2)
        if len(labels[others]):
            thresholds[own] = fit_thresholds(logits[others], labels[others])
    return thresholds


def _best(scores: Array, marks: Array) -> float:
    """The best threshold of one label, from its probabilities (N,) and marks (N,)."""
    order = np.argsort(-scores, kind="stable")
    ordered, right = scores[order], np.cumsum(marks[order], dtype=np.int64)
    ends = np.flatnonzero(np.diff(ordered, append=-1.0))  # equal probabilities are decided alike
    if right[-1] == 0:
        return DEFAULT
    f1 = 2 * right[ends] / (ends + 1 + right[-1])
    below = np.append(ordered[ends[1:]], 0.0)
    halfway = (ordered[ends] + below) / 2
    best = np.flatnonzero(f1 == f1.max())
    return float(halfway[best[np.abs(halfway[best] - DEFAULT).argmin()]])
