"""What interrupts the training loop: an end asked for at any step, and too little memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from surgery.data.tokens.dataset import TaskData
from surgery.errors import OutOfMemory
from surgery.io.reporter import Quiet, Stopped
from surgery.models.loading import LoadedModel
from surgery.training.step import Stepper
from tests.support.models.sentence_runs import distance, fresh, tuned, weights
from tests.support.models.toys import sentences


@pytest.fixture(scope="module")
def data() -> TaskData:
    return sentences(48)


@pytest.fixture
def loaded(mirror: Path, data: TaskData) -> LoadedModel:
    return fresh(mirror, data)


class Watched(Quiet):
    """Notes the evaluations and states; asks for an end after so many steps."""

    def __init__(self, out: Path, stop_at: int | None = None) -> None:
        super().__init__(out)
        self.evaluated: list[int] = []
        self.saved: Path | None = None
        self._stop_at = stop_at

    def metric(self, step: int, _epoch: float, values: Mapping[str, float | None]) -> None:
        if any(name.startswith("validation_") for name in values):
            self.evaluated.append(step)

    def step(self, done: int, _total: int | None, unit: str) -> None:
        if unit == "steps" and done == self._stop_at:
            raise Stopped(resumable=True)

    def state(self, directory: Path, _step: int) -> None:
        self.saved = directory


EVERY_3: dict[str, Any] = {
    "evaluate_every_steps": 3, "gradient_accumulation_steps": 2, "batch_size": 4, "epochs": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    "options", [pytest.param(EVERY_3, marks=pytest.mark.slow), {}], ids=["by steps", "by epochs"]
)
def test_a_run_resumes_at_any_step_to_the_same_weights(
    options: dict[str, Any], mirror: Path, data: TaskData, tmp_path: Path
) -> None:
    whole = fresh(mirror, data, dropout=True)
    watched = Watched(tmp_path / "whole")
    expected = tuned(whole, data, tmp_path, report=watched, **options)
    assert watched.evaluated == [entry.step for entry in expected.epochs]
    steps = watched.evaluated[-1]
    if options:
        assert watched.evaluated == [*range(3, steps, 3), steps]
        assert expected.epochs[0].epoch == pytest.approx(3 * 8 / len(data.train), abs=0.1)
    for stop in range(1, steps):
        cut = Watched(tmp_path / str(stop), stop_at=stop)
        with pytest.raises(Stopped):
            tuned(fresh(mirror, data, dropout=True), data, tmp_path, report=cut, **options)
        loaded = fresh(mirror, data, dropout=True)
        report = Watched(tmp_path / f"{stop}-on")
        result = tuned(loaded, data, tmp_path, report=report, resume=cut.saved, **options)
        assert distance(weights(whole), weights(loaded)) == 0.0, stop
        assert result.epochs == expected.epochs, stop


def test_a_resumed_run_computes_in_what_it_began_with(
    mirror: Path, data: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was left open, and the run goes on on a device that would choose otherwise."""
    for begins in (True, False):
        monkeypatch.setattr("surgery.models.numerics.has_bfloat16", lambda _, begins=begins: begins)
        watched = Watched(tmp_path / str(begins), stop_at=2)
        with pytest.raises(Stopped):
            tuned(fresh(mirror, data), data, tmp_path, report=watched)
        monkeypatch.setattr(
            "surgery.models.numerics.has_bfloat16", lambda _, begins=begins: not begins
        )
        out = tmp_path / f"{begins}-goes-on"
        result = tuned(fresh(mirror, data), data, out, resume=watched.saved)
        assert result.precision == ("bf16" if begins else "fp32")


def test_a_batch_that_does_not_fit_is_halved_and_changes_nothing(
    mirror: Path, data: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roomy, tight = fresh(mirror, data), fresh(mirror, data)
    expected = tuned(roomy, data, tmp_path / "roomy")
    whole = Stepper._loss_of

    def cramped(stepper: Stepper, rows: list[int]) -> Tensor:
        if len(rows) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return whole(stepper, rows)

    monkeypatch.setattr(Stepper, "_loss_of", cramped)
    result = tuned(tight, data, tmp_path / "tight")
    assert distance(weights(roomy), weights(tight)) < 1e-12
    assert result.best.metrics == expected.best.metrics
    assert "batch_size 2 and gradient_accumulation_steps 4" in result.warnings[0].message
    with pytest.raises(OutOfMemory, match=r"8 rows .* GiB .* try batch_size 4"):
        tuned(fresh(mirror, data), data, tmp_path / "fail", out_of_memory="fail")


def test_a_single_row_that_does_not_fit_ends_the_run(
    loaded: LoadedModel, data: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(stepper: Stepper, rows: list[int]) -> Tensor:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Stepper, "_loss_of", full)
    with pytest.raises(OutOfMemory, match=r"a batch of 1 rows .* lower max_length"):
        tuned(loaded, data, tmp_path)
