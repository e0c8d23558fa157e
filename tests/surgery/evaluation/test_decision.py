"""What a comparison comes to: equal arms, a clear winner, the ceiling and the baseline."""

from __future__ import annotations

import re

import pytest

from surgery.evaluation.comparison import comparison_table
from surgery.evaluation.decision.decide import Evidence, decide
from surgery.schemas.decision import Decision
from surgery.schemas.enums import Policy
from surgery.schemas.jobs.comparison import ArmPlan
from tests.support.service.finished_runs import costing, grid, lost, plan, run

SECONDS = {"all": 100.0, "lora": 90.0, "last": 40.0, "head": 5.0}


def decided(
    metrics: dict[str, list[float]],
    noise: float | None = 0.01,
    baseline: float | None = 0.5,
    rows: int | None = 500,
) -> Decision:
    """The decision on arms that reached these metrics, at the costs of SECONDS."""
    arms = [plan(name, Policy.ALL if name == "all" else Policy.LAST_K) for name in metrics]
    table = comparison_table(arms, costing(grid(metrics, noise), SECONDS))
    return decide(table, Evidence(dict.fromkeys(metrics, noise), baseline, rows))


EQUAL = {"all": [0.84, 0.87, 0.85], "lora": [0.86, 0.85, 0.85], "last": [0.85, 0.86, 0.84]}


def test_of_equal_arms_the_cheapest_is_taken() -> None:
    found = decided(EQUAL)
    assert (found.outcome, found.best) == ("undecided", "lora")
    assert found.not_told_apart == ["all", "last"]
    assert found.cheapest == "last"
    assert found.relative_cost["seconds"] == pytest.approx(40 / 90, abs=1e-4)
    assert (found.job, found.checkpoint) == ("ft_last1", "ck_last1")  # its best seed
    assert all(other.p_value == 1.0 for other in found.others)
    assert found.summary.startswith("Nothing is decided: lora is highest, accuracy 0.8533")
    assert (
        "Take last, the cheapest of these at 0.44 of the seconds, -0.0033 to lora: ck_last1."
        in (found.summary)
    )


def test_a_clear_winner_is_taken_whatever_it_costs() -> None:
    found = decided({**EQUAL, "all": [0.95, 0.96, 0.96]})
    assert (found.outcome, found.best, found.cheapest) == ("winner", "all", "all")
    assert (found.not_told_apart, found.relative_cost["seconds"]) == ([], 1.0)
    assert found.checkpoint == "ck_all1"
    assert all(other.told_apart and other.needed is None for other in found.others)
    assert found.summary == (
        "all is better than lora and last, beyond chance: accuracy 0.9567. Take it: ck_all1."
    )


def test_some_arms_are_worse_and_some_may_be_as_good() -> None:
    found = decided({**EQUAL, "head": [0.61, 0.6, 0.62]})
    assert (found.outcome, found.not_told_apart) == ("shortlist", ["all", "last"])
    assert found.cheapest == "last"  # the head is cheaper, and worse
    assert [other.arm for other in found.others if other.told_apart] == ["head"]
    assert "better than head beyond chance, but not told apart from all and last" in found.summary


def test_at_the_ceiling_no_arm_can_be_better() -> None:
    found = decided({"all": [1.0, 1.0, 0.998], "head": [0.998, 1.0, 0.998]}, noise=0.002)
    assert (found.outcome, found.best, found.cheapest) == ("ceiling", "all", "head")
    assert found.checkpoint == "ck_head1"
    assert found.summary.startswith("Every arm is at the ceiling: accuracy is 0.9993 for all")
    perfect = decided({"all": [1.0] * 3, "head": [1.0] * 3}, noise=0.0)
    assert (perfect.outcome, perfect.cheapest) == ("ceiling", "head")
    below = decided({"all": [0.97, 0.97, 0.96], "head": [0.97, 0.96, 0.97]}, noise=0.008)
    assert below.outcome == "undecided"


def test_at_the_baseline_no_checkpoint_is_worth_taking() -> None:
    found = decided({"all": [0.503, 0.52, 0.49], "head": [0.5, 0.5, 0.5]}, noise=0.02)
    assert (found.outcome, found.checkpoint, found.job) == ("baseline", None, None)
    assert found.baseline == 0.5
    assert found.summary.startswith("No arm learned: the best, all, reaches accuracy 0.5043")
    assert "the same answer for every row 0.5000" in found.summary
    below = decided({"all": [0.41, 0.42, 0.4], "head": [0.5, 0.5, 0.5]}, noise=0.02)
    assert below.outcome == "baseline"
    learned_once = decided({"all": [0.5, 0.5, 0.9], "head": [0.5] * 3}, noise=0.02)
    assert learned_once.outcome == "undecided"
    unknown = decided({"all": [0.503, 0.52, 0.49], "head": [0.5] * 3}, noise=0.02, baseline=None)
    assert unknown.outcome == "undecided"


def test_a_metric_that_no_run_has_is_the_baseline() -> None:
    table = comparison_table([plan("a"), plan("b")], [run("a", 0, None), run("b", 0, None)])
    assert table.decision is not None
    assert (table.decision.outcome, table.decision.best) == ("baseline", None)
    assert "predicts the same for all rows" in table.decision.summary


def test_one_seed_decides_nothing_between_arms() -> None:
    found = decided({"all": [0.9], "head": [0.6]})
    assert (found.outcome, found.best, found.not_told_apart) == ("undecided", "all", ["head"])
    assert found.others[0].p_value is None
    assert "One seed tells nothing" in found.summary


def test_a_difference_that_other_rows_could_turn_is_not_decided() -> None:
    """Every seed agrees, on the same few rows."""
    metrics = {"all": [0.85, 0.86, 0.855], "last": [0.83, 0.841, 0.834]}
    few, many = decided(metrics, noise=0.02, rows=300), decided(metrics, noise=0.002, rows=30_000)
    assert (few.outcome, many.outcome) == ("undecided", "winner")
    need = few.others[0].needed
    assert need is not None
    assert (need.seeds, need.together) == (None, False)
    # 2 · noise² · 300 / rows is to be (0.02 / (1.96 + 0.84))².
    assert need.validation_rows == pytest.approx(2 * 0.02**2 * 300 / (0.02 / 2.8) ** 2, rel=0.2)
    assert "more seeds alone would not do" in few.summary


def test_seeds_that_disagree_ask_for_more_seeds() -> None:
    found = decided({"all": [0.9, 0.7, 0.88], "last": [0.75, 0.72, 0.8]}, noise=0.002)
    need = found.others[0].needed
    assert need is not None
    assert need.seeds is not None
    assert 5 < need.seeds < 40
    assert need.validation_rows is None
    assert re.search(r"To tell all from last would take some \d+ seeds\.$", found.summary)


def test_an_arm_without_a_result_has_no_part() -> None:
    arms = [plan("all", Policy.ALL), plan("last"), plan("gone")]
    runs = costing(grid({"all": [0.8, 0.81], "last": [0.8, 0.8]}, 0.01), SECONDS)
    table = comparison_table(arms, [*runs, lost("gone", 0), lost("gone", 1)])
    assert table.decision is not None
    assert [other.arm for other in table.decision.others] == ["last"]


def test_arms_that_share_runs_are_one_way_to_train() -> None:
    arms = [plan("last"), ArmPlan(name="top", policy=Policy.TOP_K, same_as="last")]
    table = comparison_table(arms, costing(grid({"last": [0.8, 0.81]}, 0.01), SECONDS))
    assert table.decision is not None
    assert (table.decision.outcome, table.decision.best) == ("one_way", "last")
    assert "top trains the same as last: one run for both" in table.decision.summary
    assert table.decision.checkpoint == "ck_last1"
