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
from itertools import product
from typing import Any

import numpy as np

from surgery.training.search.decision.candidates import Candidate

Array = np.ndarray[Any, Any]
Places = np.ndarray[Any, np.dtype[np.int64]]
Scale = tuple[float, float]
"""The standard deviation of the metric among candidates, and the usual growth of a run."""

# How far apart two points are before they tell little about each other: where the set begins and
# ends, as shares of the depth; its size in doublings; its rate in factors of ten.
SCALES = np.array([0.4, 0.4, 1.5, 0.5])
# The rate at which a set of k layers learns best is near 10^CENTRE / k, and one ten times as high
# or low costs RATE_PENALTY standard deviations of the signal. See docs/science/search.md.
CENTRE, RATE_PENALTY = -3.2, 2.0
SIGNALS = (0.01, 0.02, 0.04, 0.08, 0.16)  # standard deviations of the metric among candidates
OWN = 0.3  # what a candidate has of its own, as a share of the signal
RUN_NOISE = 0.3  # the standard deviation between seeds, in signals
# What a run gains from an eighth of its steps on is one of these times a number that is known to
# be near one, less for a run whose rate is high for its size, and differs from run to run.
GROWTHS = (0.02, 0.05, 0.1, 0.2)
GROWTH_SPREAD, GROWTH_BY_RATE, GROWTH_OWN = 0.5, -1.5, 0.3
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

    def p_best(self, groups: Places, seed: int, draws: int = 2000) -> Array:
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
        self._rate = features[:, 3] - CENTRE
        self.prior = promise - RATE_PENALTY * self._rate**2

    def posterior(self, read: Readings, values: Array, asked: Readings) -> Posterior:
        """What readings with these ``values`` say, and what the ``asked`` readings would add."""
        sizes = product(SIGNALS, GROWTHS)
        scale = max(sizes, key=lambda scale: self.likelihood(scale, read, values))
        wanted = Readings.expected(len(self.prior))
        inner = self.covariance(scale, read, read) + np.diag(read.noise + 1e-8)
        known = self.covariance(scale, read, wanted)
        solved: Array = np.linalg.solve(inner, known)
        left = values - self.mean(scale, read, values)
        mean: Array = self.mean(scale, wanted, values) + solved.T @ left
        covariance = self.covariance(scale, wanted, wanted) - known.T @ solved
        gains = self._gains(scale, mean, (read, wanted, asked), inner, solved)
        return Posterior(mean, covariance, gains)

    def _gains(
        self,
        scale: Scale,
        mean: Array,
        sets: tuple[Readings, Readings, Readings],
        inner: Array,
        solved: Array,
    ) -> Array:
        """The knowledge gradient of each asked reading (Frazier, Powell & Dayanik, 2009)."""
        read, wanted, asked = sets
        if not len(asked.point):
            return np.zeros(0)
        seen = self.covariance(scale, read, asked)
        moves = self.covariance(scale, wanted, asked) - solved.T @ seen
        own = self._variance(scale, asked) - (seen * np.linalg.solve(inner, seen)).sum(0)
        moves = moves / np.sqrt(np.maximum(own, 1e-12))
        best = np.zeros(len(asked.point))
        for node, weight in zip(NODES, WEIGHTS / WEIGHTS.sum(), strict=True):
            best += weight * (mean[:, None] + node * moves).max(0)
        gains: Array = np.maximum(0.0, best - mean.max())
        return gains

    def mean(self, scale: Scale, of: Readings, values: Array) -> Array:
        """The means (N,) of readings beforehand; the overall level is that of ``values``."""
        signal, growth = scale
        middle = values.mean() if len(values) else 0.5
        gain = growth * (1 + GROWTH_BY_RATE * self._rate[of.point])
        expected: Array = middle + signal * self.prior[of.point] - gain * of.early
        return expected

    def covariance(self, scale: Scale, one: Readings, other: Readings) -> Array:
        """The covariances (N, M) of readings without the noise of the rows."""
        alike = self._alike[np.ix_(one.point, other.point)]
        same_point = one.point[:, None] == other.point[None]
        same_run = (one.run[:, None] == other.run[None]) & (one.run[:, None] >= 0)
        both = np.minimum(one.early[:, None], other.early[None])
        own = alike + OWN**2 * same_point + RUN_NOISE**2 * same_run
        rates = self._rate[one.point][:, None] * self._rate[other.point][None]
        early = one.early[:, None] * other.early[None]
        grown = GROWTH_SPREAD**2 * early * (1 + rates) + GROWTH_OWN**2 * same_run * both
        signal, growth = scale
        total: Array = ANYWHERE**2 + signal**2 * own + growth**2 * grown
        return total

    def _variance(self, scale: Scale, of: Readings) -> Array:
        signal, growth = scale
        grown = GROWTH_SPREAD**2 * of.early**2 * (1 + self._rate[of.point] ** 2)
        grown = grown + GROWTH_OWN**2 * of.early
        own = signal**2 * (1 + OWN**2 + RUN_NOISE**2)
        total: Array = ANYWHERE**2 + own + growth**2 * grown + of.noise
        return total

    def likelihood(self, scale: Scale, read: Readings, values: Array) -> float:
        """The logarithm of the density of some readings, but for a constant."""
        inner = self.covariance(scale, read, read) + np.diag(read.noise + 1e-8)
        left = values - self.mean(scale, read, values)
        return -0.5 * float(left @ np.linalg.solve(inner, left) + np.linalg.slogdet(inner)[1])


def _features(candidate: Candidate, rate: float, depth: int) -> tuple[float, float, float, float]:
    size, top = len(candidate.layers), max(1, depth - 1)
    return (
        candidate.layers[0] / top,
        candidate.layers[-1] / top,
        math.log2(size),
        math.log10(rate) + math.log10(size),
    )
