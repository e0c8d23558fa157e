"""The head that a fine-tune begins with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from surgery.checkpoints.checkpoint import begin_with
from surgery.data.tokens.dataset import TaskData, choose_rows
from surgery.data.tokens.tokenize import encode
from surgery.heads.converge import fit_head
from surgery.io.reporter import Quiet, Stopped
from surgery.models.loading import LoadedModel
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.schemas.options.head import HeadSpec
from surgery.schemas.options.training import TrainingSpec
from surgery.training.preparation.head import begin_head
from tests.support.models.sentence_runs import fresh, tuned, weights
from tests.support.models.toys import sentences

FITTED: dict[str, Any] = {"head": {"warmup_samples": 32}}


@pytest.fixture(scope="module")
def data() -> TaskData:
    return sentences(48)


class Watched(Quiet):
    """Notes the phases and the saved state, and leaves at a step."""

    def __init__(self, out: Path, leave_at: int | None = None) -> None:
        super().__init__(out)
        self.phases: list[str] = []
        self.left: Path | None = None
        self._leave_at = leave_at

    def phase(self, name: str) -> None:
        self.phases.append(name)

    def step(self, done: int, _total: int | None, unit: str) -> None:
        if unit == "steps" and done == self._leave_at:
            raise Stopped(resumable=True)

    def state(self, directory: Path, _step: int) -> None:
        self.left = directory


def begun(loaded: LoadedModel, data: TaskData, head: dict[str, Any]) -> Any:
    training = TrainingSpec(max_length=24, seed=3, head=HeadSpec(**head))
    encoded = encode(data.train, loaded.tokenizer, 24)
    report = Watched(Path())
    found = begin_head(loaded, encoded, data.problem, training, report)
    return found, report.phases


def test_a_new_head_is_fitted_on_rows_that_the_seed_draws(mirror: Path, data: TaskData) -> None:
    loaded, twin = fresh(mirror, data), fresh(mirror, data)
    before = {name: value.clone() for name, value in weights(loaded).items()}
    report, phases = begun(loaded, data, {"warmup_samples": 32})
    rows = choose_rows(len(data.train), 32, 4)
    expected = fit_head(twin, encode(data.train, twin.tokenizer, 24, rows), data.problem, seed=3)
    assert (report.source, report.fit, report.warmup_rows) == ("new", "lbfgs", 32)
    assert (report.loss, report.ridge) == (expected.loss, expected.ridge)
    assert phases == ["head"]
    for name, value in weights(loaded).items():
        assert torch.equal(value, weights(twin)[name])
        assert torch.equal(value, before[name]) == (name not in loaded.head)


@pytest.mark.parametrize("head", [{"warmup_epochs": 0}, {"fit": "epochs", "warmup_epochs": 0}])
def test_a_head_may_stay_as_it_was_drawn(
    head: dict[str, Any], mirror: Path, data: TaskData
) -> None:
    loaded = fresh(mirror, data)
    before = {name: value.clone() for name, value in weights(loaded).items()}
    report, phases = begun(loaded, data, head)
    assert (report.source, report.fit, phases) == ("new", "none", [])
    assert all(torch.equal(value, before[name]) for name, value in weights(loaded).items())


def test_a_head_may_be_warmed_up_for_epochs(mirror: Path, data: TaskData) -> None:
    report, _ = begun(fresh(mirror, data), data, {"warmup_epochs": 2})
    assert (report.fit, report.warmup_epochs) == ("epochs", 2)
    assert report.warmup_loss is not None


def test_a_head_of_the_checkpoints_own_is_kept_unless_asked(mirror: Path, data: TaskData) -> None:
    for head, fit in (({}, "none"), ({"fit": "converged"}, "lbfgs")):
        loaded = fresh(mirror, data)
        loaded.new = []
        report, _ = begun(loaded, data, head)
        assert (report.source, report.fit) == ("checkpoint", fit)


def test_a_continued_run_keeps_the_head_of_its_checkpoint(
    mirror: Path, data: TaskData, tmp_path: Path
) -> None:
    first = fresh(mirror, data)
    result = tuned(first, data, tmp_path, **FITTED)
    assert result.head is not None
    assert result.head.fit == "lbfgs"
    [checkpoint, *_] = sorted(tmp_path.glob("checkpoint-*")) or sorted(tmp_path.iterdir())
    loaded = fresh(mirror, data)
    begin_with(loaded, data, checkpoint)
    before = {name: value.clone() for name, value in loaded.head.items()}
    report, _ = begun(loaded, data, {})
    assert (report.source, report.fit) == ("checkpoint", "none")
    assert all(torch.equal(value, before[name]) for name, value in loaded.head.items())


def test_a_resumed_run_reports_the_same_head_and_ends_the_same(
    mirror: Path, data: TaskData, tmp_path: Path
) -> None:
    whole, cut, resumed = (fresh(mirror, data) for _ in range(3))
    expected = tuned(whole, data, tmp_path / "whole", **FITTED)
    report = Watched(tmp_path / "cut", leave_at=5)
    with pytest.raises(Stopped):
        tuned(cut, data, tmp_path / "cut", report=report, **FITTED)
    assert report.left is not None
    found = tuned(resumed, data, tmp_path / "resumed", resume=report.left, **FITTED)
    assert found.head == expected.head
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(resumed).items())


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ValidationError, match="warmup_epochs goes"):
        HeadSpec(fit="converged", warmup_epochs=1)
    given = {"model": "m", "dataset": "d", "selection": {"policy": "all"}, "continue_from": "ck_1"}
    with pytest.raises(ValidationError, match="continue_from goes on with"):
        FinetuneSpec.model_validate({**given, "training": {"head": {"init": "new"}}})


def test_requests_of_older_versions_are_still_read() -> None:
    older = HeadSpec.model_validate({"init": "auto", "warmup_epochs": 2, "warmup_samples": 64})
    assert older.training_of(new=True) == older.training_of(new=False) == "epochs"
    default = HeadSpec.model_validate({"init": "auto", "warmup_epochs": None})
    assert default.training_of(new=True) == "converged"
    assert default.training_of(new=False) == "none"
    for spec in (older, default):
        assert HeadSpec.model_validate(spec.model_dump()) == spec
