"""Scores minus those on shuffled labels: against a slow twin, and where labels say nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from app.submissions.checks import content_digest, ranking_digest
from surgery import __version__
from surgery.data.tokens.dataset import TaskData, choose_rows
from surgery.errors import SelectionEmpty
from surgery.heads.converge import converge
from surgery.heads.features import HeadFeatures
from surgery.io.reporter import Quiet
from surgery.models.blocks import units_of
from surgery.ranking.ranking import layer_scores, rank_layers, recommend_k
from surgery.ranking.sample import training_rows
from surgery.ranking.scores import Scores, from_samples
from surgery.ranking.selection import choose_layers
from surgery.ranking.shuffled import standardised_difference
from surgery.ranking.uncertainty import resampled, stability_of
from surgery.schemas.enums import Method, Problem
from surgery.schemas.jobs.ranking import SHUFFLES, RankingOptions, RankingResult, RankingSpec
from surgery.schemas.jobs.selection import SelectionSpec
from tests.support.models.toys import (
    QUICK,
    by_index,
    everything_is_finite,
    rank,
    toy_data,
    toy_model,
)
from tests.support.reference.ranking import row_by_row
from tests.support.reference.shuffled import minus_shuffled, shuffles


def labelled(data: TaskData, labels: Sequence[Any]) -> TaskData:
    """The same training rows with other labels."""
    train = data.train.remove_columns("label").add_column("label", list(labels))
    return replace(data, train=train)


def minus(data: TaskData, *, new: bool = True, **given: Any) -> RankingResult:
    options = RankingOptions(**{**QUICK, "samples": len(data.train), "minus": "shuffled", **given})
    return rank_layers(toy_model(new=new), data, options)


def twin(data: TaskData, options: RankingOptions, ridge: float | None) -> list[float]:
    """Every head is trained on, and every row scored at, the labels of a relabelled dataset."""
    total = len(data.train)
    scored = choose_rows(total, options.samples, options.seed)
    fitted = choose_rows(total, options.head.warmup_samples, options.seed + 1)

    def score(labels: Sequence[Any]) -> Any:
        loaded, dataset = toy_model(new=ridge is not None), labelled(data, labels)
        if ridge is not None:
            encoded = training_rows(loaded, dataset, len(fitted), 128, options.seed + 1)
            head = list(loaded.head.values())
            features = HeadFeatures(loaded.model, head, encoded, data.problem, Quiet())
            converge(features, seed=options.seed, ridge=ridge)
        blocks = [block.module for block in loaded.blocks]
        rows = [dataset.train[row] for row in scored]
        return row_by_row(loaded.model, blocks, loaded.tokenizer, rows, 128)

    labels = list(data.train["label"])
    rows = sorted({*scored, *(fitted if ridge is not None else scored)})
    return minus_shuffled(score, labels, shuffles(labels, rows, SHUFFLES, options.seed))


@pytest.mark.parametrize("warmup", [12, 100])
def test_it_is_what_relabelled_datasets_give(warmup: int) -> None:
    """The rows that are scored and those that train the head overlap in part, or wholly."""
    data = toy_data(40)
    given = {"samples": 24, "seed": 3, "head": {"warmup_samples": warmup}}
    result = minus(data, **given)
    assert result.minus == "shuffled"
    assert result.head is not None
    assert result.head.ridge is not None
    expected = twin(data, RankingOptions(**given), result.head.ridge)
    assert by_index(result) == pytest.approx(expected, rel=1e-4)


def test_a_head_that_is_not_trained_scores_all_labels_and_is_told_of() -> None:
    data = toy_data(40)
    given = {"samples": 24, "seed": 1}
    result = minus(data, new=False, **given)
    expected = twin(data, RankingOptions(**given), None)
    assert by_index(result) == pytest.approx(expected, rel=1e-9)
    assert any("has learnt labels before" in warning.message for warning in result.warnings)
    assert not any("has learnt labels" in told.message for told in minus(data, **given).warnings)


@pytest.mark.parametrize("seed", range(3))
def test_labels_that_say_nothing_have_no_score_left(seed: int) -> None:
    """Their plain scores are far above zero; what is left is within the luck of the labels."""
    chance = random.Random(seed)
    data = labelled(toy_data(40), [chance.randrange(2) for _ in range(40)])
    plain = minus(data, minus=None, bootstrap=1000)
    assert all(layer.ci is not None and layer.ci[0] > 0 for layer in plain.layers)
    assert all(abs(layer.score) < 3 for layer in minus(data).layers)


def scores_of(*columns: Sequence[float]) -> Scores:
    loaded = toy_model()
    units = units_of(loaded.model, loaded.blocks)[: len(columns)]
    return from_samples(units, np.array(columns, dtype=float).T)


def noisy(*means: float, seed: int = 0, scale: float = 1.0) -> Scores:
    """Scores of 200 samples with these means, but for a spread of a tenth."""
    chance = np.random.default_rng(seed)
    return scores_of(*(scale * mean * (1 + chance.normal(0, 0.1, 200)) for mean in means))


def test_what_shuffled_labels_explain_is_taken_away() -> None:
    """The first layer is far ahead on any labels; what is the labels' own is the third's."""
    own = noisy(70, 10, 20)
    shuffled = [noisy(72, 14, 14, seed=seed, scale=10.0**seed) for seed in range(1, 9)]
    found = standardised_difference(own, shuffled)
    assert np.argsort(-own.values).tolist() == [0, 2, 1]
    assert np.argsort(-found.values).tolist() == [2, 0, 1]
    assert found.values[2] > 10
    assert found.values[1] < -10
    assert found.values[0] < 0


def test_the_weights_of_the_head_do_not_matter() -> None:
    shuffled = [noisy(1, 2, 3, seed=seed) for seed in range(1, 5)]
    heavier = [noisy(1, 2, 3, seed=seed, scale=10.0**seed) for seed in range(1, 5)]
    expected = standardised_difference(noisy(1, 3, 2), shuffled).values
    found = standardised_difference(noisy(1, 3, 2, scale=1e6), heavier).values
    assert found == pytest.approx(expected, rel=1e-9)


def test_differences_of_rounding_score_nothing() -> None:
    own = scores_of([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])
    almost = scores_of([1.0, 2.0, 3.0 + 1e-15], [0.0, 0.0, 0.0])
    assert standardised_difference(own, [almost, own]).values.tolist() == [0, 0]
    nothing = scores_of([0.0, 0.0, 0.0], [0.0, 0.0, 0.0])
    assert standardised_difference(nothing, [nothing, nothing]).values.tolist() == [0, 0]


def test_layers_below_zero_have_no_share() -> None:
    found = standardised_difference(noisy(1, 3, 2), [noisy(3, 1, 2, seed=s) for s in range(1, 5)])
    resamples = resampled(found, 200, 0)
    layers = layer_scores(found, resamples)
    assert [layer.index for layer in layers] == [1, 2, 0]
    assert layers[-1].share == 0
    assert layers[-1].ci is not None
    assert layers[-1].ci[0] < layers[-1].score < layers[-1].ci[1] < 0
    assert recommend_k(layers, stability_of(found, resamples, 0), Method.FISHER).k == 1
    ranked = rank(rows=4, samples=4).model_copy(update={"layers": layers})
    chosen = choose_layers(SelectionSpec(policy="top_share", share=0.5), layers, ranked)
    assert [layer.index for layer in chosen] == [1]


def test_no_score_above_zero_recommends_every_layer_and_has_no_shares() -> None:
    """A single layer has all of the total on any labels."""
    found = standardised_difference(noisy(1), [noisy(3, seed=seed) for seed in (1, 2)])
    assert found.values.tolist() == [0]
    layers = layer_scores(found, None)
    recommended = recommend_k(layers, stability_of(found, None, 0), Method.FISHER)
    assert (recommended.k, layers[0].share) == (1, 0)
    assert "no score is positive" in recommended.reason
    ranked = rank(rows=4, samples=4).model_copy(update={"layers": layers})
    with pytest.raises(SelectionEmpty, match="above zero"):
        choose_layers(SelectionSpec(policy="top_share", share=0.5), layers, ranked)


@pytest.mark.parametrize(
    "problem",
    [
        Problem.REGRESSION,
        Problem.MULTI_LABEL,
        pytest.param(Problem.TOKEN_CLASSIFICATION, marks=pytest.mark.slow),
    ],
)
def test_every_problem_has_it(problem: Problem) -> None:
    loaded = toy_model(new=True, problem=problem)
    options = RankingOptions(**QUICK, samples=24, minus="shuffled")
    result = rank_layers(loaded, toy_data(30, problem=problem), options)
    assert everything_is_finite(result.layers, result.stability)
    assert all(layer.ci is not None for layer in result.layers)
    assert any(layer.score != 0 for layer in result.layers)


def test_the_head_is_the_one_of_the_own_labels_afterwards() -> None:
    heads = []
    for given in ({}, {"minus": "shuffled"}):
        loaded = toy_model(new=True)
        rank(loaded, rows=24, **given)
        heads.append({name: value.clone() for name, value in loaded.head.items()})
    assert all(torch.equal(value, heads[1][name]) for name, value in heads[0].items())


def test_rankings_without_it_keep_their_digests() -> None:
    spec: dict[str, Any] = {"model": "a/b", "dataset": "glue/rte"}
    plain, other = RankingSpec(**spec), RankingSpec(**spec, minus="shuffled")
    fields = set(RankingOptions.model_fields) - {"minus"}
    before = plain.model_dump(mode="json", include=fields)
    known = {"model": "m", "dataset": "d", "version": __version__}
    assert ranking_digest("m", "d", plain) == content_digest({**before, **known})
    assert ranking_digest("m", "d", other) == content_digest(
        {**before, "minus": "shuffled", **known}
    )
    selection = SelectionSpec(policy="top_k", k=1, ranking={"samples": 9})
    assert "minus" not in selection.model_dump(mode="json")["ranking"]  # nor do fine-tunes' change


def test_other_values_are_refused() -> None:
    with pytest.raises(ValidationError, match="shuffled"):
        RankingOptions(minus="tokens")
