"""What every method gives: a score for each unit, with as much as it knows of their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from surgery.fisher import FisherScores
from surgery.spec import Aggregate
from surgery.units import Unit

Matrix = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Scores:
    """Scores of U units; larger is better.

    ``per_sample`` (N, U) where a score is a mean over samples: then every resample has its own
    scores. With ``weights`` (N,) a score is Σ_i per_sample / Σ_i weights, such as an R².
    ``halves``: the scores by two disjoint halves of the samples, where only those are known.
    """

    units: list[Unit]
    values: Matrix
    per_sample: Matrix | None = None
    weights: Matrix | None = None
    halves: tuple[Matrix, Matrix] | None = None
    unbiased: Matrix | None = None

    def only(self, places: Sequence[int]) -> Scores:
        """The scores of some units."""
        chosen = list(places)
        per_sample = None if self.per_sample is None else self.per_sample[:, chosen]
        halves = self.halves and (self.halves[0][chosen], self.halves[1][chosen])
        unbiased = None if self.unbiased is None else self.unbiased[chosen]
        units = [self.units[place] for place in chosen]
        return replace(
            self, units=units, values=self.values[chosen], per_sample=per_sample, halves=halves,
            unbiased=unbiased,
        )  # fmt: skip


def from_samples(
    units: Sequence[Unit], per_sample: Matrix, weights: Matrix | None = None
) -> Scores:
    """Scores that are means over samples, or ratios of sums."""
    values = per_sample.mean(0) / (1.0 if weights is None else weights.mean())
    return Scores(list(units), values, per_sample, weights)


def average(several: Sequence[Scores]) -> Scores:
    """The mean over heads of scores of the same units on the same samples."""
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
    """Aggregate the diagonal of the Fisher information to one number a unit."""
    if found.per_sample is None:
        return _frobenius(found)
    matrix: Matrix = found.per_sample.numpy()
    if aggregate is Aggregate.MEAN:
        matrix = matrix / np.array([unit.parameters for unit in found.units])
    return from_samples(found.units, matrix)


def _frobenius(found: FisherScores) -> Scores:
    """Σ_p ‖D_p‖_F, and beside it Σ_p √⟨D_p¹, D_p²⟩ over two halves, which noise does not raise."""
    assert found.halves is not None
    first, second = found.halves
    total = len(found.numbers)
    odd = sum(number % 2 for number in found.numbers)
    sizes = (total - odd, odd)
    columns: dict[str, list[float]] = {"whole": [], "one": [], "two": [], "cross": []}
    for unit in found.units:
        sums = torch.zeros(4, dtype=torch.float64)
        for name in unit.members:
            one, two = first[name], second[name]
            cross = (one.double() * two.double()).sum().clamp_min(0)
            sums += torch.stack(
                [
                    (one + two).double().norm() / total,
                    one.double().norm() / max(1, sizes[0]),
                    two.double().norm() / max(1, sizes[1]),
                    cross.sqrt() / max(1.0, (sizes[0] * sizes[1]) ** 0.5),
                ]
            ).cpu()
        for column, value in zip(columns.values(), sums.tolist(), strict=True):
            column.append(value)
    arrays = {name: np.array(values) for name, values in columns.items()}
    both = min(sizes) > 0
    halves = (arrays["one"], arrays["two"]) if both else None
    unbiased = arrays["cross"] if both else None
    return Scores(found.units, arrays["whole"], halves=halves, unbiased=unbiased)
