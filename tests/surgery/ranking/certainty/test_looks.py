"""When the top layers may be called certain, beside scipy and by simulated rankings."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import ceil, log2

import numpy as np
import pytest
from scipy import stats

from surgery.ranking.looks import ERROR_RATE, look, planned_looks, top_set_p_value
from surgery.ranking.scores import Matrix
from surgery.ranking.uncertainty import bootstrap_means, top_k_set_probability

RANKINGS = 500
ALLOWED = ERROR_RATE + 3 * (ERROR_RATE * (1 - ERROR_RATE) / RANKINGS) ** 0.5  # three errors
Draw = Callable[[np.random.Generator, int], Matrix]  # the scores of a number of rows


def slow_p_value(per_sample: Matrix, k: int) -> float:
    """One pair of layers after the other."""
    samples, units = per_sample.shape
    order = sorted(range(units), key=lambda unit: -per_sample[:, unit].mean())
    found = []
    for one, other in product(order[:k], order[k:]):
        differences = per_sample[:, one] - per_sample[:, other]
        ratio = differences.mean() / differences.std(ddof=1)
        skewness = stats.skew(differences)
        cubic = ratio + skewness * ratio**2 / 3 + skewness**2 * ratio**3 / 27
        t = samples**0.5 * min(ratio, cubic + skewness / (6 * samples))
        found.append(float(stats.t.sf(t, samples - 1)))
    return min(1.0, 2 * (units - 1) * max(found))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_least_clear_pair_decides(k: int) -> None:
    source = np.random.default_rng(k)
    per_sample = source.lognormal(0, 0.4, (60, 5)) * [1.0, 2.0, 1.6, 1.3, 0.8]
    assert top_set_p_value(per_sample, k) == pytest.approx(slow_p_value(per_sample, k), abs=1e-12)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]], 1.0),  # equal
        ([[2.0, 2.0, 2.0], [1.0, 1.0, 1.0]], 0.0),  # every row says the same
        ([[2.0], [1.0]], 1.0),  # one row says nothing
        ([[2.0, 1.0, 3.0]], 0.0),  # one layer is the top one
    ],
)
def test_rows_that_do_not_vary(columns: list[list[float]], expected: float) -> None:
    assert top_set_p_value(np.array(columns).T, 1) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("total", [1, 32, 33, 100, 256, 4096])
@pytest.mark.parametrize("world", [1, 3, 50])
def test_looks_are_planned_beforehand(total: int, world: int) -> None:
    ends = planned_looks(total, world)
    assert ends[-1] == total
    sizes = np.diff([0, *ends])
    assert (sizes >= min(world, total)).all()
    assert len(ends) <= max(0, ceil(log2(total / 32))) + 1
    levels = [look(np.ones((end, 2)), len(ends)).level for end in ends]
    assert sum(levels) == pytest.approx(ERROR_RATE)


def alike(spread: float, units: int) -> Draw:
    """Layers that cannot be told apart: a size that a row gives to all, and noise of their own."""

    def draw(source: np.random.Generator, rows: int) -> Matrix:
        return source.lognormal(0, 1, (rows, 1)) * source.lognormal(0, spread, (rows, units))

    return draw


def two_alike_amid_clear(source: np.random.Generator, rows: int) -> Matrix:
    """Of five layers, the second and the third are equal, and the first two hold half."""
    return source.lognormal(0, 0.3, (rows, 5)) * [3.0, 2.0, 2.0, 0.5, 0.2]


def unequally_skewed(source: np.random.Generator, rows: int) -> Matrix:
    """Two layers of equal means, one of them with few large scores and many small ones."""
    spread = np.array([0.1, 1.0])
    return np.exp(spread * source.normal(size=(rows, 2)) - spread**2 / 2)


def share_called_certain(draw: Draw, samples: int, plan: int | None = None) -> tuple[float, float]:
    """The share of simulated rankings that call a set certain, and their mean number of rows.

    With ``plan`` each look pays for so many looks in place of those that there are.
    """
    source, ends = np.random.default_rng(0), planned_looks(samples)
    called, rows = 0, 0
    for _ in range(RANKINGS):
        per_sample = draw(source, samples)
        seen = (look(per_sample[:end], plan or len(ends)) for end in ends)
        stopped = next(
            (each for each in seen if each.certain and each.k < per_sample.shape[1]), None
        )
        called += stopped is not None
        rows += stopped.samples if stopped else samples
    return called / RANKINGS, rows / RANKINGS


@pytest.mark.parametrize("samples", [256, 1024])
@pytest.mark.parametrize(
    "draw",
    [alike(0.2, 2), alike(1.0, 2), alike(0.5, 3), alike(0.5, 12), two_alike_amid_clear],
    ids=["two", "two skewed", "three", "twelve", "two amid clear ones"],
)
def test_layers_that_do_not_differ_are_rarely_called_certain(draw: Draw, samples: int) -> None:
    """No set of the top k is right, whichever k and layers the rows suggest."""
    called, _ = share_called_certain(draw, samples)
    assert called <= ALLOWED


def test_looks_that_pay_for_one_only_would_call_too_many() -> None:
    called, _ = share_called_certain(alike(0.2, 2), 2048, plan=1)
    assert called > 0.1


def test_a_set_that_recurs_in_resamples_would_be_called_certain_far_too_often() -> None:
    """What the rule was before: two equal layers, and a look at 32, 64, 128 and 256 rows."""
    source, called = np.random.default_rng(0), 0
    for _ in range(100):
        per_sample = alike(0.2, 2)(source, 256)
        seen = (per_sample[:end] for end in planned_looks(256))
        shares = (top_k_set_probability(s.mean(0), bootstrap_means(s, 200, 0), 1) for s in seen)
        called += any(share >= 0.95 for share in shares)
    assert called > 25


def test_unequal_skewness_costs_little_more_than_the_rate() -> None:
    """A t test that is not corrected for it errs in twice as many rankings."""
    called, _ = share_called_certain(unequally_skewed, 256)
    assert called <= 0.09


def test_clear_layers_are_found_early() -> None:
    """The top two score at least twice as high as the others: some dozens of rows of 1024 do."""

    def clear(source: np.random.Generator, rows: int) -> Matrix:
        own = source.lognormal(0, 0.5, (rows, 6)) * [6.0, 3.0, 1.5, 1.0, 0.8, 0.5]
        return source.lognormal(0, 0.5, (rows, 1)) * own

    called, rows = share_called_certain(clear, 1024)
    assert called > 0.95
    assert rows < 64
