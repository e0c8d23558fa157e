"""Regressions train without dropout and all else with it, unless the options say otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from surgery.io.reporter import Quiet
from surgery.models.shape import EncoderShape
from surgery.models.trainable import layers_of_model
from surgery.schemas.enums import Problem
from surgery.schemas.jobs.finetune import FinetuneResult, FinetuneSpec
from surgery.schemas.jobs.search import SearchSpec
from surgery.schemas.options.training import TrainingSpec
from surgery.training.costs.activations import block_activations, without_dropout
from surgery.training.loop import finetune
from surgery.training.search.search import search_layers
from tests.support.models.toys import toy_data, toy_model

Json = dict[str, Any]
TRAINING: Json = {"epochs": 2, "batch_size": 12, "max_length": 16, "learning_rate": 1e-3}
USUAL = TrainingSpec().learning_rate
WHOLE: Json = {"checkpoints": {"form": "full"}}
LAST: Json = {"policy": "last_k", "k": 1}
PROBLEMS = [Problem.CLASSIFICATION, Problem.REGRESSION, Problem.MULTI_LABEL]


def toys(problem: Problem) -> tuple[Any, Any]:
    """A model whose config has dropout, and rows."""
    loaded = toy_model("bert", problem=problem, dtype=torch.float32, new=True)
    config: Any = loaded.model.config
    assert config.hidden_dropout_prob > 0
    return loaded, toy_data(36, problem=problem)


def tuned(
    problem: Problem, folder: Path, adapter: Json | None = None, **training: Any
) -> FinetuneResult:
    chosen = {"selection": LAST} if adapter is None else {"adapter": adapter, **WHOLE}
    asked = {"model": "m", "dataset": "d", "training": {**TRAINING, **training}, **chosen}
    spec = FinetuneSpec.model_validate(asked)
    loaded, data = toys(problem)
    layers = [] if adapter else layers_of_model(loaded)[-1:]
    return finetune(loaded, data, spec, layers, Quiet(folder))


def losses(result: FinetuneResult) -> list[float | None]:
    return [epoch.train_loss for epoch in result.epochs]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_only_a_regression_leaves_dropout_out(problem: Problem, tmp_path: Path) -> None:
    drops = problem is not Problem.REGRESSION
    runs = {
        asked: tuned(problem, tmp_path / str(asked), dropout=asked) for asked in (None, True, False)
    }
    assert [runs[asked].dropout for asked in runs] == [drops, True, False]
    assert losses(runs[None]) == losses(runs[drops])
    assert losses(runs[True]) != losses(runs[False])


def test_an_adapter_keeps_its_own_dropout(tmp_path: Path) -> None:
    shares = {
        share: tuned(Problem.REGRESSION, tmp_path / str(share), {"type": "lora", "dropout": share})
        for share in (0.0, 0.5)
    }
    assert not any(result.dropout for result in shares.values())
    assert losses(shares[0.0]) != losses(shares[0.5])


def test_trials_of_learning_rates_leave_it_out_too(tmp_path: Path) -> None:
    tried = []
    for dropout in (None, False, True):
        asked: Json = {"dropout": dropout, "learning_rates": [1e-3, 1e-2]}
        asked["learning_rate"] = USUAL
        result = tuned(Problem.REGRESSION, tmp_path / str(dropout), **asked)
        tried.append([trial.loss for trial in result.learning_rates])
    assert tried[0] == tried[1] != tried[2]


@pytest.mark.slow
def test_a_search_leaves_it_out_too() -> None:
    found = [searched(dropout) for dropout in (None, False, True)]
    assert found[0] == found[1] != found[2]


def searched(dropout: bool | None) -> list[list[float | None]]:
    """The losses of every candidate of a search that no clock ends."""
    training = {"epochs": 1, "batch_size": 12, "max_length": 16, "dropout": dropout}
    spec = SearchSpec.model_validate(
        {
            "model": "a/b",
            "dataset": "d",
            "families": ["single"],
            "learning_rates": [1e-2],
            "budget_seconds": 1e6,
            "confidence": 0.5,
            "training": training,
        }
    )
    loaded, data = toys(Problem.REGRESSION)
    result = search_layers(loaded, data, spec)
    return [[trial.loss for trial in arm.trials] for arm in result.arms]


def test_the_estimate_knows_that_less_is_kept() -> None:
    loaded, _ = toys(Problem.REGRESSION)
    shape = EncoderShape(loaded.model.config.to_dict(), (1, 1), 2, 0, 0)
    with_it = block_activations(shape, 16, trained=True)
    without = block_activations(without_dropout(shape), 16, trained=True)
    assert with_it is not None
    assert without is not None
    assert without < with_it
