"""Whether scores of layers foretell what tuning each alone gains, against scipy."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from scipy import stats

from surgery.evaluation.comparison import comparison_table
from surgery.evaluation.single_layers import (
    agreements,
    interval,
    recommended_method,
    regret,
    spearman_draws,
)
from surgery.evaluation.statistics import permutation_p_value
from surgery.schemas.enums import Policy
from surgery.schemas.jobs.comparison import ArmPlan
from tests.support.service.finished_runs import grid, lost, plan, ranking_result

SCORES = {
    "fisher": {"l0": 4.0, "l1": 3.0, "l2": 2.0, "l3": 1.0},
    "tangent": {"l0": 0.1, "l1": 0.4, "l2": 0.2, "l3": 0.3},
}
GAINS = {"l0": [0.51, 0.52, 0.50], "l1": [0.70, 0.71, 0.72], "l2": [0.55, 0.50, 0.57],
         "l3": [0.60, 0.62, 0.64]}  # fmt: skip


def singles() -> tuple[list[ArmPlan], dict[str, list[float]]]:
    arms = [plan(f"layer-{i}", Policy.LAYERS, f"l{i}") for i in range(4)]
    return arms, {f"layer-{i}": GAINS[f"l{i}"] for i in range(4)}


def test_every_method_is_judged_by_the_gains_of_single_layers() -> None:
    arms, metrics = singles()
    head = plan("head", Policy.HEAD_ONLY)
    runs = grid({**metrics, "head": [0.5, 0.5, 0.5]})
    result = comparison_table([head, *arms], runs, ("rk_1", ranking_result(SCORES)))
    found = result.single_layers
    assert found is not None
    assert (found.ranking, found.baseline) == ("rk_1", "head")
    means = [np.mean(own) - 0.5 for own in GAINS.values()]
    assert [gain.gain and gain.gain.mean for gain in found.layers] == pytest.approx(means)
    assert [entry.method for entry in found.methods] == ["tangent", "fisher"]
    for entry in found.methods:
        scores = list(SCORES[entry.method].values())
        assert entry.spearman == pytest.approx(stats.spearmanr(scores, means).statistic)
        assert entry.kendall == pytest.approx(stats.kendalltau(scores, means).statistic)
        assert entry.spearman_ci is not None
        assert entry.spearman_ci[0] <= entry.spearman <= entry.spearman_ci[1]
    by_method = {entry.method: entry.regret for entry in found.methods}
    best, first = max(means), means[0]
    assert by_method["fisher"] == pytest.approx({"1": best - first, "2": 0.0})
    assert by_method["tangent"] == pytest.approx({"1": 0.0, "2": 0.0})


def test_a_gain_is_paired_with_the_head_of_the_same_seed() -> None:
    """What a seed does to every arm alike is no spread of a gain, and no seed goes unpaired."""
    arms, metrics = singles()
    head = plan("head", Policy.HEAD_ONLY)
    moved = [0.1, 0.0, -0.2]
    metrics = {arm: [own + by for by in moved] for arm, (own, *_) in metrics.items()}
    runs = grid({**metrics, "head": [0.5 + by for by in moved]})
    single = comparison_table([head, *arms], runs).single_layers
    assert single is not None
    gain = single.layers[1].gain
    assert gain is not None
    assert (gain.mean, gain.ci) == (pytest.approx(0.2), pytest.approx((0.2, 0.2)))
    without = [run for run in runs if (run.arm, run.seed) != ("head", 1)]
    single = comparison_table([head, *arms], without).single_layers
    assert single is not None
    assert single.layers[1].gain is not None
    assert single.layers[1].gain.seeds == 2


RISING = {f"l{layer}": float(layer) for layer in range(6)}
FALLING = {layer: -score for layer, score in RISING.items()}
SWAPPED = RISING | {"l0": 1.0, "l1": 0.0}


@pytest.mark.parametrize(
    ("scores", "seeds", "told"),
    [
        ({"fisher": FALLING, "tangent": RISING, "snip": FALLING}, 3, "tangent"),
        ({"fisher": FALLING, "tangent": RISING, "snip": FALLING}, 2, None),  # no interval
        ({"fisher": RISING, "tangent": RISING}, 3, None),  # no better than the default
        ({"fisher": RISING, "tangent": FALLING}, 3, None),
        ({"fisher": FALLING, "random": RISING}, 3, None),  # means nothing
        # One swap is found by chance in 6 of 720 orders: enough for one method, not for seven.
        ({"fisher": FALLING, "tangent": SWAPPED}, 3, "tangent"),
        ({"fisher": FALLING, "tangent": SWAPPED, **{f"m{i}": FALLING for i in range(6)}}, 3, None),
    ],
)
def test_a_method_is_recommended_where_it_is_clearly_better_than_fisher(
    scores: dict[str, dict[str, float]], seeds: int, told: str | None
) -> None:
    arms = [plan(f"layer-{i}", Policy.LAYERS, f"l{i}") for i in range(6)]
    metrics = {f"layer-{i}": [0.5 + 0.05 * i] * seeds for i in range(6)}
    single = comparison_table(arms, grid(metrics), ("rk_1", ranking_result(scores))).single_layers
    assert single is not None
    assert single.recommended == told
    by_method = {entry.method: entry for entry in single.methods}
    assert by_method["fisher"].minus_fisher_ci is None
    assert by_method["fisher"].adjusted_p_value is None
    assert single.error_rate == 0.05


def test_a_method_pays_for_those_beside_it_by_holm() -> None:
    """Three could be recommended: 3 · 1/720 for the very order, 2 · 6/720 for one swap."""
    scores = {"fisher": FALLING, "random": RISING, "tangent": RISING, "snip": SWAPPED,
              "last": FALLING}  # fmt: skip
    arms = [plan(f"layer-{i}", Policy.LAYERS, f"l{i}") for i in range(6)]
    metrics = {f"layer-{i}": [0.5 + 0.05 * i] * 3 for i in range(6)}
    single = comparison_table(arms, grid(metrics), ("rk_1", ranking_result(scores))).single_layers
    assert single is not None
    adjusted = {entry.method: entry.adjusted_p_value for entry in single.methods}
    assert adjusted["tangent"] == pytest.approx(3 / 720)
    assert adjusted["snip"] == pytest.approx(2 * 6 / 720)
    assert adjusted["last"] == 1
    assert (adjusted["fisher"], adjusted["random"]) == (None, None)


def share_with_a_recommendation(methods: int, tasks: int = 400, adjusts: bool = True) -> float:
    """The share of simulated tasks in which a method is recommended though no score means anything.

    Fisher's order is the worst there is, so that chance alone decides. The methods' scores are
    random, and the gains are those of five layers with three seeds each.
    """
    source = np.random.default_rng(methods)
    layers, named = [f"l{layer}" for layer in range(5)], 0
    for _ in range(tasks):
        gain = source.normal(0, 1, 5)
        gains = {
            layer: {seed: float(own + source.normal(0, 0.02)) for seed in range(3)}
            for layer, own in zip(layers, gain, strict=True)
        }
        drawn = {"fisher": -gain, **{f"m{i}": source.normal(0, 1, 5) for i in range(methods)}}
        scores = {m: dict(zip(layers, own.tolist(), strict=True)) for m, own in drawn.items()}
        table = ranking_result(scores).methods
        assert table is not None
        found = agreements(table.methods, gains)
        if not adjusts:
            found = [entry.model_copy(update={"adjusted_p_value": entry.p_value})
                     for entry in found]  # fmt: skip
        named += recommended_method(found) is not None
    return named / tasks


@pytest.mark.parametrize("methods", [1, 4])
def test_unrelated_scores_are_rarely_recommended(methods: int) -> None:
    # Three standard errors of the simulation.
    assert share_with_a_recommendation(methods) <= 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5


def test_without_an_adjustment_unrelated_scores_would_be_recommended() -> None:
    assert share_with_a_recommendation(8, tasks=150, adjusts=False) > 0.15


def test_chance_is_counted_over_the_orders_of_the_layers() -> None:
    """Beside every order by scipy; of more layers than seven, drawn ones come close."""
    one = [0.3, 0.1, 0.4, 0.4, 0.9]
    two = [2.0, 1.0, 3.0, 5.0, 4.0]
    rho = stats.spearmanr(one, two).statistic
    orders = [stats.spearmanr(one, order).statistic for order in permutations(two)]
    assert permutation_p_value(one, two) == np.mean([other >= rho - 1e-9 for other in orders])
    longer = [*range(8)]
    swapped = [1, 0, 3, 2, 5, 4, 7, 6]
    whole = np.mean([
        np.dot(longer, order) >= np.dot(longer, swapped) for order in permutations(longer)
    ])  # fmt: skip
    assert permutation_p_value(longer, swapped) == pytest.approx(whole, abs=0.002)


def test_without_a_head_only_arm_gains_are_the_metric() -> None:
    arms, metrics = singles()
    result = comparison_table(arms, grid(metrics), ("rk_1", ranking_result(SCORES)))
    assert result.single_layers is not None
    assert result.single_layers.baseline is None
    assert result.single_layers.layers[1].gain is not None
    assert result.single_layers.layers[1].gain.mean == pytest.approx(0.71)


def test_single_layers_without_their_ranking_keep_the_gains() -> None:
    arms, metrics = singles()
    result = comparison_table(arms, grid(metrics))
    assert result.single_layers is not None
    assert (result.single_layers.ranking, result.single_layers.methods) == (None, [])
    assert len(result.single_layers.layers) == 4


def test_a_layer_whose_runs_failed_is_left_out_of_the_agreement() -> None:
    arms, metrics = singles()
    del metrics["layer-1"]
    runs = [*grid(metrics), lost("layer-1", 0)]
    result = comparison_table(arms, runs, ("rk_1", ranking_result(SCORES)))
    assert result.single_layers is not None
    fisher = next(m for m in result.single_layers.methods if m.method == "fisher")
    rest = [np.mean(GAINS[name]) for name in ("l0", "l2", "l3")]
    assert fisher.spearman == pytest.approx(stats.spearmanr([4, 2, 1], rest).statistic)
    assert result.single_layers.layers[1].gain is None


def test_the_interval_covers_the_draws_of_seeds() -> None:
    """Beside all 27 equally likely draws of three seeds."""
    scores = [1.0, 2.0, 3.0]
    gains = [{0: 0.10, 1: 0.33, 2: 0.27}, {0: 0.24, 1: 0.11, 2: 0.45}, {0: 0.31, 1: 0.22, 2: 0.13}]
    every = [
        stats.spearmanr(scores, [np.mean([own[s] for s in draw]) for own in gains]).statistic
        for draw in product(range(3), repeat=3)
    ]
    low, high = np.percentile(every, [2.5, 97.5], method="closest_observation")
    assert interval(spearman_draws(scores, gains)) == pytest.approx((low, high))
    assert interval(spearman_draws(scores, [{0: 0.1, 1: 0.3}] * 3)) is None


def test_regret_counts_only_what_was_measured() -> None:
    gains = {"a": 0.1, "b": 0.5, "c": 0.3}
    assert regret(["a", "c", "b"], gains) == pytest.approx({"1": 0.4, "2": 0.2})
    assert regret(["missing", "b"], {"b": 0.5}) == {"1": 0.0}
    assert regret(["a"], {}) == {}
