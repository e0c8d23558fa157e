"""The result of every method: a score for each unit, and what is needed for its uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from surgery.gradients.engine import FisherScores
from surgery.models.blocks import Unit
from surgery.schemas.enums import Aggregate

Matrix = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Scores:
    """Scores of U units, of which larger ones are better.

    ``per_sample`` (N, U) is known if a score is a mean over samples; then every resample has its
    own scores. With ``weights`` (N,) a score is Σ_i per_sample / Σ_i weights, such as an R².
    ``halves`` are the scores by two disjoint halves of the samples, for methods that know nothing
    finer. ``unbiased``: see ``frobenius_of_halves``.
    """

    units: list[Unit]
    values: Matrix
    per_sample: Matrix | None = None
    weights: Matrix | None = None
    halves: tuple[Matrix, Matrix] | None = None
    unbiased: Matrix | None = None

    def only(self, places: Sequence[int]) -> Scores:
        """The scores of the units at some positions."""
        chosen = list(places)
        per_sample = None if self.per_sample is None else self.per_sample[:, chosen]
        halves = self.halves and (self.halves[0][chosen], self.halves[1][chosen])
        unbiased = None if self.unbiased is None else self.unbiased[chosen]
        units = [self.units[place] for place in chosen]
        values = self.values[chosen]
        return Scores(units, values, per_sample, self.weights, halves, unbiased)


def from_samples(
    units: Sequence[Unit], per_sample: Matrix, weights: Matrix | None = None
) -> Scores:
    """Scores that are means over samples or, with ``weights``, ratios of sums."""
    values = per_sample.mean(0) / (1.0 if weights is None else weights.mean())
    return Scores(list(units), values, per_sample, weights)


def average(several: Sequence[Scores]) -> Scores:
    """The mean of the scores through several heads, of the same units on the same samples."""
    first = several[0]
    if len(several) == 1:
        return first
    if first.per_sample is not None and first.weights is None:
        stacked = [scores.per_sample for scores in several if scores.per_sample is not None]
        return from_samples(first.units, np.mean(stacked, axis=0))
    halves = None
    if first.halves is not None:
        pairs = [scores.halves for scores in several if scores.halves is not None]
        one, two = (np.mean([pair[side] for pair in pairs], axis=0) for side in (0, 1))
        halves = (one, two)
    unbiased = None
    if first.unbiased is not None:
        unbiased = np.mean([s.unbiased for s in several if s.unbiased is not None], axis=0)
    values = np.mean([scores.values for scores in several], axis=0)
    return Scores(first.units, values, halves=halves, unbiased=unbiased)


def fisher_units(found: FisherScores, aggregate: Aggregate) -> Scores:
    """Aggregate the diagonal of the Fisher information to one number for each unit."""
    if found.per_sample is None:
        return _frobenius(found)
    matrix: Matrix = found.per_sample.numpy()
    if aggregate is Aggregate.MEAN:
        matrix = matrix / np.array([unit.parameters for unit in found.units])
    return from_samples(found.units, matrix)


def _frobenius(found: FisherScores) -> Scores:
    """Σ_p ‖D_p‖_F over the tensors of each unit."""
    assert found.sums is not None
    total = len(found.numbers)
    norms = {name: float(values.double().norm()) / total for name, values in found.sums.items()}
    return Scores(found.units, _by_unit(found.units, norms))


def frobenius_of_halves(first: FisherScores, second: FisherScores) -> Scores:
    """Σ_p ‖D_p‖_F over two disjoint halves of the samples together, and over each half.

    ``unbiased`` is Σ_p √⟨D_p¹, D_p²⟩. The noise of the two halves is independent and therefore does
    not raise it, as it raises a norm. Memory holds one tensor of each half at a time.
    """
    if not second.numbers:  # one sample
        return _frobenius(first)
    assert first.sums is not None and second.sums is not None  # noqa: PT018
    one, two = len(first.numbers), len(second.numbers)
    parts: list[dict[str, float]] = [{}, {}, {}, {}]
    for name, upper in first.sums.items():
        a, b = upper.double(), second.sums[name].double()
        cross = float((a * b).sum().clamp_min(0)) / (one * two)
        values = (float((a + b).norm()) / (one + two), float(a.norm()) / one, float(b.norm()) / two)
        for part, value in zip(parts, (*values, cross**0.5), strict=True):
            part[name] = value
    whole, upper_half, lower_half, unbiased = (_by_unit(first.units, part) for part in parts)
    return Scores(first.units, whole, halves=(upper_half, lower_half), unbiased=unbiased)


def _by_unit(units: Sequence[Unit], values: Mapping[str, float]) -> Matrix:
    return np.array([sum(values[name] for name in unit.members) for unit in units])
