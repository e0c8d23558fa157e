"""The table of a comparison, against numbers worked by hand and by scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from finished_runs import METRIC, finetune_result, ranking_result
from scipy import stats

from surgery.comparison import Run, compare, verdict
from surgery.comparison_results import ArmPlan, ArmReport, SeedMean
from surgery.single_layers import interval, regret, spearman_draws
from surgery.terms import Policy

LOST = {"code": "worker_lost", "detail": "gone"}


def plan(name: str, policy: Policy = Policy.LAST_K, layer: str | None = None) -> ArmPlan:
    return ArmPlan(name=name, policy=policy, layers=[layer] if layer else None, single=bool(layer))


def run(arm: str, seed: int, metric: float | None, noise: float | None = None) -> Run:
    return Run(
        arm, seed, f"ft_{arm}{seed}", "succeeded",
        finetune_result(metric, noise=noise, seconds=2.0 + seed), checkpoint_bytes=100 + seed,
    )  # fmt: skip


def lost(arm: str, seed: int) -> Run:
    return Run(arm, seed, f"ft_{arm}{seed}", "failed", error=LOST)


def grid(metrics: dict[str, list[float]], noise: float | None = None) -> list[Run]:
    return [
        run(arm, seed, metric, noise)
        for arm, own in metrics.items()
        for seed, metric in enumerate(own)
    ]


def arm_of(reports: list[ArmReport], name: str) -> ArmReport:
    return next(report for report in reports if report.name == name)


def test_means_and_differences_paired_by_seed() -> None:
    """The seeds differ by far more than the arms do: only the paired difference tells them apart."""
    last, whole = [0.50, 0.60, 0.70], [0.55, 0.66, 0.75]
    arms = [plan("last"), plan("all", Policy.ALL)]
    result = compare(arms, grid({"last": last, "all": whole}, noise=0.02))
    report = arm_of(result.arms, "last")
    assert (result.primary_metric, result.reference) == (METRIC, "all")
    assert result.noise == pytest.approx(0.02)
    assert report.metric is not None
    assert report.metric.mean == pytest.approx(0.6)
    assert report.metric.ci == pytest.approx(stats.t.interval(0.95, 2, 0.6, stats.sem(last)))
    differences = np.subtract(last, whole)
    assert report.difference is not None
    assert report.difference.mean == pytest.approx(differences.mean())
    assert report.difference.ci == pytest.approx(
        stats.t.interval(0.95, 2, differences.mean(), stats.sem(differences))
    )
    assert report.verdict == "worse"
    reference = arm_of(result.arms, "all")
    assert (reference.difference, reference.verdict) == (None, None)


def test_costs_are_means_and_the_highest_memory() -> None:
    result = compare([plan("all", Policy.ALL)], grid({"all": [0.5, 0.6, 0.7]}))
    report = result.arms[0]
    assert report.seconds == {"train": 1.5, "total": 3.0}
    assert (report.checkpoint_bytes, report.peak_memory_bytes) == (101, 1000)
    assert (report.samples_per_second, report.trainable_parameters) == (50.0, 10)
    assert (result.runs, result.seconds) == (3, 9.0)
    assert [own.checkpoint for own in report.runs] == ["ck_1"] * 3


def test_what_failed_is_listed_and_the_rest_counts() -> None:
    runs = [
        run("a", 0, 0.6),
        lost("a", 1),
        run("a", 2, 0.8),
        run("all", 0, 0.5),
        run("all", 1, 0.5),
    ]
    result = compare([plan("a"), plan("all", Policy.ALL)], runs)
    report = arm_of(result.arms, "a")
    assert [(f.job, f.error) for f in result.failures] == [("ft_a1", LOST)]
    assert report.metric is not None
    assert (report.metric.mean, report.metric.seeds) == (pytest.approx(0.7), 2)
    assert report.difference is not None  # only seed 0 has both
    assert (report.difference.mean, report.difference.ci) == (pytest.approx(0.1), None)


def test_an_arm_that_never_succeeded_is_no_reference() -> None:
    runs = [lost("all", 0), run("a", 0, 0.6), run("b", 0, 0.7)]
    result = compare([plan("all", Policy.ALL), plan("a"), plan("b")], runs)
    assert result.reference == "a"
    empty = arm_of(result.arms, "all")
    assert (empty.metric, empty.trained_layers, empty.seconds) == (None, None, {})
    assert (empty.difference, empty.verdict) == (None, None)


def test_an_undefined_metric_is_a_failure_with_its_reason() -> None:
    result = compare([plan("a"), plan("b")], [run("a", 0, None), run("b", 0, 0.1)])
    (failure,) = result.failures
    assert failure.error is not None
    assert (failure.job, failure.error["code"]) == ("ft_a0", "metric_undefined")


@pytest.mark.parametrize(
    ("mean", "ci", "noise", "told"),
    [
        (0.05, (0.01, 0.09), 0.02, "better"),
        (-0.05, (-0.09, -0.01), 0.02, "worse"),
        (0.05, (-0.01, 0.11), 0.02, "within noise"),  # the seeds disagree
        (0.01, (0.005, 0.015), 0.02, "within noise"),  # other rows could turn it
        (0.05, (0.01, 0.09), None, "better"),
        (0.05, None, 0.02, "better"),  # one seed: twice the noise
        (0.03, None, 0.02, "within noise"),
        (0.05, None, None, None),
    ],
)
def test_verdicts(
    mean: float, ci: tuple[float, float] | None, noise: float | None, told: str | None
) -> None:
    assert verdict(SeedMean(mean=mean, ci=ci, seeds=3), noise) == told


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
    result = compare([head, *arms], runs, ("rk_1", ranking_result(SCORES)))
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
    single = compare([head, *arms], runs).single_layers
    assert single is not None
    gain = single.layers[1].gain
    assert gain is not None
    assert (gain.mean, gain.ci) == (pytest.approx(0.2), pytest.approx((0.2, 0.2)))
    without = [run for run in runs if (run.arm, run.seed) != ("head", 1)]
    single = compare([head, *arms], without).single_layers
    assert single is not None
    assert single.layers[1].gain is not None
    assert single.layers[1].gain.seeds == 2


def test_a_method_is_recommended_where_it_is_clearly_better_than_fisher() -> None:
    arms, metrics = singles()
    single = compare(arms, grid(metrics), ("rk_1", ranking_result(SCORES))).single_layers
    assert single is not None
    tangent, fisher = single.methods
    assert (single.recommended, fisher.minus_fisher_ci) == ("tangent", None)
    assert tangent.minus_fisher_ci is not None
    assert tangent.minus_fisher_ci[0] > 0
    fewer = {arm: own[:2] for arm, own in metrics.items()}
    for runs, scores in (
        (grid(fewer), SCORES),  # too few seeds for an interval
        (grid(metrics), {**SCORES, "tangent": SCORES["fisher"]}),  # no better
        (grid(metrics), {"fisher": SCORES["tangent"], "tangent": SCORES["fisher"]}),
    ):
        single = compare(arms, runs, ("rk_1", ranking_result(scores))).single_layers
        assert single is not None
        assert single.recommended is None


def test_a_correlation_below_zero_is_no_recommendation() -> None:
    arms, _ = singles()
    metrics = {f"layer-{layer}": [0.5 + 0.1 * layer] * 3 for layer in range(4)}
    worst = {"l0": 4.0, "l1": 3.0, "l2": 2.0, "l3": 1.0}
    scores = {"fisher": worst, "snip": {**worst, "l1": 2.0, "l2": 3.0}}
    single = compare(arms, grid(metrics), ("rk_1", ranking_result(scores))).single_layers
    assert single is not None
    snip = next(entry for entry in single.methods if entry.method == "snip")
    assert snip.spearman is not None
    assert snip.minus_fisher_ci is not None
    assert snip.spearman < 0 < snip.minus_fisher_ci[0]
    assert single.recommended is None


def test_without_a_head_only_arm_gains_are_the_metric() -> None:
    arms, metrics = singles()
    result = compare(arms, grid(metrics), ("rk_1", ranking_result(SCORES)))
    assert result.single_layers is not None
    assert result.single_layers.baseline is None
    assert result.single_layers.layers[1].gain is not None
    assert result.single_layers.layers[1].gain.mean == pytest.approx(0.71)


def test_single_layers_without_their_ranking_keep_the_gains() -> None:
    arms, metrics = singles()
    result = compare(arms, grid(metrics))
    assert result.single_layers is not None
    assert (result.single_layers.ranking, result.single_layers.methods) == (None, [])
    assert len(result.single_layers.layers) == 4


def test_a_layer_whose_runs_failed_is_left_out_of_the_agreement() -> None:
    arms, metrics = singles()
    del metrics["layer-1"]
    runs = [*grid(metrics), lost("layer-1", 0)]
    result = compare(arms, runs, ("rk_1", ranking_result(SCORES)))
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
        for draw in itertools.product(range(3), repeat=3)
    ]
    low, high = np.percentile(every, [2.5, 97.5], method="closest_observation")
    assert interval(spearman_draws(scores, gains)) == pytest.approx((low, high))
    assert interval(spearman_draws(scores, [{0: 0.1, 1: 0.3}] * 3)) is None


def test_regret_counts_only_what_was_measured() -> None:
    gains = {"a": 0.1, "b": 0.5, "c": 0.3}
    assert regret(["a", "c", "b"], gains) == pytest.approx({"1": 0.4, "2": 0.2})
    assert regret(["missing", "b"], {"b": 0.5}) == {"1": 0.0}
    assert regret(["a"], {}) == {}
