"""How often a decision is wrong: simulated comparisons with seeds, rows and runs that collapse."""

from __future__ import annotations

import numpy as np
import pytest

from surgery.evaluation.comparison import comparison_table
from surgery.evaluation.decision.pairs import Pair, adjusted, needed
from surgery.schemas.decision import Decision
from tests.support.service.finished_runs import FinetuneRun, plan, run

ROWS = 500
COMPARISONS = 200


def compared(
    source: np.random.Generator, gains: list[float], seeds: int, collapses: float = 0.0
) -> Decision:
    """The decision on arms of accuracy 0.75 and these gains.

    A seed moves all arms alike and each by itself; an arm does a little better or worse on just
    these rows than on others; some runs never leave chance; and accuracies are counts of rows.
    """
    arms = len(gains)
    level = 0.75 + np.array(gains)[:, None] + source.normal(0, 0.01, seeds)
    level = level + source.normal(0, 0.01, (arms, seeds))
    error = np.sqrt(0.75 * 0.25 / ROWS)
    level = level + source.normal(0, error * 0.7, (arms, 1)) + source.normal(0, error * 0.7)
    level = np.where(source.random((arms, seeds)) < collapses, 0.5, level)
    measured = np.round(level * ROWS) / ROWS
    runs: list[FinetuneRun] = [
        run(f"a{arm}", seed, float(value), float(np.sqrt(value * (1 - value) / ROWS)))
        for arm, own in enumerate(measured)
        for seed, value in enumerate(own)
    ]
    table = comparison_table([plan(f"a{arm}") for arm in range(arms)], runs, None, ROWS)
    assert table.decision is not None
    return table.decision


def winners(arms: int, seeds: int, collapses: float) -> int:
    source = np.random.default_rng([arms, seeds, int(10 * collapses)])
    found = (compared(source, [0.0] * arms, seeds, collapses) for _ in range(COMPARISONS))
    return sum(each.outcome == "winner" for each in found)


@pytest.mark.parametrize(
    "collapses",
    [0.1, pytest.param(0.0, marks=pytest.mark.slow), pytest.param(0.3, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("arms", [2, 3, 4, 5])
def test_equal_arms_have_no_winner(arms: int, seeds: int, collapses: float) -> None:
    assert winners(arms, seeds, collapses) <= 0.05 * COMPARISONS


@pytest.mark.parametrize(("arms", "seeds"), [(2, 3), (5, 3), (5, 5)])
def test_an_arm_as_good_as_any_is_rarely_called_worse(arms: int, seeds: int) -> None:
    source = np.random.default_rng([arms, seeds])
    lost = 0
    for _ in range(COMPARISONS):
        decision = compared(source, [0.0] * arms, seeds)
        lost += any(other.arm == "a0" and other.told_apart for other in decision.others)
    assert lost <= 0.05 * COMPARISONS


@pytest.mark.parametrize(("arms", "seeds"), [(2, 3), (4, 3), (5, 5)])
def test_an_arm_that_is_much_better_wins(arms: int, seeds: int) -> None:
    source = np.random.default_rng([arms, seeds])
    found = [compared(source, [0.15] + [0.0] * (arms - 1), seeds) for _ in range(100)]
    assert sum(each.outcome == "winner" and each.best == "a0" for each in found) >= 80


def test_the_seeds_that_are_asked_for_tell_the_difference() -> None:
    """Four times out of five, if the spread and the difference are as they were measured."""
    pair = Pair([0.03, 0.01, 0.05], 0.002)
    need = needed(pair, 3, ROWS)
    assert need is not None
    assert need.seeds is not None
    source = np.random.default_rng(0)
    told = 0
    for _ in range(400):
        drawn = source.normal(pair.mean, pair.spread**0.5, need.seeds) + source.normal(0, 0.002)
        p_value = Pair([float(each) for each in drawn], 0.002).p_value()
        assert p_value is not None
        told += adjusted(p_value, 3) <= 0.05
    assert 0.7 <= told / 400 <= 0.95


def test_a_chance_agreement_of_three_seeds_decides_nothing_alone() -> None:
    """Equal differences have no spread; the rows still have an error."""
    agreed = Pair([0.01, 0.01, 0.01], 0.01)
    p_value = agreed.p_value()
    assert p_value is not None
    assert p_value == pytest.approx(0.3173, abs=1e-3)  # one standard error, of a normal
