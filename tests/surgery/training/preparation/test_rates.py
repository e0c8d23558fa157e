"""The choice of a learning rate on a part of train, against plain runs on that part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from torch import Tensor

from surgery.data.tokens.dataset import TaskData
from surgery.data.tokens.held_out import judged_on_train
from surgery.data.tokens.tokenize import encode
from surgery.errors import TrainingDiverged
from surgery.evaluation.evaluate import Predictions, predict
from surgery.io.reporter import CheckpointSummary, Quiet, Stopped
from surgery.schemas.enums import Problem
from surgery.schemas.jobs.finetune import FinetuneResult, FinetuneSpec, RateTrial
from surgery.schemas.jobs.search import SearchSpec
from surgery.schemas.options.training import HELD_OUT_SHARE, TrainingSpec
from surgery.training.loop import finetune
from surgery.training.optimizer import Loss, mean_loss
from surgery.training.prefix_cache.store import release_memory
from surgery.training.preparation.rates import best_trial
from surgery.training.step import Stepper
from tests.support.models.sentence_runs import BASE, distance, fresh, tuned, weights
from tests.support.models.toys import sentences

RATES = [1e-4, 3e-3, 1e-2]
OPTIONS: dict[str, Any] = {"learning_rate": 5e-5, "learning_rates": RATES}


@pytest.fixture(autouse=True)
def _nothing_held() -> Iterator[None]:
    release_memory()
    yield
    release_memory()


@pytest.fixture(scope="module")
def data() -> TaskData:
    return sentences(60)


class Noting(Quiet):
    """Notes all that a run reports; may ask for an end after so many steps of all."""

    def __init__(self, out: Path, stop_at: int | None = None) -> None:
        super().__init__(out)
        self.phases: list[str] = []
        self.steps: list[tuple[str, int, int | None]] = []
        self.metrics: list[int] = []
        self.checkpoints: list[int] = []
        self.states: list[tuple[Path, int]] = []
        self._stop_at = stop_at

    def phase(self, name: str) -> None:
        self.phases.append(name)

    def step(self, done: int, total: int | None, unit: str) -> None:
        if unit == "steps":
            self.steps.append((self.phases[-1], done, total))
            if len(self.steps) == self._stop_at:
                raise Stopped(resumable=True)

    def metric(self, step: int, _epoch: float, _values: Mapping[str, float | None]) -> None:
        self.metrics.append(step)

    def checkpoint(self, _directory: Path, record: CheckpointSummary) -> None:
        self.checkpoints.append(record.step)

    def state(self, directory: Path, step: int) -> None:
        self.states.append((directory, step))


@pytest.mark.parametrize(
    "options", [{}, {"layer_schedule": {"type": "gradual", "every_steps": 4}}], ids=["", "gradual"]
)
def test_the_run_is_that_of_the_chosen_rate_alone(
    options: dict[str, Any], mirror: Path, data: TaskData, tmp_path: Path
) -> None:
    """To the last bit, with dropout: the trials leave nothing behind."""
    searched, plain = fresh(mirror, data, dropout=True), fresh(mirror, data, dropout=True)
    options = {**options, "prefix_cache": "memory"}
    result = tuned(searched, data, tmp_path / "searched", **OPTIONS, **options)
    assert [trial.learning_rate for trial in result.learning_rates] == RATES
    assert result.learning_rate == best_trial(result.learning_rates).learning_rate
    options["learning_rate"] = result.learning_rate
    alone = tuned(plain, data, tmp_path / "plain", **options)
    assert distance(weights(searched), weights(plain)) == 0.0
    assert result.epochs == alone.epochs
    assert (alone.learning_rate, alone.learning_rates) == (result.learning_rate, [])
    assert result.seconds["rates"] > 0
    assert "rates" not in alone.seconds


def test_a_trial_is_a_plain_run_on_the_other_rows(
    mirror: Path, data: TaskData, tmp_path: Path
) -> None:
    """Of the same epochs, measured at the end on the rows that were set aside."""
    result = tuned(fresh(mirror, data), data, tmp_path / "searched", **OPTIONS)
    part = judged_on_train(data, HELD_OUT_SHARE, BASE["seed"])
    for trial in result.learning_rates:
        loaded = fresh(mirror, data)
        rate = trial.learning_rate
        theirs = tuned(loaded, part, tmp_path / f"{rate:g}", learning_rate=rate)
        assert trial.metric == theirs.epochs[-1].metrics["accuracy"]
        encoded = encode(part.validation, loaded.tokenizer, BASE["max_length"])
        logits = torch.from_numpy(predict(loaded.model, encoded, torch.device("cpu"))).double()
        loss = log_loss(encoded.targets, logits.softmax(-1).numpy(), labels=[0, 1])
        assert trial.loss == pytest.approx(loss, rel=1e-5)


def test_validation_has_no_say(mirror: Path, data: TaskData, tmp_path: Path) -> None:
    ones = data.validation.remove_columns("label").add_column("label", [1] * len(data.validation))
    other = replace(data, validation=ones)
    first, second = (
        tuned(fresh(mirror, own), own, tmp_path / str(place), **OPTIONS)
        for place, own in enumerate((data, other))
    )
    assert first.epochs[-1].metrics != second.epochs[-1].metrics
    assert [(t.metric, t.loss) for t in first.learning_rates] == [
        (t.metric, t.loss) for t in second.learning_rates
    ]


def test_only_the_run_itself_leaves_metrics_and_checkpoints(
    mirror: Path, data: TaskData, tmp_path: Path
) -> None:
    report = Noting(tmp_path)
    result = tuned(fresh(mirror, data), data, tmp_path, report=report, **OPTIONS)
    assert report.checkpoints == [entry.step for entry in result.epochs]
    assert set(report.metrics) <= set(range(1, result.epochs[-1].step + 1))
    tried = [(done, total) for phase, done, total in report.steps if phase == "rates"]
    assert tried == [(step, tried[-1][1]) for step in range(1, len(tried) + 1)]
    assert tried[-1][0] == tried[-1][1]
    places = [report.phases.index(name) for name in ("prefix", "rates", "train")]
    assert places == sorted(places)
    assert report.phases.count("prefix") == 1
    assert result.prefix is not None
    assert result.prefix.reused is False
    assert {step for _, step in report.states[:3]} == {0}


def test_an_interrupted_choice_goes_on_and_repeats_nothing(
    mirror: Path, data: TaskData, tmp_path: Path
) -> None:
    whole, report = fresh(mirror, data, dropout=True), Noting(tmp_path / "whole")
    expected = tuned(whole, data, tmp_path, report=report, **OPTIONS)
    steps = len(report.steps)
    each = sum(phase == "rates" for phase, *_ in report.steps) // len(RATES)
    for stop in (3, each, each + 2, 3 * each + 2):
        cut = Noting(tmp_path / str(stop), stop_at=stop)
        with pytest.raises(Stopped):
            tuned(fresh(mirror, data, dropout=True), data, tmp_path, report=cut, **OPTIONS)
        release_memory()  # a resumed attempt is another process
        loaded, rest = fresh(mirror, data, dropout=True), Noting(tmp_path / f"{stop}-on")
        saved = cut.states[-1][0]
        result = tuned(loaded, data, tmp_path, report=rest, resume=saved, **OPTIONS)
        assert len(rest.steps) == steps - stop
        assert distance(weights(whole), weights(loaded)) == 0.0, stop
        assert result.epochs == expected.epochs
        assert [t.loss for t in result.learning_rates] == [t.loss for t in expected.learning_rates]


def test_an_adapter_starts_each_trial_as_new(mirror: Path, data: TaskData, tmp_path: Path) -> None:
    def run(folder: str, **training: Any) -> tuple[FinetuneResult, dict[str, Tensor]]:
        loaded = fresh(mirror, data)
        spec = FinetuneSpec.model_validate(
            {"model": "m", "dataset": "d", "adapter": {"type": "lora", "rank": 2},
             "training": {**BASE, **training}}
        )  # fmt: skip
        return finetune(loaded, data, spec, [], Quiet(tmp_path / folder)), weights(loaded)

    searched, end = run("searched", learning_rate=5e-5, learning_rates=[3e-3, 1e-2])
    _, alone = run("alone", learning_rate=searched.learning_rate)
    assert distance(end, alone) == 0.0


def trial(rate: float, metric: float | None, loss: float | None) -> RateTrial:
    return RateTrial(learning_rate=rate, metric=metric, loss=loss, seconds=1.0)


def test_ties_go_to_the_lower_loss_then_to_the_lower_rate() -> None:
    found = [trial(1e-3, 0.8, 0.5), trial(1e-4, 0.8, 0.4), trial(1e-5, 0.7, 0.1)]
    assert best_trial(found).learning_rate == 1e-4
    assert best_trial([*found, trial(3e-5, 0.8, 0.4)]).learning_rate == 3e-5
    assert best_trial([trial(1.0, None, None), trial(0.1, None, 2.0)]).learning_rate == 0.1


def test_a_rate_that_diverges_is_the_worst_and_only_all_of_them_end_the_run(
    mirror: Path, data: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, high = Stepper.step, [1e-2]

    def exploding(stepper: Stepper, batches: list[list[int]]) -> Tensor:
        loss = plain(stepper, batches)
        rate = stepper.train_state.schedule.base_lrs[0]
        return loss * torch.nan if rate in high else loss

    monkeypatch.setattr(Stepper, "step", exploding)
    options = {**OPTIONS, "learning_rates": [3e-3, 1e-2]}
    result = tuned(fresh(mirror, data), data, tmp_path / "one", **options)
    assert result.learning_rate == 3e-3
    assert (result.learning_rates[1].metric, result.learning_rates[1].loss) == (None, None)
    high.append(3e-3)
    with pytest.raises(TrainingDiverged, match=r"learning rates 0.003, 0.01"):
        tuned(fresh(mirror, data), data, tmp_path / "all", **options)


def test_the_loss_of_tags_and_numbers() -> None:
    source = np.random.default_rng(0)
    logits, tags = source.normal(size=(7, 3)), source.integers(0, 3, 7)
    tagged = Predictions(logits, tags, Problem.TOKEN_CLASSIFICATION, ("O", "A", "B"))
    shares = torch.from_numpy(logits).softmax(-1).numpy()
    assert mean_loss(Loss(tagged.problem), tagged) == pytest.approx(
        log_loss(tags, shares, labels=[0, 1, 2])
    )
    values = source.normal(size=7)
    numbers = Predictions(logits[:, :1], values, Problem.REGRESSION)
    assert mean_loss(Loss(numbers.problem), numbers) == pytest.approx(
        float(np.mean((logits[:, 0] - values) ** 2))
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"learning_rates": [1e-4]}, "at least 2"),
        ({"learning_rates": [1e-4, 1e-4]}, "named once each"),
        ({"learning_rates": [1e-4, 1e-3], "learning_rate": 1e-3}, "leave one of them out"),
    ],
)
def test_odd_lists_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TrainingSpec.model_validate(given)


@pytest.mark.parametrize(
    "training",
    [
        {"learning_rates": [1e-4, 1e-3]},
        {"layer_schedule": {"type": "gradual", "every_epochs": 1}},
    ],
)
def test_a_search_refuses_what_its_candidates_would_not_do(training: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="means nothing here"):
        SearchSpec.model_validate({"model": "m", "dataset": "d", "training": training})
