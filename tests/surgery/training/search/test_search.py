"""A search as a user runs it, on toys: what it reads, what it leaves, how it goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from surgery.errors import DatasetInvalid, TrainingInvalid
from surgery.io.reporter import Quiet, Stopped
from surgery.schemas.enums import Problem
from surgery.schemas.jobs.search import SearchResult, SearchSpec
from surgery.training.search.search import search_layers
from surgery.training.search.state import load_search
from tests.support.models.toys import toy_data, toy_model

TRAINING = {"epochs": 1, "batch_size": 8, "max_length": 16}


def spec_of(**given: Any) -> SearchSpec:
    asked = {"families": ["single", "all"], "learning_rates": [1e-2]}
    asked |= {"budget_seconds": 2, "training": TRAINING}
    return SearchSpec.model_validate({"model": "a/b", "dataset": "d", **asked, **given})


def to_the_end() -> SearchSpec:
    """No clock ends this search."""
    return spec_of(families=["single"], budget_seconds=1e6, confidence=0.5)


def toys(problem: Problem = Problem.CLASSIFICATION, kind: str = "bert") -> tuple[Any, Any]:
    loaded = toy_model(kind, problem=problem, dtype=torch.float32, new=True)
    return loaded, toy_data(60, problem=problem)


def weights(loaded: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}


def same(one: SearchResult, other: SearchResult) -> bool:
    """Whether two results differ in nothing but seconds."""
    timed = {"cost", "seconds"}
    first, second = (result.model_dump(exclude=timed) for result in (one, other))
    for result in (first, second):
        for arm in result["arms"]:
            for trial in arm["trials"]:
                del trial["seconds"]
    return first == second


@pytest.mark.parametrize(
    "problem",
    [
        Problem.CLASSIFICATION,
        *(pytest.param(it, marks=pytest.mark.slow) for it in Problem if it != "classification"),
    ],
)
def test_every_problem_is_searched_and_the_model_is_as_before(problem: Problem) -> None:
    loaded, data = toys(problem)
    before = weights(loaded)
    result = search_layers(loaded, data, spec_of())
    after = weights(loaded)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert result.primary_metric == data.metrics[0]
    assert result.train_rows + result.held_out_rows == 60
    assert set(result.layers) <= {unit for arm in result.arms for unit in arm.layers}
    best = result.arms[0]
    assert (best.layers, best.learning_rate) == (result.layers, result.learning_rate)
    assert best.expected is not None
    assert best.expected.low <= best.expected.mean <= best.expected.high
    assert abs(sum(arm.p_best for arm in result.arms) - 1) < 1e-9
    assert result.gain_over_all is not None
    SearchResult.model_validate_json(result.model_dump_json())


def test_a_budget_that_the_preparation_takes_is_told() -> None:
    result = search_layers(*toys(), spec_of(budget_seconds=1e-3))
    assert result.cost.seconds > result.cost.budget_seconds
    assert any("its budget was 0.001 s" in warning.message for warning in result.warnings)


class Stopping(Quiet):
    """Asks to stop at the n-th step of the search."""

    def __init__(self, out: Path, at: int, *, resumable: bool = True) -> None:
        super().__init__(out)
        self._at, self._resumable, self._searching = at, resumable, False
        self.states: list[Path] = []
        self.steps: list[int] = []

    def phase(self, name: str) -> None:
        self._searching = name == "search"

    def step(self, done: int, total: int | None, unit: str) -> None:
        if self._searching:
            assert unit == "seconds"
            assert total is None or 0 <= done <= total
            self._at -= 1
            if self._at == 0:
                raise Stopped(resumable=self._resumable)

    def state(self, directory: Path, step: int) -> None:
        self.states.append(directory)
        self.steps.append(step)


@pytest.mark.slow
def test_a_resumed_search_finds_what_an_undisturbed_one_finds(tmp_path: Path) -> None:
    undisturbed = search_layers(*toys(), to_the_end())
    states: list[Path] = []
    for attempt, at in enumerate((7, 31, 3)):
        report = Stopping(tmp_path / str(attempt), at)
        loaded, data = toys()
        before = weights(loaded)
        with pytest.raises(Stopped):
            search_layers(loaded, data, to_the_end(), report, states[-1] if states else None)
        assert all(torch.equal(before[n], tensor) for n, tensor in weights(loaded).items())
        states += report.states
    charged = [sum(reading.seconds for reading in load_search(s).readings) for s in states]
    assert charged == sorted(charged)
    assert report.steps[-1] > 0
    assert same(search_layers(*toys(), to_the_end(), resume=states[-1]), undisturbed)


def test_a_cancelled_search_saves_nothing(tmp_path: Path) -> None:
    report = Stopping(tmp_path, 2, resumable=False)
    with pytest.raises(Stopped):
        search_layers(*toys(), to_the_end(), report)
    assert report.states == []


def test_the_validation_rows_are_not_read() -> None:
    loaded, data = toys()
    blind = replace(data, validation=None)  # whatever reads a row of it fails
    assert search_layers(loaded, blind, spec_of()).held_out_rows == 12


def test_families_and_rates_are_those_of_the_request() -> None:
    result = search_layers(*toys(), spec_of(families=["single"], learning_rates=[1e-3]))
    assert {arm.family for arm in result.arms} == {"single"}
    assert {trial.learning_rate for arm in result.arms for trial in arm.trials} == {1e-3}
    assert result.gain_over_all is None


def test_rows_that_cannot_be_set_aside_and_options_that_do_not_fit_are_refused() -> None:
    loaded, data = toys()
    single = type(data)(
        data.train.select([0]), data.validation, data.problem, data.labels, data.metrics
    )
    with pytest.raises(DatasetInvalid, match="set aside"):
        search_layers(loaded, single, spec_of())
    with pytest.raises(TrainingInvalid, match="metric"):
        search_layers(loaded, data, spec_of(training={**TRAINING, "metric": "f2"}))
