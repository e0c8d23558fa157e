"""The table of a comparison, against numbers worked by hand and by scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from surgery.evaluation.comparison import comparison_table, verdicts
from surgery.evaluation.statistics import holm, normal_p_value, t_p_value
from surgery.schemas.enums import Policy
from surgery.schemas.jobs.comparison import ArmReport
from tests.support.service.finished_runs import LOST, METRIC, grid, lost, plan, run


def arm_of(reports: list[ArmReport], name: str) -> ArmReport:
    return next(report for report in reports if report.name == name)


def test_means_and_differences_paired_by_seed() -> None:
    """The seeds differ by far more than the arms do: only the paired difference tells them apart."""
    last, whole = [0.50, 0.60, 0.70], [0.55, 0.66, 0.75]
    arms = [plan("last"), plan("all", Policy.ALL)]
    result = comparison_table(arms, grid({"last": last, "all": whole}, noise=0.02))
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
    result = comparison_table([plan("all", Policy.ALL)], grid({"all": [0.5, 0.6, 0.7]}))
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
    result = comparison_table([plan("a"), plan("all", Policy.ALL)], runs)
    report = arm_of(result.arms, "a")
    assert [(f.job, f.error) for f in result.failures] == [("ft_a1", LOST)]
    assert report.metric is not None
    assert (report.metric.mean, report.metric.seeds) == (pytest.approx(0.7), 2)
    assert report.difference is not None  # only seed 0 has both
    assert (report.difference.mean, report.difference.ci) == (pytest.approx(0.1), None)


def test_an_arm_that_never_succeeded_is_no_reference() -> None:
    runs = [lost("all", 0), run("a", 0, 0.6), run("b", 0, 0.7)]
    result = comparison_table([plan("all", Policy.ALL), plan("a"), plan("b")], runs)
    assert result.reference == "a"
    empty = arm_of(result.arms, "all")
    assert (empty.metric, empty.trained_layers, empty.seconds) == (None, None, {})
    assert (empty.difference, empty.verdict) == (None, None)


def test_an_undefined_metric_is_a_failure_with_its_reason() -> None:
    result = comparison_table([plan("a"), plan("b")], [run("a", 0, None), run("b", 0, 0.1)])
    (failure,) = result.failures
    assert failure.error is not None
    assert (failure.job, failure.error["code"]) == ("ft_a0", "metric_undefined")


def told_of_rates(rates: dict[str, float | None], **metrics: float) -> list[str]:
    """The warnings about rates of a comparison with an arm for each rate."""
    arms = [
        plan(name, Policy.ALL if name == "all" else Policy.LAST_K, learning_rate=rate)
        for name, rate in rates.items()
    ]
    runs = [run(arm.name, 0, metrics.get(arm.name)) for arm in arms]
    return [told.message for told in comparison_table(arms, runs).warnings if "rate" in told.code]


def test_arms_that_share_a_rate_are_said_to() -> None:
    (text,) = told_of_rates({"all": 3e-4, "last": 3e-4}, all=0.5, last=0.9)
    assert text.startswith("all arms trained at one learning rate, 0.0003: ")
    assert "may be the rate's" in text
    rates = {"lora": 1e-3, "first": 1e-4, "last": 1e-4, "all": 1e-4}
    (text,) = told_of_rates(rates, lora=0.6, first=0.6, last=0.6, all=0.6)
    assert text.startswith("first, last and all trained at one learning rate, 0.0001: ")


@pytest.mark.parametrize(
    ("rates", "metrics"),
    [
        ({"all": 5e-5, "last": 3e-4}, {"all": 0.9, "last": 0.9}),
        ({"all": 5e-5, "last": 3e-4, "first": 3e-4}, {"all": 0.9, "last": 0.9, "first": 0.9}),
        ({"all": 3e-4}, {"all": 0.9}),
        ({"all": 3e-4, "last": 3e-4}, {"all": 0.9}),  # the other arm has no result
        ({"all": None, "last": None}, {"all": 0.9, "last": 0.9}),  # not noted
    ],
)
def test_nothing_is_said_where_no_arm_shares_the_references_rate(
    rates: dict[str, float | None], metrics: dict[str, float]
) -> None:
    assert told_of_rates(rates, **metrics) == []


@pytest.mark.parametrize(
    ("differences", "noise", "told"),
    [
        ([0.04, 0.05, 0.06], 0.02, "better"),
        ([-0.04, -0.05, -0.06], 0.02, "worse"),
        ([0.01, 0.05, 0.09], 0.02, "within noise"),  # the seeds disagree
        ([0.009, 0.010, 0.011], 0.02, "within noise"),  # other rows could turn it
        ([0.04, 0.05, 0.06], None, "better"),
        ([0.05, 0.05, 0.05], 0.02, "better"),
        ([0.0, 0.0, 0.0], None, "within noise"),
        ([0.06], 0.02, "better"),  # one seed: 1.96 · √2 times the noise
        ([0.05], 0.02, "within noise"),
        ([0.05], None, None),
    ],
)
def test_verdicts_on_one_arm(
    differences: list[float], noise: float | None, told: str | None
) -> None:
    judged = verdicts({"arm": differences}, noise)
    assert judged.get("arm", (None, None))[1] == told


def test_p_values_are_those_of_scipy() -> None:
    three, two = [0.04, 0.05, 0.09], [0.01, 0.2]
    theirs = [float(stats.ttest_1samp(values, 0).pvalue) for values in (three, two)]
    assert [t_p_value(values) for values in (three, two)] == pytest.approx(theirs)
    assert normal_p_value(-0.05, 0.02) == pytest.approx(2 * stats.norm.sf(2.5))
    assert t_p_value([0.1]) is None


def test_p_values_are_adjusted_by_holm() -> None:
    """Worked by hand: 4 · .01, 3 · .02, 2 · .025 but no less than the one before it, 1 · .9."""
    adjusted = holm({"a": 0.02, "b": 0.01, "c": 0.9, "d": 0.025})
    assert adjusted == pytest.approx({"b": 0.04, "a": 0.06, "d": 0.06, "c": 0.9})
    assert holm({"a": 0.9, "b": 0.6}) == {"a": 1.0, "b": 1.0}


def test_an_arm_pays_for_the_arms_beside_it() -> None:
    """Alone it is better; one of five such arms is better by chance too often."""
    clear = [0.03, 0.05, 0.055]
    alone = comparison_table(
        [plan("all", Policy.ALL), plan("a")], grid({"all": [0.5, 0.5, 0.5], "a": raised(clear)})
    )
    others = {f"b{place}": raised([0.01, -0.01, 0.02]) for place in range(4)}
    among = comparison_table(
        [plan("all", Policy.ALL), plan("a"), *map(plan, others)],
        grid({"all": [0.5, 0.5, 0.5], "a": raised(clear), **others}),
    )
    one, other = arm_of(alone.arms, "a"), arm_of(among.arms, "a")
    assert (one.verdict, other.verdict) == ("better", "within noise")
    assert one.p_value is not None
    assert other.p_value == pytest.approx(5 * one.p_value)
    assert one.difference == other.difference
    assert alone.error_rate == 0.05


def raised(differences: list[float]) -> list[float]:
    return [0.5 + each for each in differences]


def share_with_a_verdict(arms: int, seeds: int, gain: float = 0.0, adjusts: bool = True) -> float:
    """The share of simulated comparisons in which any arm is called better or worse.

    The metrics of an arm and a seed have what the seed gives to all arms and a chance of their own;
    ``gain`` is what the first arm truly gains. Without ``adjusts`` each arm is judged by itself.
    """
    source = np.random.default_rng(arms * 100 + seeds)
    rounds, called = 2000, 0
    for _ in range(rounds):
        metrics = source.normal(0, 0.03, (arms + 1, seeds)) + source.normal(0, 0.05, seeds)
        differences = {str(arm): list(metrics[arm] - metrics[0]) for arm in range(1, arms + 1)}
        differences["1"] = [each + gain for each in differences["1"]]
        single = [{name: values} for name, values in differences.items()]
        judged = [verdicts(some, None) for some in ([differences] if adjusts else single)]
        called += any(own[1] != "within noise" for some in judged for own in some.values())
    return called / rounds


@pytest.mark.parametrize(("arms", "seeds"), [(1, 3), (4, 3), (9, 3), (4, 5)])
def test_arms_that_do_not_differ_are_rarely_told_apart(arms: int, seeds: int) -> None:
    chance = share_with_a_verdict(arms, seeds)
    # Three standard errors of the simulation: with one arm the rate is 0.05 exactly.
    assert chance <= 0.05 + 3 * (0.05 * 0.95 / 2000) ** 0.5


def test_without_an_adjustment_they_would_be_and_a_real_gain_is_seen() -> None:
    assert share_with_a_verdict(9, 3, adjusts=False) > 0.15
    assert share_with_a_verdict(4, 5, gain=0.2) > 0.9


def test_one_seed_decides_by_the_rows_alone() -> None:
    """Where only the rows differ by chance, five arms are told apart in at most 5 % of cases."""
    source, noise, called, rounds = np.random.default_rng(0), 0.02, 0, 2000
    for _ in range(rounds):
        metrics = source.normal(0, noise, 6)
        judged = verdicts({str(arm): [metrics[arm] - metrics[0]] for arm in range(1, 6)}, noise)
        called += any(own[1] != "within noise" for own in judged.values())
    assert called / rounds <= 0.05


def test_what_is_missing_to_decide_by_has_a_remedy() -> None:
    table = comparison_table([plan("all")], grid({"all": [0.5]}, noise=None))
    found = {each.code: each.remedy for each in table.warnings}
    assert found["one_seed"] == "give three seeds or more"
    assert found["noise_unknown"] == "give more validation rows, with several of every label"
