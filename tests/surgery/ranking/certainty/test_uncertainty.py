"""Resamples, intervals and the agreement of orders, against loops and a known truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from surgery.data.tokens.tokenize import encode
from surgery.heads.features import HeadFeatures
from surgery.heads.warmup import warm_up
from surgery.io.reporter import Quiet
from surgery.io.sources import Sources
from surgery.models.blocks import Unit
from surgery.models.loading import load_model
from surgery.models.source.resolve import local_model
from surgery.ranking import uncertainty
from surgery.ranking.sample import Sample
from surgery.ranking.scorer import Scorer, ranked_only
from surgery.ranking.scores import Scores, from_samples
from surgery.ranking.uncertainty import (
    Resamples,
    bootstrap_means,
    fewest_holding_half,
    intervals,
    kendall_tau,
    order_of,
    resampled,
    split_half_tau,
    stability_of,
    top_k_overlap,
    top_k_probabilities,
    top_k_set_probability,
)
from surgery.schemas.jobs.ranking import RankingOptions
from tests.support.models.toys import sentences
from tests.support.reference.ranking import (
    Matrix,
    drawn_rows,
    mean_and_error,
    ratio_and_error,
    t_interval,
)

MEANS = (1.0, 5.0, 9.0, 2.0)


def units(count: int) -> list[Unit]:
    return [Unit(f"layer.{place}", place, (), 10) for place in range(count)]


def matrix(means: tuple[float, ...] = MEANS, samples: int = 60) -> Matrix:
    return np.random.default_rng(7).gamma(4.0, np.array(means) / 4, (samples, len(means)))


def scores_of(values: Matrix, weights: Matrix | None = None) -> Scores:
    return from_samples(units(values.shape[1]), values, weights)


def drawn(scores: Scores, resamples: int = 1000, seed: int = 0) -> Resamples:
    found = resampled(scores, resamples, seed)
    assert found is not None
    return found


@pytest.mark.parametrize("cells", [1, 700, 20_000_000])
def test_bootstrap_equals_the_loop(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uncertainty, "BOOTSTRAP_CELLS", cells)
    values = matrix()
    expected = [values[rows].mean(0) for rows in drawn_rows(60, 25, 3)]
    np.testing.assert_allclose(bootstrap_means(values, 25, 3), expected, rtol=1e-12)


def test_resamples_of_means_and_their_errors_equal_the_loop() -> None:
    values = matrix()
    found = drawn(scores_of(values), 25, 3)
    expected = [mean_and_error(values[rows]) for rows in drawn_rows(60, 25, 3)]
    np.testing.assert_allclose(found.values, [mean for mean, _ in expected], rtol=1e-12)
    np.testing.assert_allclose(found.errors, [error for _, error in expected], rtol=1e-9)
    np.testing.assert_allclose(found.error, mean_and_error(values)[1], rtol=1e-12)


def test_resamples_of_ratios_and_their_errors_equal_the_loop() -> None:
    values, weights = matrix() - 3, np.random.default_rng(1).gamma(2.0, 1.0, 60)
    found = drawn(scores_of(values, weights), 25, 3)
    expected = [ratio_and_error(values[rows], weights[rows]) for rows in drawn_rows(60, 25, 3)]
    np.testing.assert_allclose(found.values, [ratio for ratio, _ in expected], rtol=1e-9)
    np.testing.assert_allclose(found.errors, [error for _, error in expected], rtol=1e-9)
    np.testing.assert_allclose(found.error, ratio_and_error(values, weights)[1], rtol=1e-12)


def test_intervals_equal_the_loop() -> None:
    values = matrix()
    found = intervals(scores_of(values), drawn(scores_of(values), 400, 5))
    for place in range(4):
        assert found[place] == pytest.approx(t_interval(values[:, place], 400, 5), rel=1e-9)


@pytest.fixture(scope="module")
def real_scores(real_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    """Per-sample traces (240, 6) of the real encoder on sentences, its head warmed up."""
    data = sentences(288)
    sources = Sources((), cache=tmp_path_factory.mktemp("cache"), offline=True)
    loaded = load_model(local_model(real_model), sources, data, seed=0)
    encoded = encode(data.train, loaded.tokenizer, 128)
    head = list(loaded.head.values())
    features = HeadFeatures(loaded.model, head, encoded, data.problem, Quiet())
    warm_up(features, epochs=3, seed=0)
    sample = Sample(encoded, torch.device("cpu"))
    scorer = Scorer(loaded, sample, data.problem, RankingOptions(), Quiet())
    per_sample = ranked_only(scorer.fisher()).per_sample
    assert per_sample is not None
    return per_sample


@pytest.mark.parametrize("samples", [pytest.param(32, marks=pytest.mark.slow), 128])
def test_intervals_hold_the_true_score_of_real_encoders(real_scores: Matrix, samples: int) -> None:
    """The sentences stand for the population; of samples drawn from it 95 % should hold its mean."""
    truth = real_scores.mean(0)
    generator = np.random.default_rng(0)
    held = []
    for seed in range(600):
        values = real_scores[generator.integers(0, len(real_scores), samples)]
        scores = scores_of(values)
        for true, interval in zip(truth, intervals(scores, drawn(scores, 300, seed)), strict=True):
            assert interval is not None
            held.append(interval[0] <= true <= interval[1])
    assert 0.93 <= np.mean(held) <= 0.97


def test_intervals_of_ratios_hold_the_true_ratio() -> None:
    generator = np.random.default_rng(0)
    held = []
    for seed in range(400):
        weights = generator.gamma(1.0, 1.0, 64)
        values = weights[:, None] * 0.3 + generator.normal(0, 1, (64, 2)) * weights[:, None]
        scores = scores_of(values, weights)
        for interval in intervals(scores, drawn(scores, 400, seed)):
            assert interval is not None
            held.append(interval[0] <= 0.3 <= interval[1])
    assert 0.92 <= np.mean(held) <= 0.98


def test_intervals_shrink_with_the_root_of_the_samples() -> None:
    widths = []
    for samples in (40, 4000):
        scores = scores_of(matrix(samples=samples))
        ends = np.array(intervals(scores, drawn(scores)))
        assert (ends[:, 0] < scores.values).all()
        assert (scores.values < ends[:, 1]).all()
        widths.append((ends[:, 1] - ends[:, 0]).sum())
    assert widths[1] == pytest.approx(widths[0] / 10, rel=0.5)


def test_intervals_of_equal_samples_are_points() -> None:
    scores = scores_of(np.full((30, 2), 0.1))
    for interval in intervals(scores, drawn(scores)):
        assert interval == pytest.approx((0.1, 0.1), rel=1e-12)


def test_intervals_of_squares_do_not_reach_below_zero() -> None:
    values = np.array([[0.0]] + [[1 + place / 100] for place in range(11)])
    [interval] = intervals(scores_of(values), drawn(scores_of(values)))
    assert interval is not None
    assert interval[0] == 0
    moved = scores_of(values - 0.1)  # an R², say, may be negative
    [interval] = intervals(moved, drawn(moved))
    assert interval is not None
    assert interval[0] < -0.1


def test_a_score_that_hangs_on_one_sample_has_no_interval() -> None:
    values = np.array([[1e-9 * place, 1.0 + place % 3] for place in range(40)])
    values[7, 0] = 1.0
    first, second = intervals(scores_of(values), drawn(scores_of(values)))
    assert first is None
    assert second is not None


@pytest.mark.parametrize("samples", [1, 2])
def test_of_two_samples_nothing_can_be_said(samples: int) -> None:
    scores = scores_of(matrix(samples=samples))
    found = intervals(scores, drawn(scores))
    assert found == ([(value, value) for value in scores.values] if samples == 1 else [None] * 4)


def test_no_resamples_where_no_sample_has_a_score() -> None:
    assert resampled(scores_of(matrix()), 0, 0) is None
    assert resampled(Scores(units(4), np.ones(4)), 100, 0) is None


def test_same_seed_same_resamples() -> None:
    scores = scores_of(matrix())
    first, again, other = (drawn(scores, 50, seed).values for seed in (4, 4, 5))
    assert (first == again).all()
    assert (first != other).any()


def test_of_equal_scores_the_first_comes_first() -> None:
    assert order_of(np.array([1.0, 3.0, 1.0, 3.0])).tolist() == [1, 3, 0, 2]


@given(st.lists(st.lists(st.integers(0, 4), min_size=4, max_size=4), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_probabilities_of_the_top_k(rows: list[list[int]]) -> None:
    values = np.array(rows, dtype=float)
    table = top_k_probabilities(values)
    assert table.sum(1) == pytest.approx([1, 2, 3, 4])  # k places are always taken
    assert (np.diff(table, axis=0) >= -1e-12).all()
    for k in range(1, 5):
        tops = [set(sorted(range(4), key=lambda u, r=row: (-r[u], u))[:k]) for row in rows]
        expected = [np.mean([unit in top for top in tops]) for unit in range(4)]
        assert table[k - 1] == pytest.approx(expected)
        mine = set(sorted(range(4), key=lambda u: (-rows[0][u], u))[:k])
        same = np.mean([top == mine for top in tops])
        assert top_k_set_probability(values[0], values, k) == pytest.approx(same)


def test_ambiguous_k() -> None:
    """Two layers of equal means: which of them is second is open, that both are among three not."""
    clear, tied = (scores_of(matrix(means)) for means in (MEANS, (1.0, 5.0, 50.0, 5.0)))
    found = stability_of(clear, drawn(clear), 0)
    assert found.ambiguous_k == []
    assert found.rank_confidence == pytest.approx(1, abs=0.01)
    found = stability_of(tied, drawn(tied), 0)
    assert found.ambiguous_k == [2]
    assert found.rank_confidence is not None
    assert found.rank_confidence < uncertainty.CERTAIN


def test_tau_between_halves() -> None:
    assert split_half_tau(scores_of(matrix(samples=400)), 0) == 1.0
    values = matrix((3.0, 3.0, 3.0, 3.0), samples=20)
    order = np.random.default_rng(4).permutation(20)
    first, second = values[order[:10]].mean(0), values[order[10:]].mean(0)
    expected = kendalltau(first, second).statistic
    assert split_half_tau(scores_of(values), 4) == pytest.approx(expected)
    assert split_half_tau(scores_of(np.ones((6, 4))), 0) is None  # all alike: no order
    assert split_half_tau(scores_of(matrix(samples=1)), 0) is None


def test_tau_between_halves_of_ratios() -> None:
    values, weights = matrix((3.0, 3.1, 3.2, 3.3)), np.random.default_rng(1).gamma(0.3, 1.0, 60)
    order = np.random.default_rng(2).permutation(60)
    halves = [values[half].sum(0) / weights[half].sum() for half in (order[:30], order[30:])]
    found = split_half_tau(scores_of(values, weights), 2)
    assert found == pytest.approx(kendalltau(*halves).statistic)


def test_tau_between_given_halves() -> None:
    halves = (np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]))
    scores = Scores(units(3), np.ones(3), halves=halves)
    assert split_half_tau(scores, 0) == pytest.approx(1 / 3)
    assert split_half_tau(Scores(units(3), np.ones(3)), 0) is None


def test_kendall_tau_of_a_whole_agreement_is_one_and_of_no_order_none() -> None:
    assert kendall_tau(range(7), range(7)) == 1
    assert kendall_tau(range(7), range(7, 0, -1)) == -1
    assert kendall_tau([1.0], [2.0]) is None
    assert kendall_tau([1.0, 1.0], [1.0, 2.0]) is None
    assert kendall_tau([1.0, 2.0], [1.0, 1.0]) is None


def test_top_k_overlap() -> None:
    found = top_k_overlap(np.array([4.0, 3.0, 2.0, 1.0]), np.array([4.0, 1.0, 2.0, 3.0]))
    assert found == {"1": 1.0, "2": 0.5, "3": 2 / 3, "4": 1.0}


@pytest.mark.parametrize(
    ("shares", "k"),
    [([0.6, 0.4], 1), ([0.5, 0.3, 0.2], 1), ([0.3, 0.3, 0.2, 0.2], 2), ([0.25] * 4, 2),
     ([0.1] * 10, 5), ([0.0, 0.0], None), ([], None)],
)  # fmt: skip
def test_recommended_k_holds_half(shares: list[float], k: int | None) -> None:
    assert fewest_holding_half(shares) == k


def test_a_units_interval_does_not_depend_on_the_others() -> None:
    wide = matrix(tuple(np.linspace(1, 9, 48)))
    together = intervals(scores_of(wide), drawn(scores_of(wide), 200, 1))
    alone = scores_of(wide[:, 7:8])
    assert together[7] == pytest.approx(intervals(alone, drawn(alone, 200, 1))[0], rel=1e-9)
