"""The table of a comparison, against numbers worked by hand and by scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from surgery.evaluation.comparison import comparison_table, verdict
from surgery.schemas.comparison import ArmReport, SeedMean
from surgery.schemas.enums import Policy
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
    return [text for text in comparison_table(arms, runs).warnings if "rate" in text]


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
