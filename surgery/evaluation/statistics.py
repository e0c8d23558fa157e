"""Means over a few seeds, their intervals, and rank correlations, in pure Python.

The table of a comparison is made in whichever process its last run ends, so it needs no numpy.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from itertools import permutations
from statistics import fmean, stdev

from surgery.schemas.jobs.comparison import SeedMean

LEVEL = 0.95
ENUMERATED = 7  # up to this many values, a permutation test goes through all orders
PERMUTATIONS = 5000  # how many orders it draws for more values
Interval = tuple[float, float]


def t_probability(t: float, freedom: int) -> float:
    """P(|T| ≤ t) of Student's t with a whole number of degrees of freedom.

    Computed by the finite series of Abramowitz & Stegun, 26.7.3 and 26.7.4, which is exact.
    """
    angle = math.atan2(t, math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = freedom % 2
    term = total = cosine if odd else 1.0
    for step in range(2 + odd, freedom - 1, 2):
        term *= (step - 1) / step * cosine**2
        total += term
    if not odd:
        return sine * total
    return 2 / math.pi * (angle + (sine * total if freedom > 1 else 0.0))


def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """The t with P(|T| ≤ t) = ``level``, found by bisection."""
    low, high = 0.0, 1.0
    while t_probability(high, freedom) < level:
        high *= 2
    for _ in range(80):  # halves the bracket to the last bit of a double
        middle = (low + high) / 2
        low, high = (middle, high) if t_probability(middle, freedom) < level else (low, middle)
    return (low + high) / 2


def seed_mean(values: Sequence[float]) -> SeedMean | None:
    """The mean over seeds of one value each; None without values."""
    if not values:
        return None
    return SeedMean(mean=fmean(values), ci=mean_interval(values), seeds=len(values))


def mean_interval(values: Sequence[float]) -> Interval | None:
    """The 95 % t interval of a mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    half = t_quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def t_p_value(values: Sequence[float]) -> float | None:
    """The two-sided p value of a mean of zero, by a t test; None for fewer than two values."""
    if len(values) < 2:
        return None
    middle, spread = fmean(values), stdev(values)
    if spread == 0:
        return 1.0 if middle == 0 else 0.0
    t = abs(middle) * math.sqrt(len(values)) / spread
    return max(0.0, 1 - t_probability(t, len(values) - 1))


def normal_p_value(size: float, error: float) -> float:
    """The two-sided p value of a value of this size whose standard error is ``error``."""
    if error == 0:
        return 1.0 if size == 0 else 0.0
    return math.erfc(abs(size) / error / math.sqrt(2))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p values adjusted for how many there are; Holm, Scandinavian Journal of Statistics, 1979.

    If those of at most α are believed, the chance to believe a wrong one among them is at most α,
    however the tests depend on each other.
    """
    adjusted, highest = {}, 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = highest
    return adjusted


def ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1 for the smallest value; equal values share the mean of their ranks."""
    order = sorted(values)
    first = {value: order.index(value) for value in set(order)}
    return [first[value] + (order.count(value) + 1) / 2 for value in values]


def spearman(one: Sequence[float], two: Sequence[float]) -> float | None:
    """Spearman's correlation, Pearson's of the ranks; None if all values of one side are equal."""
    a, b = ranks(one), ranks(two)
    middle = (len(a) + 1) / 2
    spread = sum((x - middle) ** 2 for x in a) * sum((y - middle) ** 2 for y in b)
    if spread == 0:
        return None
    return sum((x - middle) * (y - middle) for x, y in zip(a, b, strict=True)) / math.sqrt(spread)


def permutation_p_value(one: Sequence[float], two: Sequence[float]) -> float:
    """The one-sided p value of Spearman's correlation, by a permutation test.

    It is the share of the orders of ``two`` that agree with ``one`` at least as well: of all orders
    for up to seven values, and of seeded random ones for more.
    """
    a, b = ranks(one), ranks(two)
    # Ranks have the same mean and spread in every order, so it suffices to compare their products.
    reached = _product(a, b) - 1e-9
    if len(b) <= ENUMERATED:
        products = [_product(a, order) for order in permutations(b)]
        return sum(product >= reached for product in products) / len(products)
    source = random.Random(0)  # noqa: S311
    drawn = (source.sample(b, len(b)) for _ in range(PERMUTATIONS))
    return (1 + sum(_product(a, order) >= reached for order in drawn)) / (1 + PERMUTATIONS)


def _product(one: Sequence[float], two: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(one, two, strict=True))


def kendall(one: Sequence[float], two: Sequence[float]) -> float | None:
    """Kendall's τ-b, which allows for ties; None if all values of one side are equal."""
    agreed = left = right = 0
    for place in range(len(one)):
        for other in range(place):
            a, b = _sign(one[place] - one[other]), _sign(two[place] - two[other])
            agreed += a * b
            left += a * a
            right += b * b
    return agreed / math.sqrt(left * right) if left and right else None


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
