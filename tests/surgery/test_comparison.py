"""The table of a comparison, against numbers worked by hand and by scipy."""

from __future__ import annotations

import numpy as np
import pytest
from finished_runs import LOST, METRIC, grid, lost, plan, run
from scipy import stats

from surgery.comparison import compare, verdict
from surgery.comparison_results import ArmReport, SeedMean
from surgery.terms import Policy


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
