"""Tangent kernels against whole Jacobians, and their ridge regression against loops, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from encoders import CONFIGS, NO_CHOICES, UNMASKED, padded_batch, tiny
from reference_methods import jacobian_kernel, output_jacobian, ridge_scores, single_rows
from torch import Tensor, nn

from surgery.architecture import find_blocks
from surgery.errors import MethodUndefined, ModelUnsupported, ScoresNotFinite
from surgery.fisher import feed, plan_for
from surgery.methods import linear_weights
from surgery.passes import Objective
from surgery.sketches import SketchAccumulator, projections
from surgery.tangent import (
    FOLDS,
    OutputDirections,
    cross_validated,
    output_vectors,
    plan_passes,
    tangent_kernels,
    tangent_scores,
)
from surgery.terms import Granularity, Problem
from surgery.units import Unit, units_of

Batches = list[dict[str, Tensor]]
LENGTHS = ([11, 5, 7, 8], [9, 9, 6, 6], [5, 12, 5, 6])
CASES = {
    "two classes": (Problem.CLASSIFICATION, 2),
    "five classes": (Problem.CLASSIFICATION, 5),
    "regression": (Problem.REGRESSION, 1),
    "choices": (Problem.MULTIPLE_CHOICE, 1),
}


def batches_of(kind: str, problem: Problem, labels: int) -> Batches:
    return [
        padded_batch(lengths, labels=labels, seed=seed, kind=kind, problem=problem)
        for seed, lengths in enumerate(LENGTHS)
    ]


def layers_of(model: nn.Module) -> list[Unit]:
    return units_of(model, find_blocks(model))


def kernels_of(
    model: nn.Module, batches: Batches, problem: Problem, *, seed: int = 0, **more: int
) -> tuple[Tensor, Tensor, str]:
    scored = linear_weights(model, layers_of(model))
    plan = plan_for(model, scored, batches[0], Objective(problem))
    return *tangent_kernels(model, scored, batches, plan, problem, seed=seed, **more), plan.path


def jacobians_of(model: nn.Module, batches: Batches, kind: str = "bert") -> tuple[list, list]:
    """Of every sample by itself; and the weights of Linears of each layer."""
    members = [unit.members for unit in linear_weights(model, layers_of(model))]
    names = [name for some in members for name in some]
    masked = kind not in UNMASKED
    rows = single_rows(batches) if masked else rows_with_padding(batches)
    return [output_jacobian(model, row, names, masked=masked) for row in rows], members


def rows_with_padding(batches: Batches) -> Batches:
    return [
        {name: tensor[row : row + 1] for name, tensor in batch.items()}
        for batch in batches
        for row in range(len(batch["labels"]))
    ]


# These compute norms or positions in float32, whatever the weights are.
INNER_FLOAT32 = {"deberta", "funnel", "longformer", "modernbert"}


def assert_true_kernels(kind: str, problem: Problem, labels: int) -> None:
    model = tiny(kind, labels=labels, problem=problem)
    batches = batches_of(kind, problem, labels)
    found, residuals, _ = kernels_of(model, batches, problem)
    jacobians, members = jacobians_of(model, batches, kind)
    for kernel, names in zip(found, members, strict=True):
        expected = jacobian_kernel(jacobians, names)
        scale = float(expected.diagonal().max())
        exact = 1e-6 if kind in INNER_FLOAT32 else 1e-9
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
    feed(model, sketches, batches, objective, plan)
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
    assert any("weights of Linears, 3" in warning for warning in warnings)
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
