"""Tangent kernels, sketched and whole, against whole Jacobians, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from surgery.gradients.engine import accumulate, plan_for
from surgery.gradients.passes import Objective
from surgery.ranking.methods import linear_weights
from surgery.ranking.tangent import (
    OutputDirections,
    SketchAccumulator,
    output_vectors,
    projections,
    tangent_kernels,
)
from surgery.schemas.enums import Problem
from tests.support.models.encoders import CONFIGS, NO_CHOICES, padded_batch, rounding, tiny
from tests.support.reference.methods import jacobian_kernel
from tests.support.reference.tangent_cases import (
    CASES,
    Batches,
    batches_of,
    jacobians_of,
    layers_of,
)


def kernels_of(
    model: nn.Module, batches: Batches, problem: Problem, *, seed: int = 0, **more: int
) -> tuple[Tensor, Tensor, str]:
    scored = linear_weights(model, layers_of(model))
    plan = plan_for(model, scored, batches[0], Objective(problem))
    return *tangent_kernels(model, scored, batches, plan, problem, seed=seed, **more), plan.path


def assert_true_kernels(kind: str, problem: Problem, labels: int) -> None:
    model = tiny(kind, labels=labels, problem=problem)
    batches = batches_of(kind, problem, labels)
    found, residuals, _ = kernels_of(model, batches, problem)
    jacobians, members = jacobians_of(model, batches, kind)
    for kernel, names in zip(found, members, strict=True):
        expected = jacobian_kernel(jacobians, names)
        scale = float(expected.diagonal().max())
        exact = rounding(kind)
        torch.testing.assert_close(kernel, expected, rtol=exact, atol=1e-3 * exact * scale)
    outputs = len(jacobians[0])
    assert residuals.shape == (12, outputs)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["bert", "albert", "deberta-v2"])
def test_kernels_are_those_of_whole_jacobians(kind: str, case: str) -> None:
    assert kind not in NO_CHOICES
    assert_true_kernels(kind, *CASES[case])


@pytest.mark.parametrize("kind", sorted(set(CONFIGS) - {"bert", "albert", "deberta-v2"}))
def test_kernels_of_every_architecture(kind: str) -> None:
    assert_true_kernels(kind, Problem.CLASSIFICATION, 2)


@pytest.mark.parametrize(
    ("kind", "path"), [("bert", "batched"), ("albert", "batched"), ("deberta-v2", "one_sample")]
)
def test_path(kind: str, path: str) -> None:
    model = tiny(kind)
    found = kernels_of(model, batches_of(kind, Problem.CLASSIFICATION, 2), Problem.CLASSIFICATION)
    assert found[2] == path


@pytest.mark.parametrize("kind", ["bert", "albert", "deberta-v2"])
def test_small_sketches_are_projected_gradients(kind: str) -> None:
    model, size = tiny(kind, labels=3), 4
    batches = batches_of(kind, Problem.CLASSIFICATION, 3)
    scored = linear_weights(model, layers_of(model))
    plan = plan_for(model, scored, batches[0], Objective(Problem.CLASSIFICATION))
    parameters = dict(model.named_parameters())
    weights = {name: parameters[name] for unit in scored for name in unit.members}
    sketches = SketchAccumulator(weights, 3, 12, 5, size)
    vectors = output_vectors(3, 0)
    objective = OutputDirections(Problem.CLASSIFICATION, vectors=vectors, residuals={})
    accumulate(model, sketches, batches, objective, plan)
    jacobians, _ = jacobians_of(model, batches, kind)
    for name, weight in weights.items():
        left, right = projections(weight, name, 5, size)
        assert left is not None
        assert right is not None
        assert left.shape == (size, len(weight))
        for row, jacobian in enumerate(jacobians):
            for output in range(3):
                expected = left @ jacobian[output][name] @ right / 3**0.5
                found = sketches.sketches[name][output, row].reshape(size, size)
                torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_only_long_sides_are_projected() -> None:
    weight = torch.zeros(3, 9, dtype=torch.float64)
    left, right = projections(weight, "w", 0, 4)
    assert left is None
    assert right is not None
    assert right.shape == (9, 4)
    other = projections(weight, "v", 0, 4)[1]
    again = projections(weight, "w", 0, 4)[1]
    assert other is not None
    assert again is not None
    assert torch.equal(right, again)
    assert not torch.allclose(right, other)


def test_sketches_keep_inner_products_in_expectation() -> None:
    generator = torch.Generator().manual_seed(0)
    one, two = torch.randn(2, 30, 40, generator=generator, dtype=torch.float64)
    two = one + two
    found = []
    for seed in range(400):
        left, right = projections(one, "w", seed, 8)
        assert left is not None
        assert right is not None
        found.append(float(((left @ one @ right) * (left @ two @ right)).sum()))
    error = np.std(found) / len(found) ** 0.5
    true = float((one * two).sum())
    assert error < 0.05 * true
    assert abs(np.mean(found) - true) < 4 * error


def test_directions_of_few_outputs_are_the_outputs() -> None:
    for outputs in (1, 2, 8):
        vectors = output_vectors(outputs, 3)
        eye = torch.eye(outputs, dtype=torch.float64) / outputs
        torch.testing.assert_close(vectors.mT @ vectors, eye)


def test_directions_of_many_outputs_are_unbiased() -> None:
    outputs = 20
    products = []
    for seed in range(600):
        vectors = output_vectors(outputs, seed)
        assert vectors.shape == (8, outputs)
        gram = vectors @ vectors.mT
        torch.testing.assert_close(gram, torch.eye(8, dtype=torch.float64) / 8)
        products.append(vectors.mT @ vectors)
    mean = torch.stack(products).mean(0)
    torch.testing.assert_close(mean, torch.eye(outputs).double() / outputs, rtol=0, atol=4e-3)


def test_kernels_of_many_classes_are_unbiased() -> None:
    model = tiny("bert", labels=12)
    batches = [padded_batch([6, 4, 5, 3], labels=12)]
    jacobians, members = jacobians_of(model, batches)
    expected = torch.stack([jacobian_kernel(jacobians, names) for names in members])
    drawn = torch.stack(
        [kernels_of(model, batches, Problem.CLASSIFICATION, seed=seed)[0] for seed in range(40)]
    )
    error = drawn.std(0) / len(drawn) ** 0.5
    assert (drawn.std(0) > 0).all()
    assert ((drawn.mean(0) - expected).abs() < 4.5 * error).all()
    assert (error.diagonal(dim1=1, dim2=2) < 0.1 * expected.diagonal(dim1=1, dim2=2)).all()
