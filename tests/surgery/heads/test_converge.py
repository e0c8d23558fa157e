"""A head that is fitted until it has converged, on every architecture and problem."""

from __future__ import annotations

import math
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from surgery.data.tokens.dataset import batches_by_length
from surgery.errors import ModelUnsupported
from surgery.heads.converge import HeadFit, converge, fit_head
from surgery.heads.features import HeadFeatures
from surgery.io.reporter import Quiet
from surgery.io.sources import Sources
from surgery.models.blocks import encoder_of, head_parameters, model_inputs
from surgery.models.loading import load_model
from surgery.models.source.resolve import local_model
from surgery.ranking.sample import training_rows, with_shuffled_labels
from surgery.schemas.enums import Problem
from tests.support.collected import one_in
from tests.support.models.toys import sentences
from tests.surgery.heads.test_warmup import CASES, build, loss_of_rows, rows


def fitted(model: nn.Module, problem: Problem, count: int = 60, kind: str = "bert") -> HeadFit:
    head = list(head_parameters(model).values())
    features = HeadFeatures(model, head, rows(count, kind, problem), problem, Quiet())
    return converge(features, seed=0)


def losses(model: nn.Module, problem: Problem, kind: str, count: int = 60) -> torch.Tensor:
    """The slow twin: the whole model, padded alike, as some means are over the padding too."""
    encoded = rows(count, kind, problem)
    found = []
    for chosen in batches_by_length(encoded.lengths, None):
        batch = encoded.batch(chosen)
        logits = model(**model_inputs(model, batch)).logits
        found.append(loss_of_rows(logits, batch["labels"], problem))
    return torch.cat(found)


@pytest.mark.parametrize(("kind", "problem", "labels"), one_in(3, CASES))
def test_the_gradient_vanishes_on_every_architecture(
    kind: str, problem: Problem, labels: int
) -> None:
    model = build(kind, labels, problem)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit = fitted(model, problem, kind=kind)
    assert fit.gradient_end < 1e-4 * fit.gradient_start
    assert fit.loss == pytest.approx(float(losses(model, problem, kind).mean().detach()), rel=1e-5)
    assert fit.rows == 60
    closed = problem is Problem.REGRESSION
    assert (fit.kind, fit.iterations > 0) == (("closed_form", False) if closed else ("lbfgs", True))
    changed = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    assert changed
    assert {before[name].shape[0] for name in changed} == {labels}  # those of the last layer
    assert changed <= set(head_parameters(model))


@pytest.mark.parametrize("problem", list(Problem))
def test_the_gradient_is_that_of_the_whole_model(problem: Problem) -> None:
    """Of the mean loss of the model with the ridge, taken through the encoder by autograd."""
    model = build(
        "bert", 1 if problem in {Problem.REGRESSION, Problem.MULTIPLE_CHOICE} else 3, problem
    )
    fit = fitted(model, problem)
    weight, bias = model.classifier.weight, model.classifier.bias
    objective = losses(model, problem, "bert").mean() + 0.5 * fit.ridge * weight.square().sum()
    slopes = torch.cat([s.flatten() for s in torch.autograd.grad(objective, [weight, bias])])
    assert float(slopes.norm()) < 1e-4 * fit.gradient_start
    nearby = deepcopy(model)
    with torch.no_grad():
        nearby.classifier.weight.add_(torch.randn_like(weight) * 1e-2)
    worse = losses(nearby, problem, "bert").mean().detach()
    worse = worse + 0.5 * fit.ridge * nearby.classifier.weight.detach().square().sum()
    assert float(worse) > float(objective.detach())


def test_any_head_ends_as_the_same_one() -> None:
    heads = []
    for seed in range(2):
        model = build("bert")
        with torch.no_grad():
            torch.manual_seed(seed)
            model.classifier.weight.normal_()
            model.classifier.bias.normal_()
        assert fitted(model, Problem.CLASSIFICATION).unique
        weight = model.classifier.weight.detach()
        heads.append(weight - weight.mean(0))
    torch.testing.assert_close(heads[0], heads[1], rtol=1e-3, atol=1e-5)
    assert not fitted(build("roberta"), Problem.CLASSIFICATION).unique


def test_knowing_nothing_is_the_baseline() -> None:
    encoded = rows(60)
    shares = np.bincount(encoded.labels) / 60
    entropy = -float((shares * np.log(shares)).sum())
    assert fitted(build("bert"), Problem.CLASSIFICATION).baseline_loss == pytest.approx(entropy)
    values = rows(60, problem=Problem.REGRESSION).labels
    regression = fitted(build("bert", 1, Problem.REGRESSION), Problem.REGRESSION)
    assert regression.baseline_loss == pytest.approx(float(values.var()) / 2)
    choice = fitted(build("bert", 1, Problem.MULTIPLE_CHOICE), Problem.MULTIPLE_CHOICE)
    assert choice.baseline_loss == pytest.approx(math.log(2))
    shares = rows(60, problem=Problem.MULTI_LABEL).labels.mean(0)
    entropy = -float((shares * np.log(shares) + (1 - shares) * np.log(1 - shares)).sum())
    several = fitted(build("bert", 3, Problem.MULTI_LABEL), Problem.MULTI_LABEL)
    assert several.baseline_loss == pytest.approx(entropy)
    tags = rows(60, problem=Problem.TOKEN_CLASSIFICATION).labels
    shares = np.bincount(tags[tags >= 0]) / (tags >= 0).sum()
    entropy = -float((shares * np.log(shares)).sum()) * int((tags >= 0).sum()) / 60
    tokens = fitted(build("bert", 3, Problem.TOKEN_CLASSIFICATION), Problem.TOKEN_CLASSIFICATION)
    assert tokens.baseline_loss == pytest.approx(entropy)


def test_shuffled_labels_are_fitted_with_the_given_ridge() -> None:
    model, encoded = build("bert"), rows(60)
    head = list(head_parameters(model).values())
    features = HeadFeatures(model, head, encoded, Problem.CLASSIFICATION, Quiet())
    own = converge(features, seed=0)
    other = converge(
        features, seed=0, ridge=own.ridge, relabel=lambda found: with_shuffled_labels(found, 0)
    )
    assert other.ridge == own.ridge
    assert other.loss > own.loss
    assert converge(features, seed=0).loss == pytest.approx(own.loss, rel=1e-6)


def test_a_new_pooler_stays_as_it_was_drawn() -> None:
    model = build("bert")
    encoded = rows(24)
    head = [*head_parameters(model).values(), *encoder_of(model).pooler.parameters()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit = converge(HeadFeatures(model, head, encoded, Problem.CLASSIFICATION, Quiet()), seed=0)
    assert not fit.unique
    changed = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_a_head_without_a_last_layer_is_refused() -> None:
    model = build("bert")
    model.classifier = nn.Sequential(model.classifier, nn.Tanh())
    with pytest.raises(ModelUnsupported, match=r"set head\.fit"):
        fitted(model, Problem.CLASSIFICATION)


def test_a_real_encoder_learns_its_rows(real_model: Path, tmp_path: Path) -> None:
    data = sentences(160)
    loaded = load_model(
        local_model(real_model), Sources((), cache=tmp_path, offline=True), data, seed=0
    )
    encoded = training_rows(loaded, data, 128, 32, 1)
    fit = fit_head(loaded, encoded, data.problem, seed=0)
    assert fit.gradient_end < 1e-4 * fit.gradient_start
    assert fit.loss < fit.baseline_loss - 0.02
