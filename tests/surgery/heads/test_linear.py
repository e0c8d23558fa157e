"""One linear layer fitted to convergence, against closed forms and scikit-learn in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from surgery.heads.linear import FOLDS, RIDGES, LinearTask, fold_masks, ridge_scale, solve
from surgery.schemas.enums import Problem


def inputs(rows: int, seed: int = 0) -> Tensor:
    """Features of unequal size, far from zero, that depend on one another."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(rows, 6, generator=generator, dtype=torch.float64)
    return drawn @ torch.randn(6, 6, generator=generator, dtype=torch.float64) + 3.0


def regression(rows: int = 40) -> LinearTask:
    x = inputs(rows)
    noise = torch.randn(rows, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = x[:, 0] - 0.5 * x[:, 2] + noise + 4.0
    return LinearTask(x, labels, torch.arange(rows), rows, Problem.REGRESSION)


def classification(classes: int, rows: int = 90) -> LinearTask:
    x = inputs(rows)
    noise = torch.randn(rows, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    order = (x[:, 0] - x[:, 1] + noise).argsort().argsort()
    labels = order * classes // rows
    return LinearTask(x, labels, torch.arange(rows), rows, Problem.CLASSIFICATION)


def begun(classes: int, *, biased: bool = True) -> tuple[Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(classes, 6, generator=generator, dtype=torch.float64)
    return weight, torch.ones(classes, dtype=torch.float64) if biased else None


def ridge_regression(task: LinearTask, ridge: float, *, biased: bool) -> tuple[Tensor, float]:
    """The slow twin: the normal equations, with a column of ones that is not penalised."""
    x, y = task.inputs.numpy(), task.labels.numpy()
    columns = np.column_stack([x, np.ones(len(x))]) if biased else x
    penalty = np.diag([ridge] * x.shape[1] + [0.0] * biased)
    found = np.linalg.solve(columns.T @ columns / len(x) + penalty, columns.T @ y / len(x))
    return torch.from_numpy(found[:6]), float(found[6]) if biased else 0.0


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("ridge", [1e-3, 0.3, 20.0])
def test_a_regression_is_ridge_regression(ridge: float, *, biased: bool) -> None:
    task = regression()
    found = solve(task, begun(1, biased=biased), ridge, 0)
    weight, bias = ridge_regression(task, ridge, biased=biased)
    torch.testing.assert_close(found.layer[0][0], weight, rtol=1e-9, atol=1e-12)
    assert (found.layer[1] is not None) == biased
    assert float(found.layer[1] if found.layer[1] is not None else 0.0) == pytest.approx(bias)
    assert found.iterations == 0


def test_a_fitted_bias_leaves_no_mean_residual() -> None:
    task = regression()
    residuals = task.labels - F.linear(task.inputs, *solve(task, begun(1), 50.0, 0).layer)[:, 0]
    assert abs(float(residuals.mean())) < 1e-10


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("ridge", [1e-3, 0.1, 10.0])
def test_classes_are_multinomial_regression(classes: int, ridge: float) -> None:
    task = classification(classes)
    found, bias = solve(task, begun(classes), ridge, 0).layer
    assert bias is not None
    # scikit-learn penalises the sum over rows; for two classes with one vector, not with two.
    strength = 1 / (ridge * task.rows) * (2 if classes == 2 else 1)
    twin = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000)
    twin.fit(task.inputs.numpy(), task.labels.numpy())
    expected = torch.from_numpy(twin.coef_)
    if classes == 2:
        found, bias = found[1:] - found[:1], bias[1:] - bias[:1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    offset = torch.from_numpy(twin.intercept_)
    torch.testing.assert_close(bias - bias.mean(), offset - offset.mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ridge", [1e-3, 0.1, 10.0])
def test_several_labels_are_a_logistic_regression_each(ridge: float) -> None:
    x = inputs(90)
    marks = torch.stack([x[:, 0] > x[:, 1], x[:, 2] > x[:, 2].mean() + 1, x[:, 3] < 3], 1).double()
    task = LinearTask(x, marks, torch.arange(90), 90, Problem.MULTI_LABEL)
    found, bias = solve(task, begun(3), ridge, 0).layer
    assert bias is not None
    for label, own in enumerate(marks.T):
        twin = LogisticRegression(C=1 / (ridge * 90), tol=1e-10, max_iter=10_000)
        twin.fit(x.numpy(), own.numpy())
        torch.testing.assert_close(
            found[label], torch.from_numpy(twin.coef_[0]), rtol=1e-4, atol=2e-5
        )
        assert float(bias[label]) == pytest.approx(float(twin.intercept_[0]), rel=1e-4, abs=1e-4)


def test_the_start_does_not_matter() -> None:
    task = classification(3)
    first = solve(task, begun(3), 0.05, 0).layer[0]
    second = solve(task, (torch.zeros(3, 6).double(), torch.zeros(3).double()), 0.05, 0).layer[0]
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)


def test_the_ridge_of_a_regression_has_the_least_error_on_rows_left_out() -> None:
    task = regression(12)
    errors = {}
    for ridge in (each * ridge_scale(task.inputs, 12) for each in RIDGES):
        total = 0.0
        for row in range(12):
            others = [other for other in range(12) if other != row]
            rest = LinearTask(
                task.inputs[others], task.labels[others], torch.arange(11), 11, task.problem
            )
            # The penalty of the whole objective is the same with one row less.
            weight, bias = ridge_regression(rest, ridge * 12 / 11, biased=True)
            total += float(task.labels[row] - task.inputs[row] @ weight - bias) ** 2
        errors[ridge] = total
    found = solve(task, begun(1), None, 0).ridge
    assert found == pytest.approx(min(errors, key=errors.__getitem__))
    assert found != min(errors)
    assert found != max(errors)


def test_the_ridge_of_classes_has_the_least_loss_on_held_out_folds() -> None:
    task = classification(2, 60)
    losses = {}
    for ridge in (each * ridge_scale(task.inputs, 60) for each in RIDGES):
        losses[ridge] = 0.0
        for mask in fold_masks(60, FOLDS, 7, task.inputs):
            fold = mask > 0
            rest = LinearTask(
                task.inputs[~fold], task.labels[~fold], torch.arange(48), 48, task.problem
            )
            logits = F.linear(task.inputs[fold], *solve(rest, begun(2), ridge, 0).layer)
            losses[ridge] += float(F.cross_entropy(logits, task.labels[fold], reduction="sum"))
    assert solve(task, begun(2), None, 7).ridge == min(losses, key=losses.__getitem__)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_few_rows_are_enough(rows: int) -> None:
    for task, outputs in ((regression(rows), 1), (classification(2, rows), 2)):
        found = solve(task, begun(outputs), None, 0)
        assert found.ridge > 0
        assert bool(found.layer[0].isfinite().all())


def test_folds_are_disjoint_and_cover_all_rows() -> None:
    masks = fold_masks(23, 5, 0, torch.zeros(1))
    assert torch.equal(torch.stack(masks).sum(0), torch.ones(23))
    assert {int(mask.sum()) for mask in masks} == {4, 5}
