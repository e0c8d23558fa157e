"""How much of a ranking is the model's own: where labels matter, and where they cannot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from surgery.data.tokens.dataset import TaskData
from surgery.io.reporter import Quiet
from surgery.models.loading import LoadedModel
from surgery.ranking.agreement import PRIOR_SAMPLES
from surgery.ranking.ranking import open_scorer, rank_layers
from surgery.ranking.scorer import ranked_only
from surgery.ranking.uncertainty import kendall_tau, top_k_overlap
from surgery.schemas.enums import Problem
from surgery.schemas.jobs.ranking import ModelPrior, RankingOptions, RankingResult
from tests.support.models.toys import toy_data, toy_model


def ranked(loaded: LoadedModel, data: TaskData | None = None, **given: Any) -> RankingResult:
    options = RankingOptions(**{"samples": 60, "bootstrap": 0, **given})
    return rank_layers(loaded, data or toy_data(60), options)


def prior_of(loaded: LoadedModel, data: TaskData | None = None, **given: Any) -> ModelPrior:
    found = ranked(loaded, data, **given).model_prior
    assert found is not None
    return found


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("aggregate", ["trace", "frobenius"])
@pytest.mark.parametrize(
    "problem",
    [
        Problem.CLASSIFICATION,
        pytest.param(Problem.TOKEN_CLASSIFICATION, marks=pytest.mark.slow),
    ],
)
def test_every_weight_is_put_back(problem: Problem, aggregate: str, fresh: bool) -> None:
    """The head is left as the ranking warmed it up; nothing else moves."""
    data = toy_data(60, problem=problem)
    heads = []
    for model_prior in (True, False):
        loaded = toy_model(new=fresh, problem=problem)
        before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
        result = ranked(loaded, data, model_prior=model_prior, aggregate=aggregate)
        assert (result.model_prior is not None) == model_prior
        for name, value in loaded.model.state_dict().items():
            assert torch.equal(value, before[name]) or (fresh and name in loaded.head)
        heads.append({name: value.clone() for name, value in loaded.head.items()})
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[1])


def test_the_head_is_put_back_when_the_prior_fails() -> None:
    class Stopping(Quiet):
        """Ends the run while a head is warmed up on shuffled labels."""

        epochs = 0

        def step(self, done: int, total: int | None, unit: str) -> None:
            self.epochs += unit == "epochs"
            if self.epochs == 2:
                raise KeyboardInterrupt(done, total)

    alone, stopped = toy_model(new=True), toy_model(new=True)
    options = {"samples": 60, "bootstrap": 0, "head": {"fit": "epochs"}}
    rank_layers(alone, toy_data(60), RankingOptions(**options, model_prior=False))
    with pytest.raises(KeyboardInterrupt):
        rank_layers(stopped, toy_data(60), RankingOptions(**options), Stopping())
    assert all(torch.equal(value, alone.head[name]) for name, value in stopped.head.items())


def test_a_prior_changes_no_score() -> None:
    with_prior, without = (ranked(toy_model(new=True), model_prior=on) for on in (True, False))
    assert with_prior.layers == without.layers
    assert with_prior.groups == without.groups


def test_through_an_untrained_head_labels_hardly_matter() -> None:
    """Two classes, p near one half: the squared gradient is the same at either label."""
    loaded = toy_model(new=True)
    for name, parameter in loaded.head.items():
        if name.startswith("classifier"):
            parameter.data.mul_(0.01)
    found = prior_of(loaded, head={"warmup_epochs": 0})
    assert found.kendall_tau == 1
    assert set(found.top_k_overlap.values()) == {1.0}
    assert "most of this ranking is the model's own" in found.note


def labels_decide(rows: int) -> tuple[LoadedModel, TaskData]:
    """A head sure of one class for every row, and the few rows of the other unlike the rest.

    Nearly all of the score comes from those rows; on shuffled labels it comes from others.
    """
    data = toy_data(rows)
    texts = ["o o" if row % 10 else "a b c d e f g h i j k l" for row in range(rows)]
    table = data.train.from_dict(
        {"text": texts, "label": [int(row % 10 == 0) for row in range(rows)]}
    )
    loaded = toy_model()
    loaded.model.classifier.weight.data.mul_(0.1)  # type: ignore[operator,union-attr]
    loaded.model.classifier.bias.data.copy_(torch.tensor([6.0, -6.0]))  # type: ignore[operator,union-attr]
    return loaded, TaskData(table, table, data.problem, data.labels, data.metrics)


def test_where_labels_decide_the_shuffled_ranking_is_another() -> None:
    """Equal to scoring the rows of the shuffled labels by hand."""
    loaded, data = labels_decide(60)
    options = RankingOptions(samples=60, bootstrap=0)
    result = rank_layers(loaded, data, options)
    assert result.model_prior is not None
    per_sample = ranked_only(open_scorer(loaded, data, options, Quiet()).fisher()).per_sample
    assert per_sample is not None
    long = per_sample[::10]
    assert long.sum() > 0.99 * per_sample.sum()  # the rows of the rare label hold the score
    flipped, _ = labels_decide(60)
    short = data.train.select([1] * 6).remove_columns("label").add_column("label", [1] * 6)
    rows = TaskData(short, short, data.problem, data.labels, data.metrics)
    others = ranked(flipped, rows, samples=6, model_prior=False)
    # On shuffled labels about nine in ten rare labels stand on short rows.
    values = {layer.index: layer.score for layer in others.layers}
    mixture = np.array([values[i] for i in range(3)]) * 0.9 + long.mean(0) * 0.1
    own = per_sample.mean(0)
    assert result.model_prior.kendall_tau == kendall_tau(own, mixture)
    assert result.model_prior.top_k_overlap == top_k_overlap(own, mixture)
    assert result.model_prior.top_k_overlap["1"] == 0
    assert "most of this ranking is about the task" in result.model_prior.note


@pytest.mark.parametrize(
    ("tau", "words"),
    [
        (None, "on shuffled labels"),
        (0.9, "model's own, little"),
        (0.5, "part of this"),
        (-1.0, "about the task"),
    ],
)
def test_notes(tau: float | None, words: str) -> None:
    from surgery.ranking.agreement import _note

    assert words in _note(tau)


def test_few_rows_are_scored_again() -> None:
    data = toy_data(200)
    assert prior_of(toy_model(), data, samples=200).samples == PRIOR_SAMPLES == 128
    assert prior_of(toy_model(), data, samples=50).samples == 50


def test_batches_do_not_change_the_prior() -> None:
    assert prior_of(toy_model()) == prior_of(toy_model(), batch_size=3)


def test_shuffled_tokens_change_nothing_in_texts_of_one_word() -> None:
    data = toy_data(60)
    table = data.train.from_dict({"text": list("abcdefghijklmno") * 4, "label": [0, 1] * 30})
    data = TaskData(table, table, data.problem, data.labels, data.metrics)
    found = prior_of(toy_model(), data)
    assert found.shuffled_tokens.kendall_tau == 1
    assert set(found.shuffled_tokens.top_k_overlap.values()) == {1.0}
