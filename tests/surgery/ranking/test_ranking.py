"""Whole rankings of tiny models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from surgery.data.tokens.dataset import choose_rows
from surgery.errors import ScoresNotFinite
from surgery.heads.converge import converge
from surgery.heads.features import HeadFeatures
from surgery.heads.warmup import warm_up
from surgery.io.reporter import Quiet
from surgery.models.blocks import groups_of
from surgery.models.loading import renew_head
from surgery.ranking.ranking import open_scorer, rank_layers
from surgery.ranking.sample import Sample, with_shuffled_labels
from surgery.ranking.scorer import Scorer, ranked_only
from surgery.ranking.scores import Scores
from surgery.ranking.uncertainty import kendall_tau
from surgery.schemas.enums import Aggregate, Fisher, Granularity, Method
from surgery.schemas.jobs.ranking import RankingOptions, RankingResult
from tests.support.models.toys import (
    QUICK,
    by_index,
    everything_is_finite,
    rank,
    toy_data,
    toy_model,
)
from tests.support.reference.ranking import row_by_row


def messages(result: RankingResult) -> list[str]:
    return [warning.message for warning in result.warnings]


def test_a_ranking_scores_distinct_training_rows_once_each() -> None:
    """Equal, row by row and without padding, to autograd on the rows that the seed chose."""
    data, loaded = toy_data(), toy_model()
    options = RankingOptions(samples=24, max_length=8, seed=3, **QUICK)
    result = rank_layers(loaded, data, options)
    rows = choose_rows(40, 24, 3)
    assert len(set(rows)) == 24
    blocks = [block.module for block in loaded.blocks]
    expected = row_by_row(
        loaded.model, blocks, loaded.tokenizer, [data.train[row] for row in rows], 8
    )
    found = ranked_only(open_scorer(loaded, data, options, Quiet()).fisher()).per_sample
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert len({tuple(row) for row in found.tolist()}) == 24
    assert by_index(result) == pytest.approx(expected.mean(0).tolist())
    assert (result.samples, result.path, result.processes) == (24, "batched", 1)


def test_more_samples_than_rows_score_each_once() -> None:
    result = rank(rows=20, samples=1000)
    assert result.samples == 20
    (few,) = [each for each in result.warnings if each.code == "few_rows"]
    assert few.message == "the train split has 20 rows; each was scored once"
    assert few.remedy == "give more training rows if the intervals are too wide to choose by"
    assert by_index(result) == pytest.approx(by_index(rank(rows=20, samples=20)))
    assert not rank(rows=20, samples=20).warnings


@pytest.mark.parametrize("given", [{"batch_size": 1}, {"batch_size": 7}, {"batch_size": 40}])
def test_batches_change_nothing(given: dict[str, int]) -> None:
    expected, found = rank(bootstrap=0), rank(bootstrap=0, **given)
    assert by_index(found) == pytest.approx(by_index(expected), rel=1e-10)


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert"])
def test_rows_that_are_all_cut_at_the_same_length_are_scored_batched(kind: str) -> None:
    data = toy_data(12)
    long = data.train.from_dict(
        {"text": [f"{text} " * 20 for text in data.train["text"]], "label": data.train["label"]}
    )
    options = RankingOptions(samples=12, max_length=18, **QUICK)
    result = rank_layers(toy_model(kind), replace(data, train=long), options)
    assert result.path == "batched"
    (warning,) = result.warnings
    assert warning.message.startswith("max_length 18 cut 100% of 12 training rows")


@pytest.mark.parametrize("granularity", Granularity)
def test_parts_add_up_to_layers(granularity: Granularity) -> None:
    whole, parts = rank(), rank(granularity=granularity)
    sums = [0.0] * 3
    for part in parts.layers:
        sums[part.index] += part.score
    assert sums == pytest.approx(by_index(whole))
    assert parts.granularity is granularity
    assert len({part.name for part in parts.layers}) == len(parts.layers)


def test_groups_are_listed_and_not_ranked() -> None:
    result, loaded = rank(), toy_model()
    groups = groups_of(loaded.model, loaded.blocks)
    assert [group.name for group in result.groups] == ["embeddings", "pooler", "head"]
    assert [group.parameters for group in result.groups] == [g.parameters for g in groups]
    assert all(group.score and group.score > 0 for group in result.groups)
    assert len(result.layers) == 3
    assert sum(layer.share for layer in result.layers) == pytest.approx(1)


@pytest.mark.parametrize("aggregate", Aggregate)
@pytest.mark.parametrize("fisher", Fisher)
def test_every_fisher_and_aggregate(fisher: Fisher, aggregate: Aggregate) -> None:
    result = rank(fisher=fisher, aggregate=aggregate)
    assert (result.fisher, result.aggregate) == (fisher, aggregate)
    assert all(layer.score > 0 for layer in result.layers)
    assert all((layer.unbiased is None) == (aggregate != "frobenius") for layer in result.layers)
    assert everything_is_finite(result.layers, result.stability)


@pytest.mark.parametrize("method", [m for m in Method if m is not Method.PAPER_COMPAT])
def test_every_method_gives_a_whole_result(method: Method) -> None:
    loaded, given = toy_model(), {} if method is Method.FISHER else {"bootstrap": 200}
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    options = RankingOptions(method=method, **given)
    result = rank_layers(loaded, toy_data(), options)
    assert result.method == method
    assert sorted(layer.index for layer in result.layers) == [0, 1, 2]
    scores = [layer.score for layer in result.layers]
    assert scores == sorted(scores, reverse=True)
    assert everything_is_finite(result.layers, result.stability)
    assert 1 <= result.recommended_k.k <= 3
    assert (result.fisher is not None) == (method in {Method.FISHER, Method.ALL})
    assert (result.model_prior is not None) == (method in {Method.FISHER, Method.ALL})
    # A head of the checkpoint's own is not warmed up: nothing changes.
    assert all(torch.equal(value, before[n]) for n, value in loaded.model.state_dict().items())


@pytest.mark.parametrize(("fisher", "precision"), [("empirical", "fp32"), ("exact", "bf16")])
def test_all_methods_side_by_side(fisher: str, precision: str) -> None:
    given = {"fisher": fisher, "precision": precision}
    result = rank(method=Method.ALL, **given)
    assert result.methods is not None
    table = {entry.method: entry for entry in result.methods.methods}
    assert set(table) == set(Method) - {Method.ALL, Method.PAPER_COMPAT}
    for method, entry in table.items():
        own: dict[str, Any] = given if method == Method.FISHER else {"model_prior": True}
        if method in {Method.GRADIENT_NORM, Method.RELATIVE_GRADIENT_NORM, Method.SNIP}:
            own["precision"] = precision
        alone = rank(method=method, **own)
        assert entry.scores == pytest.approx({x.name: x.score for x in alone.layers}, rel=1e-6)
        assert entry.order == [layer.name for layer in alone.layers]
    assert [layer.name for layer in result.layers] == table["fisher"].order
    taus = result.methods.kendall_tau
    assert all(taus[method][method] == 1 for method in table)
    assert taus["first"]["last"] == -1
    assert all(taus[one][two] == taus[two][one] for one in table for two in table)


def test_orders_by_place() -> None:
    for method, order in ((Method.FIRST, [0, 1, 2]), (Method.LAST, [2, 1, 0])):
        result = rank_layers(toy_model(), toy_data(), RankingOptions(method=method))
        assert [layer.index for layer in result.layers] == order
        assert result.recommended_k.k == 2
        assert (result.path, result.head) == (None, None)
        assert all(layer.ci is None for layer in result.layers)


def test_the_head_of_a_result() -> None:
    own = rank()
    assert own.head is not None
    assert (own.head.source, own.head.warmup_epochs, own.head.warmup_loss) == (
        "checkpoint",
        0,
        None,
    )
    fresh = rank(toy_model(new=True), head={"warmup_samples": 30})
    assert fresh.head is not None
    assert (fresh.head.source, fresh.head.fit, fresh.head.warmup_rows) == ("new", "lbfgs", 30)
    assert fresh.head.loss is not None
    assert fresh.head.baseline_loss is not None
    assert fresh.head.loss < fresh.head.baseline_loss
    assert (fresh.head.warmup_epochs, fresh.head.warmup_loss) == (0, None)
    assert not fresh.warnings
    trained = rank(toy_model(new=True), head={"fit": "epochs", "warmup_samples": 30})
    assert trained.head is not None
    assert (trained.head.fit, trained.head.warmup_epochs, trained.head.loss) == ("epochs", 1, None)
    assert trained.head.warmup_loss
    untrained = rank(toy_model(new=True), head={"warmup_epochs": 0})
    assert untrained.head is not None
    assert (untrained.head.fit, untrained.head.warmup_rows) == ("none", 0)
    assert "hardly on the labels" in messages(untrained)[0]
    asked = rank(head={"fit": "converged"})
    assert asked.head is not None
    assert (asked.head.source, asked.head.fit) == ("checkpoint", "lbfgs")
    few = rank(toy_model(new=True), head={"warmup_samples": 10})
    assert "the head was trained on fewer than ten rows a class" in messages(few)


def test_only_the_head_is_warmed_up() -> None:
    loaded = toy_model(new=True)
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    rank(loaded, head={"warmup_epochs": 3})
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, before[name]) == (name not in loaded.head)
    assert all(parameter.grad is None for parameter in loaded.model.parameters())


def single_head(number: int, seed: int, epochs: int, aggregate: Aggregate) -> Scores:
    """Through one head drawn and warmed up by itself."""
    loaded, data = toy_model(new=True), toy_data()
    options = RankingOptions(seed=seed, aggregate=aggregate, **QUICK)
    encoded = open_scorer(loaded, data, options, Quiet()).sample.encoded
    if number:
        renew_head(loaded.model, seed + number)
    if epochs:
        head = list(loaded.head.values())  # all 40 rows, for warm-up as for scores
        features = HeadFeatures(loaded.model, head, encoded, data.problem, Quiet())
        warm_up(features, epochs=epochs, seed=seed + number)
    sample = Sample(encoded=encoded, device=torch.device("cpu"))
    return ranked_only(Scorer(loaded, sample, data.problem, options, Quiet()).fisher())


@pytest.mark.parametrize("aggregate", Aggregate)
@pytest.mark.parametrize("epochs", [0, 2])
def test_several_heads_are_the_mean_of_single_ones(epochs: int, aggregate: Aggregate) -> None:
    head = {"init": "new", "warmup_epochs": epochs}
    result = rank(toy_model(new=True), seed=5, aggregate=aggregate, head_seeds=3, head=head)
    singles = [single_head(number, 5, epochs, aggregate) for number in range(3)]
    values = np.array([single.values for single in singles])
    assert by_index(result) == pytest.approx(values.mean(0).tolist(), rel=1e-9)
    stds = {layer.index: layer.head_std for layer in result.layers}
    assert [stds[i] for i in range(3)] == pytest.approx(values.std(0, ddof=1).tolist(), rel=1e-9)
    assert result.head_spread is not None
    assert result.head_spread.heads == 3
    assert -1 <= result.head_spread.kendall_tau_min <= result.head_spread.kendall_tau_mean <= 1
    assert all((layer.ci is None) == (aggregate == "frobenius") for layer in result.layers)
    assert all((layer.unbiased is None) == (aggregate != "frobenius") for layer in result.layers)


def test_heads_that_converge_to_the_same_one_are_told_of() -> None:
    result = rank(toy_model(new=True), head_seeds=2, head={"init": "new"})
    assert result.head_spread is not None
    assert result.head_spread.kendall_tau_min == 1
    assert any("head_seeds changed nothing" in warning.message for warning in result.warnings)
    other = rank(toy_model("roberta", new=True), head_seeds=2, head={"init": "new"})
    assert not any("head_seeds" in warning.message for warning in other.warnings)


def test_a_converged_head_is_that_of_its_own_ridge_on_shuffled_labels() -> None:
    """With the ranking's ridge, on the shuffled labels of the prior."""
    loaded, data = toy_model(new=True), toy_data(60)
    options = RankingOptions(samples=60, bootstrap=0)
    result = rank_layers(loaded, data, options)
    assert result.head is not None
    assert result.model_prior is not None
    encoded = open_scorer(loaded, data, options, Quiet()).sample.encoded
    head = list(loaded.head.values())
    features = HeadFeatures(loaded.model, head, encoded, data.problem, Quiet())
    converge(
        features, seed=0, ridge=result.head.ridge, relabel=lambda b: with_shuffled_labels(b, 0)
    )
    sample = Sample(encoded=encoded, device=torch.device("cpu"))
    scorer = Scorer(loaded, sample, data.problem, options, Quiet())
    shuffled = ranked_only(
        scorer.fisher(lambda: with_shuffled_labels(list(sample.batches()), options.seed))
    )
    tau = kendall_tau(by_index(result), shuffled.values)
    assert result.model_prior.kendall_tau == tau


def test_one_head_has_no_spread() -> None:
    result = rank()
    assert result.head_spread is None
    assert all(layer.head_std is None for layer in result.layers)


class Watched(Quiet):
    """Notes how many samples every pass has scored."""

    def __init__(self) -> None:
        super().__init__()
        self.phases: list[str] = []
        self.steps: list[int] = []

    def phase(self, name: str) -> None:
        self.phases.append(name)

    def step(self, done: int, total: int | None, unit: str) -> None:
        if unit == "samples":
            assert total == 32
            self.steps.append(done)


def test_progress_is_reported() -> None:
    report = Watched()
    options = RankingOptions(samples=32, batch_size=8, **QUICK)
    result = rank_layers(toy_model(new=True), toy_data(), options, report)
    assert report.phases == ["tokenize", "warmup", "score", "bootstrap"]
    assert report.steps == [8, 16, 24, 32]
    assert list(result.seconds) == report.phases
    assert all(spent >= 0 for spent in result.seconds.values())


def test_scores_that_are_not_numbers_are_refused() -> None:
    loaded = toy_model()
    loaded.blocks[1].module.intermediate.dense.weight.data[0, 0] = float("nan")
    with pytest.raises(ScoresNotFinite, match="the scores mean nothing"):
        rank(loaded)
