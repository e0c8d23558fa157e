"""Tangent scores: ridge regression on the kernels against loops, in float64, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from surgery.errors import MethodUndefined, ModelUnsupported, ScoresNotFinite
from surgery.models.blocks import find_blocks, units_of
from surgery.ranking.methods import linear_weights
from surgery.ranking.tangent import FOLDS, cross_validated, plan_passes, tangent_scores
from surgery.schemas.enums import Granularity, Problem
from tests.support.models.encoders import padded_batch, tiny
from tests.support.reference.methods import jacobian_kernel, ridge_scores
from tests.support.reference.tangent_cases import (
    CASES,
    Batches,
    batches_of,
    jacobians_of,
    layers_of,
)


def random_kernels(count: int, samples: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randn(count, samples, 6, generator=generator, dtype=torch.float64)
    return factors @ factors.mT


@pytest.mark.parametrize(("samples", "outputs"), [(10, 1), (23, 2), (31, 5)])
def test_ridge_regression_equals_the_twin(samples: int, outputs: int) -> None:
    kernels = random_kernels(3, samples)
    kernels[1] *= 10  # one λ for all: a larger kernel is shrunk less
    generator = torch.Generator().manual_seed(1)
    residuals = torch.randn(samples, outputs, generator=generator, dtype=torch.float64)
    explained, total = cross_validated(kernels, residuals, seed=4)
    order = np.random.default_rng(4).permutation(samples)
    folds = np.array_split(order, FOLDS)
    expected = ridge_scores([k.numpy() for k in kernels], residuals.numpy(), folds)
    np.testing.assert_allclose(explained.sum(0) / total.sum(), expected, rtol=1e-9)
    np.testing.assert_allclose(total, residuals.square().sum(1).numpy(), rtol=1e-12)


def test_a_kernel_that_explains_the_residuals_scores_higher() -> None:
    generator = torch.Generator().manual_seed(1)
    factors = torch.randn(3, 60, 6, generator=torch.Generator().manual_seed(0)).double()
    kernels = factors @ factors.mT
    signal = factors[1] @ torch.randn(6, 2, generator=generator).double()
    residuals = signal + 0.1 * torch.randn(60, 2, generator=generator).double()
    explained, total = cross_validated(kernels, residuals, seed=0)
    scores = explained.sum(0) / total.sum()
    assert scores[1] > 0.8
    assert max(scores[0], scores[2]) < 0.2


def expected_scores(model: nn.Module, batches: Batches, residuals: np.ndarray) -> list[float]:
    jacobians, members = jacobians_of(model, batches)
    kernels = [jacobian_kernel(jacobians, names).numpy() for names in members]
    folds = np.array_split(np.random.default_rng(0).permutation(len(residuals)), FOLDS)
    return ridge_scores(kernels, residuals, folds)


@pytest.mark.parametrize("case", CASES)
def test_scores_equal_the_twin(case: str) -> None:
    problem, labels = CASES[case]
    model = tiny("bert", labels=labels, problem=problem)
    batches = batches_of("bert", problem, labels)
    units = layers_of(model)
    scores, path, warnings = tangent_scores(model, units, batches, problem, seed=0)
    assert (path, warnings, scores.units) == ("batched", [], units)
    residuals = []
    for batch in batches:
        with torch.no_grad():
            logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        if problem is Problem.REGRESSION:
            residuals.append(batch["labels"][:, None] - logits)
        elif problem is Problem.MULTI_LABEL:
            residuals.append(batch["labels"] - logits.sigmoid())
        else:
            truth = torch.eye(logits.shape[1], dtype=torch.float64)[batch["labels"]]
            residuals.append(truth - logits.softmax(1))
    expected = expected_scores(model, batches, torch.cat(residuals).numpy())
    np.testing.assert_allclose(scores.values, expected, rtol=1e-8)
    assert scores.per_sample is not None
    assert scores.weights is not None
    np.testing.assert_allclose(scores.per_sample.sum(0) / scores.weights.sum(), scores.values)
    assert (scores.per_sample.std(0) > 0).all()  # what a bootstrap over samples lives on


@pytest.mark.parametrize("place", range(3))
def test_what_a_step_of_a_layer_changes_is_what_its_kernel_predicts(place: int) -> None:
    model = tiny("bert", labels=1)
    moved = tiny("bert", labels=1)
    generator = torch.Generator().manual_seed(1)
    batch = padded_batch(torch.randint(3, 13, (96,), generator=generator).tolist(), labels=1)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    parameters = dict(moved.named_parameters())
    with torch.no_grad():
        for name in linear_weights(moved, layers_of(moved))[place].members:
            step = torch.randn(parameters[name].shape, generator=generator, dtype=torch.float64)
            parameters[name].add_(0.05 * step)
        before, after = (m(**inputs).logits[:, 0] for m in (model, moved))
    change = after - before
    change -= change.mean()
    shuffled = change[torch.randperm(96, generator=generator)]
    learnable, noise = (
        tangent_scores(
            model, layers_of(model), [{**batch, "labels": before + residual}], Problem.REGRESSION,
            seed=0,
        )[0].values
        for residual in (change, shuffled)
    )  # fmt: skip
    assert learnable[place] > 0.4
    assert noise.max() < 0.1


@pytest.mark.parametrize("budget", [1, 40_000, 150_000, 400_000])
def test_a_small_budget_changes_no_score(budget: int) -> None:
    model = tiny("bert", labels=5)
    batches, seen = batches_of("bert", Problem.CLASSIFICATION, 5), list[int]()
    units = layers_of(model)
    expected = tangent_scores(model, units, batches, Problem.CLASSIFICATION, seed=1)[0]
    found = tangent_scores(
        model, units, batches, Problem.CLASSIFICATION, seed=1, budget=budget, on_batch=seen.append
    )[0]
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-9)
    assert seen == sorted(seen)
    assert seen[-1] == 12
    assert len(seen) > 3  # more than one pass


def test_passes_keep_within_the_budget() -> None:
    vectors = torch.eye(5)

    def shape(sizes: Sequence[int], budget: int) -> list[tuple[list[int], int]]:
        return [(each.places, len(each.vectors)) for each in plan_passes(sizes, vectors, budget)]

    assert shape([10, 10, 10], 150) == [([0, 1, 2], 5)]
    assert shape([10, 10, 10], 149) == [([0, 1, 2], 4), ([0, 1, 2], 1)]
    assert shape([10, 10, 10], 30) == [([0, 1, 2], 1)] * 5
    assert shape([10, 10, 10], 29) == [([0, 1], 1)] * 5 + [([2], 1)] * 5
    assert shape([10, 30, 10], 12) == [([0], 1)] * 5 + [([1], 1)] * 5 + [([2], 1)] * 5


@pytest.mark.parametrize("kind", ["bert", "deberta-v2"])
def test_batches_and_their_order_change_no_score(kind: str) -> None:
    model = tiny(kind)
    batch = padded_batch([11, 4, 7, 9, 3, 12, 5, 8, 6, 10], kind=kind)
    units = layers_of(model)
    expected = tangent_scores(model, units, [batch], Problem.CLASSIFICATION, seed=0)[0]
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    moved = [
        {name: tensor[part] for name, tensor in batch.items()} | {"sample": part}
        for part in order.split(4)
    ]
    found = tangent_scores(model, units, moved, Problem.CLASSIFICATION, seed=0)[0]
    assert found.per_sample is not None
    np.testing.assert_allclose(found.per_sample, expected.per_sample, rtol=1e-7, atol=1e-12)


def test_the_model_is_left_as_it_was() -> None:
    model = tiny("bert").train()
    batches = batches_of("bert", Problem.CLASSIFICATION, 2)
    units = layers_of(model)
    first, second = (
        tangent_scores(model, units, batches, Problem.CLASSIFICATION, seed=0)[0] for _ in range(2)
    )
    assert (first.values == second.values).all()  # without dropout
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_seeds_change_the_folds() -> None:
    model = tiny("bert")
    batches = batches_of("bert", Problem.CLASSIFICATION, 2)
    drawn = [
        tangent_scores(model, layers_of(model), batches, Problem.CLASSIFICATION, seed=seed)[0]
        for seed in (0, 1)
    ]
    assert not np.allclose(drawn[0].values, drawn[1].values)


def test_what_the_kernels_leave_out_is_said() -> None:
    model = tiny("xlnet")
    batches = batches_of("xlnet", Problem.CLASSIFICATION, 2)
    _, path, warnings = tangent_scores(
        model, layers_of(model), batches, Problem.CLASSIFICATION, seed=0
    )
    assert any("weights of Linears, 3" in warning.message for warning in warnings)
    assert path == "one_sample"


def test_token_classification_has_no_kernel() -> None:
    problem = Problem.TOKEN_CLASSIFICATION
    model = tiny("bert", labels=3, problem=problem)
    batches = batches_of("bert", problem, 3)
    with pytest.raises(MethodUndefined, match="each of its words"):
        tangent_scores(model, layers_of(model), batches, problem, seed=0)


@pytest.mark.parametrize(
    ("count", "words"), [(9, "10 samples at least, not 9"), (2001, "at most 2,000 samples")]
)
def test_number_of_samples(count: int, words: str) -> None:
    model = tiny("bert")
    with pytest.raises(MethodUndefined, match=words):
        tangent_scores(
            model, layers_of(model), [padded_batch([3] * count)], Problem.CLASSIFICATION, seed=0
        )


def test_units_without_a_linear() -> None:
    model = tiny("bert")
    units = units_of(model, find_blocks(model), Granularity.TENSOR)
    with pytest.raises(ModelUnsupported, match="has no Linear"):
        tangent_scores(model, units, [padded_batch([5] * 10)], Problem.CLASSIFICATION, seed=0)


def test_outputs_that_do_not_change() -> None:
    model = tiny("bert")
    model.classifier.weight.data.zero_()
    with pytest.raises(MethodUndefined, match="do not change"):
        tangent_scores(
            model, layers_of(model), [padded_batch([5] * 10)], Problem.CLASSIFICATION, seed=0
        )


def test_weights_that_are_not_numbers() -> None:
    model = tiny("bert")
    find_blocks(model)[1].module.output.dense.weight.data[0] = float("nan")
    with pytest.raises(ScoresNotFinite):
        tangent_scores(
            model, layers_of(model), [padded_batch([5] * 10)], Problem.CLASSIFICATION, seed=0
        )
