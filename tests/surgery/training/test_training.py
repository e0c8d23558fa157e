"""Losses against transformers' own, predictions row by row, and a short run of each problem."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from surgery.data.presets.tasks import metrics_for
from surgery.data.tokens.dataset import Batch, Encoded, TaskData, open_data
from surgery.data.tokens.sequences import IGNORED
from surgery.data.tokens.tokenize import encode
from surgery.evaluation.evaluate import evaluate, predict
from surgery.evaluation.metrics import entity_scores
from surgery.io.reporter import Quiet
from surgery.io.sources import Sources
from surgery.models.blocks import model_inputs
from surgery.models.loading import LoadedModel, load_model
from surgery.models.source.resolve import local_model
from surgery.models.trainable import layers_of_model
from surgery.schemas.enums import Problem
from surgery.schemas.jobs.finetune import FinetuneResult, FinetuneSpec
from surgery.schemas.options.training import TrainingSpec
from surgery.training.loop import finetune
from surgery.training.optimizer import Loss
from tests.support.models.encoders import NO_CHOICES, padded_batch, tiny
from tests.support.models.mirror import TINY
from tests.support.rows.ingested import Rows, ingested

KINDS = ["bert", "roberta", "distilbert", "deberta", "deberta-v2", "modernbert", "xlnet"]
CPU = torch.device("cpu")


CASES = [(kind, Problem.TOKEN_CLASSIFICATION) for kind in KINDS] + [
    (kind, Problem.MULTIPLE_CHOICE) for kind in KINDS if kind not in NO_CHOICES
]


def mean_loss(model: torch.nn.Module, batch: Batch, problem: Problem) -> torch.Tensor:
    """Of a step of this one batch."""
    loss = Loss(problem)
    logits = model(**model_inputs(model, batch)).logits
    return loss.total(logits, batch["labels"]) / (loss.weight(batch["labels"]) or 1.0)


@pytest.mark.parametrize(("kind", "problem"), CASES)
def test_the_loss_is_that_of_transformers(kind: str, problem: Problem) -> None:
    model = tiny(kind, labels=3, problem=problem, dtype=torch.float32)
    batch = padded_batch([9, 5, 7], labels=3, kind=kind, problem=problem)
    theirs = model(**model_inputs(model, batch), labels=batch["labels"]).loss
    ours = mean_loss(model, batch, problem)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


def test_a_batch_without_a_tag_has_no_loss() -> None:
    model = tiny("bert", problem=Problem.TOKEN_CLASSIFICATION, dtype=torch.float32)
    batch = padded_batch([4, 3], problem=Problem.TOKEN_CLASSIFICATION)
    batch["labels"] = torch.full_like(batch["labels"], IGNORED)
    loss = mean_loss(model, batch, Problem.TOKEN_CLASSIFICATION)
    loss.backward()
    assert loss.item() == 0.0


def choice_rows(count: int, seed: int) -> Rows:
    """The right choice is the one that speaks of rain."""
    chance = random.Random(seed)
    rows = []
    for _ in range(count):
        label = chance.randrange(3)
        choices = [f"the {chance.choice(['sun', 'dog', 'tree'])} was there" for _ in range(3)]
        choices[label] = "the rain was there"
        text = f"it was {chance.choice(['red', 'big', 'old', 'new'])} {chance.random():.3f}"
        rows.append({"premise": text, "question": "why?", "choices": choices, "label": label})
    return rows


def tag_rows(count: int, seed: int) -> Rows:
    """Places are named by two words, of which the tokenizer cuts the second in pieces."""
    chance = random.Random(seed)
    rows = []
    for _ in range(count):
        words = chance.choices(["red", "dog", "sees", "tree"], k=chance.randint(1, 6))
        place = chance.randint(0, len(words))
        tags = ["O"] * len(words)
        rows.append({
            "tokens": [*words[:place], "new", "zealandia", *words[place:]],
            "tags": [*tags[:place], "B-LOC", "I-LOC", *tags[place:]],
        })  # fmt: skip
    return rows


MAKERS: dict[Problem, Any] = {
    Problem.MULTIPLE_CHOICE: choice_rows, Problem.TOKEN_CLASSIFICATION: tag_rows,
}  # fmt: skip


def prepared(problem: Problem, tmp_path: Path, mirror: Path) -> tuple[LoadedModel, TaskData]:
    """A tiny model and data that it can learn."""
    make = MAKERS[problem]
    report = ingested(tmp_path, make(240, 0), make(60, 1))
    assert report.problem is problem
    data = open_data(tmp_path / "out", report, metrics_for(report.problem, report.labels))
    sources = Sources((), cache=tmp_path / "cache", offline=True)
    return load_model(local_model(mirror / "models" / TINY), sources, data, seed=0), data


@pytest.fixture(params=MAKERS)
def task(
    request: pytest.FixtureRequest, tmp_path: Path, mirror: Path
) -> tuple[LoadedModel, TaskData]:
    """Each problem in turn."""
    return prepared(request.param, tmp_path, mirror)


def tuned(loaded: LoadedModel, data: TaskData, out: Path) -> FinetuneResult:
    training = TrainingSpec(epochs=6, learning_rate=5e-3, batch_size=16, max_length=32)
    spec = FinetuneSpec.model_validate(
        {"model": "m", "dataset": "d", "selection": {"policy": "all"}, "training": training}
    )
    return finetune(loaded, data, spec, layers_of_model(loaded), Quiet(out))


def test_a_short_run_learns_the_problem(task: tuple[LoadedModel, TaskData], tmp_path: Path) -> None:
    loaded, data = task
    result = tuned(loaded, data, tmp_path / "run")
    assert result.primary_metric == data.metrics[0]
    assert list(result.epochs[0].metrics) == list(data.metrics)
    assert result.epochs[-1].train_loss < result.epochs[0].train_loss
    assert (result.best.metrics[data.metrics[0]] or 0) > 0.9


def test_predictions_are_in_order_whatever_the_batches(
    task: tuple[LoadedModel, TaskData],
) -> None:
    loaded, data = task
    encoded = encode(data.validation, loaded.tokenizer, 32)
    logits = predict(loaded.model, encoded, CPU)
    assert len(logits) == len(encoded.targets)
    alone = np.concatenate([_alone(loaded, encoded, row) for row in range(len(encoded))])
    assert logits == pytest.approx(alone, abs=1e-5)


def _alone(loaded: LoadedModel, encoded: Encoded, row: int) -> np.ndarray[Any, Any]:
    batch = encoded.batch([row])
    with torch.no_grad():
        logits = loaded.model(**model_inputs(loaded.model, batch)).logits
    if not encoded.tagged:
        found: np.ndarray[Any, Any] = logits.numpy()
        return found
    return np.stack(
        [logits[0, at].numpy() for at in (batch["labels"][0] != IGNORED).nonzero()[:, 0]]
    )


def test_entities_are_measured_on_the_words_as_given(tmp_path: Path, mirror: Path) -> None:
    loaded, data = prepared(Problem.TOKEN_CLASSIFICATION, tmp_path, mirror)
    encoded = encode(data.validation, loaded.tokenizer, 32)
    said = iter(predict(loaded.model, encoded, CPU).argmax(1))
    told = [[data.labels[tag] for tag in tags] for tags in data.validation["label"]]
    found = [[data.labels[next(said)] for _ in row] for row in told]
    measured = evaluate(loaded.model, encoded, data, CPU)
    assert {name: measured[name] for name in data.metrics[:3]} == entity_scores(told, found)
