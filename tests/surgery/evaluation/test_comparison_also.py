"""What arms reach on other presets, against numbers worked by hand and by scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from surgery.evaluation.comparison import FinetuneRun, add_other_presets, comparison_table
from surgery.schemas.enums import Policy
from surgery.schemas.jobs.comparison import ArmPlan
from tests.support.service.finished_runs import finetune_result

Also = dict[str, dict[str, float | None]]


def run(arm: str, seed: int, also: Also) -> FinetuneRun:
    result = finetune_result(0.5)
    result.best.also = also
    return FinetuneRun(arm, seed, f"ft_{arm}{seed}", "succeeded", result)


def test_each_arm_has_the_means_of_its_own_runs() -> None:
    accuracies = [0.25, 0.5, 0.6]
    runs = [
        run("a", seed, {"x": {"accuracy": value, "parity": [0.5, None, None][seed]}})
        for seed, value in enumerate(accuracies)
    ]
    runs.append(run("b", 0, {"x": {"accuracy": 0.75, "parity": None}}))
    runs.append(
        FinetuneRun("b", 1, "ft_b1", "failed", error={"code": "worker_lost", "detail": "gone"})
    )
    runs.append(
        FinetuneRun("c", 0, "ft_c0", "failed", error={"code": "worker_lost", "detail": "gone"})
    )
    plans = [ArmPlan(name=name, policy=Policy.LAST_K) for name in "abc"]
    table = comparison_table(plans, runs)
    add_other_presets(table, runs)
    first, second, third = table.arms
    accuracy, parity = first.also["x"]["accuracy"], first.also["x"]["parity"]
    assert accuracy is not None
    assert accuracy.mean == pytest.approx(0.45)
    expected = stats.t.interval(0.95, 2, np.mean(accuracies), stats.sem(accuracies))
    assert accuracy.ci == pytest.approx(expected)
    assert parity is not None
    assert (parity.mean, parity.ci, parity.seeds) == (0.5, None, 1)
    alone = second.also["x"]["accuracy"]
    assert alone is not None
    assert (alone.mean, alone.seeds) == (0.75, 1)
    assert second.also["x"]["parity"] is None
    assert third.also == {}
