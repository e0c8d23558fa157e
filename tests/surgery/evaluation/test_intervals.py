"""The small statistics of a comparison, beside scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from surgery.evaluation.statistics import (
    kendall,
    mean_interval,
    ranks,
    spearman,
    t_probability,
    t_quantile,
)

PAIRS = st.lists(
    st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=12
)  # few values: many ties


@pytest.mark.parametrize("freedom", range(1, 16))
def test_student_t(freedom: int) -> None:
    for t in (0.0, 0.3, 1.0, 2.5, 40.0):
        twice = 2 * stats.t.cdf(t, freedom) - 1
        assert t_probability(t, freedom) == pytest.approx(twice, abs=1e-12)
    assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-12)


def test_an_interval_of_a_mean() -> None:
    values = [0.81, 0.84, 0.80, 0.86]
    found = mean_interval(values)
    error = stats.sem(values)
    assert found == pytest.approx(stats.t.interval(0.95, 3, np.mean(values), error))
    assert mean_interval([0.5]) is None
    # By hand: mean 2, deviation 1, t(2) = 4.303.
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx(
        (2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5), abs=1e-3
    )


@given(PAIRS)
def test_rank_correlations_with_ties(pairs: list[tuple[int, int]]) -> None:
    one, two = [a for a, _ in pairs], [b for _, b in pairs]
    assert ranks(one) == stats.rankdata(one).tolist()
    if len(set(one)) == 1 or len(set(two)) == 1:
        assert spearman(one, two) is None
        assert kendall(one, two) is None
        return
    assert spearman(one, two) == pytest.approx(stats.spearmanr(one, two).statistic, abs=1e-12)
    assert kendall(one, two) == pytest.approx(stats.kendalltau(one, two).statistic, abs=1e-12)
