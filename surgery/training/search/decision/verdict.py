"""Whether one candidate is better than all others, beyond the luck of its runs and of the rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from surgery.evaluation.statistics import t_probability

Array = np.ndarray[Any, Any]
MOST_FREEDOM = 1000  # of Student's t, beyond which it is a normal distribution


@dataclass(frozen=True)
class Finished:
    """The metric of a candidate's finished runs, (R,), and on resamples of the rows, (R, B).

    The resamples are the same for all candidates, so that differences are paired by row.
    """

    values: Array
    resampled: Array


def certain_best(
    finished: Mapping[str, Finished], tried: int, alpha: float, resolution: float
) -> str | None:
    """The candidate that is better than every other at a one-sided level of ``alpha``; or None.

    A difference of means has two errors: that of the rows, by the paired bootstrap, and that of the
    runs, by the variance between seeds, pooled over all candidates and with Student's t. The level
    is divided by the number of candidates that were ``tried``: were the best two equal, each of
    them could be named for beating the other, and which ones got this far was chosen by the same
    readings. Beating all others is an intersection of hypotheses, which needs no further division
    (Berger, Technometrics, 1982). ``resolution`` is the smallest step of the metric: a difference
    is never known better. None unless there are two candidates, with two runs each.
    """
    if len(finished) < 2 or any(len(one.values) < 2 for one in finished.values()):
        return None
    best = max(finished, key=lambda name: finished[name].values.mean())
    others = (one for name, one in finished.items() if name != best)
    freedom = sum(len(one.values) - 1 for one in finished.values())
    spread = sum(float(one.values.var(ddof=1)) * (len(one.values) - 1) for one in finished.values())
    worst = max(
        _p_value(finished[best], other, spread / freedom, min(freedom, MOST_FREEDOM), resolution)
        for other in others
    )
    return best if worst <= alpha / max(tried, len(finished)) else None


def spent_at(look: int, alpha: float) -> float:
    """The level of the n-th look, from 1: α / (n (n + 1)), whose sum over all looks is α."""
    return alpha / (look * (look + 1))


def _p_value(one: Finished, other: Finished, runs: float, freedom: int, resolution: float) -> float:
    """The one-sided p value of a difference of means that is not positive."""
    difference = float(one.values.mean() - other.values.mean())
    rows = float(np.nanvar(one.resampled.mean(0) - other.resampled.mean(0), ddof=1))
    variance = rows + runs * (1 / len(one.values) + 1 / len(other.values))
    t = difference / math.sqrt(max(variance, resolution**2))
    both = 1 - t_probability(abs(t), freedom)
    return both / 2 if t > 0 else 1 - both / 2
