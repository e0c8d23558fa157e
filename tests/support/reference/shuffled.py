"""The slow, obvious twin of a score minus its score on shuffled labels."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def shuffles(labels: Sequence[Any], rows: Sequence[int], count: int, seed: int) -> list[list[Any]]:
    """The labels of a dataset, ``count`` times, with those of ``rows`` dealt out among them."""
    found = []
    for number in range(count):
        order = np.random.default_rng((seed, number)).permutation(len(rows))
        dealt = list(labels)
        for place, other in enumerate(order.tolist()):
            dealt[rows[place]] = labels[rows[other]]
        found.append(dealt)
    return found


def minus_shuffled(
    score: Callable[[Sequence[Any]], Any], labels: Sequence[Any], others: Sequence[Sequence[Any]]
) -> list[float]:
    """d̄ / √(Var_i(d_i) / N + (1 + 1/K) Var_k(s̄_k)) of each layer, one number at a time.

    ``score`` gives the scores (N, L) of the samples at the labels of a whole dataset.
    """
    own, shuffled = score(labels), [score(dealt) for dealt in others]
    samples, layers = own.shape
    found = []
    for layer in range(layers):
        differences = [
            float(own[i, layer]) - statistics.fmean(float(each[i, layer]) for each in shuffled)
            for i in range(samples)
        ]
        means = [statistics.fmean(each[:, layer].tolist()) for each in shuffled]
        luck = (1 + 1 / len(shuffled)) * statistics.variance(means)
        error = math.sqrt(statistics.pvariance(differences) / samples + luck)
        found.append(statistics.fmean(differences) / error)
    return found
