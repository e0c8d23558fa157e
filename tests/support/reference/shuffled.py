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
    """d̄ / √(Var_i(d_i) / N + (1 + 1/K) Var_k(r_k)) of each layer, one number at a time.

    ``score`` gives the scores (N, L) of the samples at the labels of a whole dataset.
    """
    own, shuffled = parts(score(labels)), [parts(score(dealt)) for dealt in others]
    found = []
    for layer, mine in enumerate(own):
        theirs = [each[layer] for each in shuffled]
        differences = [
            value - statistics.fmean(their[i] for their in theirs) for i, value in enumerate(mine)
        ]
        luck = (1 + 1 / len(theirs)) * statistics.variance(map(statistics.fmean, theirs))
        error = math.sqrt(statistics.pvariance(differences) / len(differences) + luck)
        found.append(statistics.fmean(differences) / error)
    return found


def parts(scores: Any) -> list[list[float]]:
    """For each layer and sample, r + (x_i − r w_i) / w̄; r is the layer's score over the total."""
    rows = scores.tolist()
    totals = [sum(row) for row in rows]
    mean = statistics.fmean(totals)
    found = []
    for layer in range(len(rows[0])):
        ratio = statistics.fmean(row[layer] for row in rows) / mean
        found.append([
            ratio + (row[layer] - ratio * total) / mean
            for row, total in zip(rows, totals, strict=True)
        ])  # fmt: skip
    return found
