"""Runs that learned nothing say so, with what to try, and runs that learned do not."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from surgery.data.presets.tasks import metrics_for
from surgery.data.tokens.dataset import TaskData
from surgery.evaluation.evaluate import Predictions
from surgery.evaluation.learning import (
    ABOVE,
    GREW,
    NO_BETTER,
    ONE_VALUE,
    Baseline,
    learning_warnings,
)
from surgery.io.reporter import Quiet
from surgery.schemas import JobWarning
from surgery.schemas.enums import Problem
from surgery.schemas.jobs.finetune import EpochReport, FinetuneResult
from tests.support.models.sentence_runs import fresh, tuned

WORDS = ("poor", "fine")


class Noting(Quiet):
    """Keeps the numbers of the last evaluation, and each checkpoint's folder."""

    def __init__(self, out: Path) -> None:
        super().__init__(out)
        self.last: dict[str, float | None] = {}
        self.folders: list[Path] = []

    def metric(self, step: int, epoch: float, values: Any) -> None:
        super().metric(step, epoch, values)
        self.last = dict(values)

    def checkpoint(self, directory: Path, record: Any) -> None:
        super().checkpoint(directory, record)
        self.folders.append(directory)


def reviews(problem: Problem = Problem.CLASSIFICATION, *, shuffled: bool = False) -> TaskData:
    """Texts that a word decides, or with labels that nothing does; three in five have label 1."""
    chance = random.Random(0)
    marks = [int(chance.random() < 0.6) for _ in range(120)]
    texts = [f"a {WORDS[mark]} film number {place}" for place, mark in enumerate(marks)]
    if shuffled:
        chance.shuffle(marks)
    labels: list[Any] = marks
    names = list(WORDS)
    if problem is Problem.REGRESSION:
        labels, names = [1.0 + 3 * mark for mark in marks], []
    if problem is Problem.MULTI_LABEL:
        labels = [[mark, 1 - mark] for mark in marks]
    table = {"text": texts, "label": labels}
    if problem is Problem.TOKEN_CLASSIFICATION:
        tags = [[0, mark, 0, 0, 0] for mark in marks]
        table = {"tokens": [text.split() for text in texts], "label": tags}
        names = ["O", "B-X"]
    split = [
        Dataset.from_dict({k: v[part] for k, v in table.items()})
        for part in (slice(80), slice(80, None))
    ]
    metrics = tuple(metrics_for(problem, names))
    return TaskData(
        train=split[0], validation=split[1], problem=problem, labels=names, metrics=metrics
    )


def ran(mirror: Path, out: Path, data: TaskData, **training: Any) -> tuple[FinetuneResult, Noting]:
    report = Noting(out)
    options = {"epochs": 3, "learning_rate": 1e-3, "head": {}, **training}
    return tuned(fresh(mirror, data), data, out, report=report, **options), report


def codes(warnings: Sequence[JobWarning]) -> set[str]:
    return {warning.code for warning in warnings}


LEARNED = [
    Problem.CLASSIFICATION,
    Problem.REGRESSION,
    Problem.MULTI_LABEL,
    Problem.TOKEN_CLASSIFICATION,
]


@pytest.mark.parametrize("problem", LEARNED)
def test_a_run_that_learns_has_no_warning(problem: Problem, mirror: Path, tmp_path: Path) -> None:
    result, report = ran(mirror, tmp_path, reviews(problem), learning_rate=1e-4)
    assert result.warnings == []
    assert result.baseline_loss is not None
    assert result.epochs[-1].train_loss is not None
    assert result.epochs[-1].train_loss < result.baseline_loss
    assert set(result.baseline) == set(result.best.metrics)
    plotted = {
        name.removeprefix("baseline_"): value
        for name, value in report.last.items()
        if name.startswith("baseline_")
    }
    assert plotted == {**result.baseline, "loss": result.baseline_loss}
    card = (report.folders[-1] / "README.md").read_text()
    assert "| metric | value | a constant prediction |" in card
    assert "Warning" not in card


def test_a_run_on_shuffled_labels_is_told_to_be_no_better_than_a_constant(
    mirror: Path, tmp_path: Path
) -> None:
    result, report = ran(mirror, tmp_path, reviews(shuffled=True))
    (warning,) = [each for each in result.warnings if each.code == NO_BETTER]
    accuracy, constant = result.best.metrics["accuracy"], result.baseline["accuracy"]
    assert f"accuracy is {accuracy:.4f}" in warning.message
    assert f"a constant's {constant:.4f}" in warning.message
    assert warning.remedy is not None
    assert "labels" in warning.remedy
    assert "training.epochs" in warning.remedy
    folder = next(each for each in report.folders if each.name.endswith(f"-{result.best.step}"))
    assert (
        f"> **Warning**: {warning.message}. To try: {warning.remedy}"
        in (folder / "README.md").read_text()
    )
    record = json.loads((folder / "surgery.json").read_text())
    assert warning.model_dump() in record["warnings"]
    assert (record["baseline"], record["baseline_loss"]) == (result.baseline, result.baseline_loss)


def test_too_high_a_rate_is_told_by_the_loss(mirror: Path, tmp_path: Path) -> None:
    result, _ = ran(mirror, tmp_path, reviews(), learning_rate=1.0)
    found = {warning.code: warning for warning in result.warnings}
    assert {ABOVE, NO_BETTER, ONE_VALUE} <= set(found)
    assert f"{result.epochs[-1].train_loss:.4g}" in found[ABOVE].message
    assert result.best.only_prediction in WORDS
    assert str(result.best.only_prediction) in found[ONE_VALUE].message
    assert all("lower training.learning_rate" in str(each.remedy) for each in found.values())


def evaluated(
    metrics: dict[str, float | None], *losses: float, noise: float | None = 0.02, **more: Any
) -> list[EpochReport]:
    return [
        EpochReport(epoch=n, step=n, train_loss=loss, metrics=metrics, noise=noise, **more)
        for n, loss in enumerate(losses, 1)
    ]


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ((0.6, 0.4, 0.3), set()),
        ((0.65, 0.71), {GREW}),
        ((0.9, 0.8), {ABOVE}),
        ((1.0, 5.0), {ABOVE, GREW}),
        ((0.71, 0.72), set()),  # as dropout has it
        ((49.0,), {ABOVE}),
    ],
)
def test_losses_are_judged_at_the_last_evaluation(
    losses: tuple[float, ...], expected: set[str]
) -> None:
    reports = evaluated({"accuracy": 0.9}, *losses)
    baseline = Baseline({"accuracy": 0.5}, 0.69)
    assert codes(learning_warnings(reports, reports[0], "accuracy", baseline)) == expected


@pytest.mark.parametrize(
    ("value", "constant", "noise", "warned"),
    [
        (0.60, 0.55, 0.02, False),
        (0.60, 0.57, 0.02, True),  # less than two standard errors
        (0.50, 0.57, 0.02, True),
        (1.00, 0.50, 0.00, False),
        (0.57, 0.57, None, True),
        (0.58, 0.57, None, False),
        (None, 0.57, None, True),
        (0.30, None, 0.02, False),  # a correlation, beside 0
        (0.03, None, 0.02, True),
    ],
)
def test_a_metric_must_exceed_the_constants_by_two_standard_errors(
    value: float | None, constant: float | None, noise: float | None, warned: bool
) -> None:
    reports = evaluated({"m": value}, 0.5, noise=noise)
    found = learning_warnings(reports, reports[0], "m", Baseline({"m": constant}, 0.69))
    assert codes(found) == ({NO_BETTER} if warned else set())


def test_a_regression_with_a_correlation_must_also_be_closer_than_the_mean() -> None:
    of = {"pearson": 0.41, "rmse": 1.52}
    baseline = Baseline({"pearson": None, "rmse": 1.5}, 2.2)
    reports = evaluated(of, 2.1, rmse_noise=0.05)
    (warning,) = learning_warnings(reports, reports[0], "pearson", baseline)
    assert warning.code == NO_BETTER
    assert warning.message.endswith("rmse is 1.5200 ± 0.0500, and a constant's 1.5000")
    near = evaluated({**of, "rmse": 1.2}, 2.1, rmse_noise=0.05)
    assert learning_warnings(near, near[0], "pearson", baseline) == []


def test_predictions_that_are_as_good_in_any_order_have_learned_nothing() -> None:
    """By macro F1 a coin reaches 0.5 of two equal classes, and a constant a third."""
    chance = np.random.default_rng(0)
    labels, coin = chance.integers(0, 2, 400), chance.standard_normal((400, 2))
    for logits, warned in ((coin, True), (coin + 2 * np.eye(2)[labels], False)):
        drawn = Predictions(logits, labels, Problem.CLASSIFICATION)
        reports = evaluated(
            drawn.metrics(["macro_f1"]),
            0.6,
            noise=drawn.noise("macro_f1"),
            unrelated=drawn.unrelated("macro_f1"),
        )
        assert reports[0].unrelated == pytest.approx(0.5, abs=0.03)
        found = learning_warnings(reports, reports[0], "macro_f1", Baseline({"macro_f1": 1 / 3}))
        assert codes(found) == ({NO_BETTER} if warned else set())
