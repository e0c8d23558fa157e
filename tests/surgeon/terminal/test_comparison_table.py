"""What the tables of a comparison say below themselves."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from surgeon.terminal.results.comparisons import comparison_view, methods_table
from surgeon.terminal.wording import warning_lines
from surgery.evaluation.comparison import comparison_table
from surgery.schemas.enums import Policy
from surgery.schemas.jobs.comparison import ArmPlan
from tests.support.service.finished_runs import costing, grid, plan

ENTRY: dict[str, Any] = {
    "method": "tangent", "spearman": 0.9, "spearman_ci": [0.8, 1.0], "minus_fisher_ci": [0.2, 0.6],
    "p_value": 0.01,
    "kendall": 0.8, "regret": {"1": 0.0, "2": 0.0},
}  # fmt: skip


@pytest.mark.parametrize(
    ("recommended", "against", "told"),
    [
        ("tangent", [0.2, 0.6], "tangent foretold the gains clearly better than fisher"),
        (None, [-0.2, 0.6], "none foretold the gains clearly better than fisher"),
        (None, None, "takes three seeds at least"),
    ],
)
def test_whether_a_method_is_better_than_the_default(
    recommended: str | None, against: list[float] | None, told: str
) -> None:
    entry = {**ENTRY, "minus_fisher_ci": against}
    printed = StringIO()
    table = methods_table({"methods": [entry], "recommended": recommended})
    Console(width=80, file=printed).print(table)
    assert told in " ".join(printed.getvalue().split())


def test_a_rate_that_arms_share_is_named_below_their_table() -> None:
    arms = [plan("all", learning_rate=3e-4), plan("last", learning_rate=3e-4)]
    result = comparison_table(arms, grid({"all": [0.5], "last": [0.9]})).model_dump(mode="json")
    lines = [line.plain for line in warning_lines(result["warnings"])]
    assert any("all arms trained at one learning rate, 0.0003" in line for line in lines)


def test_rates_that_runs_chose_are_shown_with_what_the_choice_cost() -> None:
    result = comparison_table(
        [plan("all"), plan("last")], grid({"all": [0.5] * 2, "last": [0.9] * 2})
    )
    table = result.model_dump(mode="json")
    for arm, rates in zip(table["arms"], ([1e-4, 3e-4], [1e-3, 1e-3]), strict=True):
        arm["seconds"]["rates"] = 40.0
        for run, rate in zip(arm["runs"], rates, strict=True):
            run["learning_rate"] = rate
    printed = StringIO()
    Console(width=80, file=printed).print(comparison_view(table, "model on data"))
    text = printed.getvalue()
    assert "0.0001" in text
    assert "0.0003" in text
    assert text.count("0.001") == 1
    assert text.count("41.2") == 2  # 1.25 s of training


def test_an_arm_shows_its_layers_its_share_and_its_checkpoint() -> None:
    arms = [
        plan("all", Policy.ALL),
        plan("head", Policy.HEAD_ONLY),
        ArmPlan(name="lora", policy=Policy.HEAD_ONLY, adapter="lora"),
        ArmPlan(name="every layer by its name", policy=Policy.LAYERS, same_as="all"),
    ]
    runs = grid({"all": [0.9, 0.92], "head": [0.5, 0.5], "lora": [0.9, 0.9]}, 0.01)
    runs = costing(runs, {"all": 30.0, "head": 1.0, "lora": 10.0})
    layers = {"all": ["l.0", "l.1", "l.2", "l.5"], "head": [], "lora": []}
    for own in runs:
        assert own.result is not None
        own.result.trained_layers = layers[own.arm]
        own.result.trainable_parameters = {"all": 50, "head": 0, "lora": 2}[own.arm]
    result = comparison_table(arms, runs).model_dump(mode="json")
    printed = StringIO()
    Console(width=80, file=printed).print(comparison_view(result, "model on data"))
    lines = printed.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines)
    text = " ".join(" ".join(lines).split())
    for words in ("0-2 5 0.9100", "head 0.5000", "lora 0.9000", "50.0%", "2.0%", "<0.1%"):
        assert words in text
    assert "all 0 0 1 ck_all1" in text  # memory and size in MB, the seed, its checkpoint
    assert "as all" in text
    assert "Take lora, the cheapest of these at 0.33 of the seconds" in text
    assert "every layer by its name trains the same as all" in text


def test_what_a_run_failed_of_is_told_with_options() -> None:
    table = comparison_table([plan("all")], grid({"all": [0.5]})).model_dump(mode="json")
    error = {"code": "out_of_memory", "detail": "ask for a smaller batch_size or max_length"}
    table["failures"] = [{"job": "ft_1", "error": error}, {"job": "ft_2", "error": None}]
    output = StringIO()
    Console(width=200, file=output).print(comparison_view(table, "model on data"))
    shown = output.getvalue()
    assert "no result: ft_1: ask for a smaller --batch-size or --max-length" in shown
    assert "no result: ft_2: cancelled" in shown
