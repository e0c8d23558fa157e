"""What all readings so far say about every candidate at every learning rate.

A Gaussian process over sets of layers and rates: sets that overlap and rates that are near tell
about each other, and a reading of an unfinished run tells less than one of a finished run. It is
the model behind cost-aware knowledge gradients with several fidelities (Poloczek, Wang & Frazier,
Multi-information source optimization, NeurIPS 2017).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from surgery.search.candidates import Candidate

Array = np.ndarray[Any, Any]
Places = np.ndarray[Any, np.dtype[np.int64]]

# How far apart two points are before they tell little about each other: where the set begins and
# ends, as shares of the depth; its size in doublings; its rate in factors of ten.
SCALES = np.array([0.4, 0.4, 1.5, 0.5])
# The rate at which a set of k layers learns best is near 10^CENTRE / k, and one ten times as high
# or low costs RATE_PENALTY standard deviations of the signal. See docs/science/search.md.
CENTRE, RATE_PENALTY = -3.2, 2.0
SIGNALS = (0.01, 0.02, 0.04, 0.08, 0.16)  # standard deviations of the metric among candidates
OWN = 0.3  # what a candidate has of its own, as a share of the signal
GROWTH, GROWTH_SPREAD = 0.5, 1.0  # what a run gains from an eighth of its steps on, in signals
RUN_GROWTH = 0.6  # how much that differs from run to run, in signals
RUN_NOISE = 0.3  # the standard deviation between seeds, in signals
ANYWHERE = 1.0  # the metric as a whole is not known beforehand
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(16)


@dataclass(frozen=True)
class Readings:
    """Readings of runs: ``point`` and ``run`` numbers, how ``early`` they are, and row ``noise``.

    ``early`` is 0 for the end of a run and 1 for an eighth of its steps, on a logarithmic scale.
    A run of −1 is the expectation over all runs. ``noise`` is the variance that is due to the rows
    that judge. All have shape (N,).
    """

    point: Places
    run: Places
    early: Array
    noise: Array

    @classmethod
    def expected(cls, points: int) -> Readings:
        """What is asked for: the metric at the end of a run of each point, over all seeds."""
        zeros = np.zeros(points)
        return cls(np.arange(points), np.full(points, -1), zeros, zeros)


def earliness(fraction: float) -> float:
    """How early a reading is after a fraction of the steps: 0 at the end, 1 at an eighth."""
    return -math.log2(fraction) / 3


@dataclass(frozen=True)
class Posterior:
    """Means (P,) and covariances (P, P) of the expected metric of every point.

    ``gains`` (A,) says for each possible next reading by how much it is expected to raise the
    expected metric of the best point.
    """

    mean: Array
    covariance: Array
    gains: Array

    def p_best(self, groups: Places, seed: int, draws: int = 4000) -> Array:
        """For each of the groups that points are in: the probability that it has the best one."""
        source = np.random.default_rng(seed)
        root = np.linalg.cholesky(self.covariance + 1e-9 * np.eye(len(self.mean)))
        drawn = self.mean + source.standard_normal((draws, len(self.mean))) @ root.T
        best = groups[drawn.argmax(1)]
        return np.bincount(best, minlength=int(groups.max()) + 1) / draws

    def difference(self, one: int, other: int) -> tuple[float, float]:
        """The mean and the standard deviation of the difference between two points."""
        cov = self.covariance
        variance = cov[one, one] + cov[other, other] - 2 * cov[one, other]
        return float(self.mean[one] - self.mean[other]), math.sqrt(max(0.0, float(variance)))


class Surrogate:
    """The model of the metric over points, each a candidate at a rate.

    ``promise`` (P,) is what scores say beforehand, in standard deviations of the signal.
    """

    def __init__(
        self, candidates: Sequence[Candidate], rates: Sequence[float], depth: int, promise: Array
    ) -> None:
        features = np.array([_features(one, rate, depth) for one in candidates for rate in rates])
        apart = (features[:, None] - features[None]) / SCALES
        self._alike = np.exp(-0.5 * (apart**2).sum(2))
        self.prior = promise - RATE_PENALTY * (features[:, 3] - CENTRE) ** 2

    def posterior(self, read: Readings, values: Array, asked: Readings) -> Posterior:
        """What readings with these ``values`` say, and what the ``asked`` readings would add."""
        signal = max(SIGNALS, key=lambda signal: self._likelihood(signal, read, values))
        wanted = Readings.expected(len(self.prior))
        inner = self._covariance(signal, read, read) + np.diag(read.noise + 1e-8)
        known = self._covariance(signal, read, wanted)
        solved: Array = np.linalg.solve(inner, known)
        left = values - self._mean(signal, read, values)
        mean: Array = self._mean(signal, wanted, values) + solved.T @ left
        covariance = self._covariance(signal, wanted, wanted) - known.T @ solved
        gains = self._gains(signal, mean, (read, wanted, asked), inner, solved)
        return Posterior(mean, covariance, gains)

    def _gains(
        self,
        signal: float,
        mean: Array,
        sets: tuple[Readings, Readings, Readings],
        inner: Array,
        solved: Array,
    ) -> Array:
        """The knowledge gradient of each asked reading (Frazier, Powell & Dayanik, 2009)."""
        read, wanted, asked = sets
        if not len(asked.point):
            return np.zeros(0)
        seen = self._covariance(signal, read, asked)
        moves = self._covariance(signal, wanted, asked) - solved.T @ seen
        own = self._variance(signal, asked) - (seen * np.linalg.solve(inner, seen)).sum(0)
        moves = moves / np.sqrt(np.maximum(own, 1e-12))
        best = np.zeros(len(asked.point))
        for node, weight in zip(NODES, WEIGHTS / WEIGHTS.sum(), strict=True):
            best += weight * (mean[:, None] + node * moves).max(0)
        gains: Array = np.maximum(0.0, best - mean.max())
        return gains

    def _mean(self, signal: float, of: Readings, values: Array) -> Array:
        middle = values.mean() if len(values) else 0.5
        expected: Array = middle + signal * (self.prior[of.point] - GROWTH * of.early)
        return expected

    def _covariance(self, signal: float, one: Readings, other: Readings) -> Array:
        """The covariances (N, M) of readings without the noise of the rows."""
        alike = self._alike[np.ix_(one.point, other.point)]
        same_point = one.point[:, None] == other.point[None]
        same_run = (one.run[:, None] == other.run[None]) & (one.run[:, None] >= 0)
        both = np.minimum(one.early[:, None], other.early[None])
        own = (
            alike
            + OWN**2 * same_point
            + GROWTH_SPREAD**2 * one.early[:, None] * other.early[None]
            + same_run * (RUN_NOISE**2 + RUN_GROWTH**2 * both)
        )
        total: Array = ANYWHERE**2 + signal**2 * own
        return total

    def _variance(self, signal: float, of: Readings) -> Array:
        own = 1 + OWN**2 + GROWTH_SPREAD**2 * of.early**2 + RUN_NOISE**2 + RUN_GROWTH**2 * of.early
        total: Array = ANYWHERE**2 + signal**2 * own + of.noise
        return total

    def _likelihood(self, signal: float, read: Readings, values: Array) -> float:
        inner = self._covariance(signal, read, read) + np.diag(read.noise + 1e-8)
        left = values - self._mean(signal, read, values)
        return -0.5 * float(left @ np.linalg.solve(inner, left) + np.linalg.slogdet(inner)[1])


def _features(candidate: Candidate, rate: float, depth: int) -> tuple[float, float, float, float]:
    size, top = len(candidate.layers), max(1, depth - 1)
    return (
        candidate.layers[0] / top,
        candidate.layers[-1] / top,
        math.log2(size),
        math.log10(rate) + math.log10(size),
    )
