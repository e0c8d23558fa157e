"""Log-likelihoods, their slopes and the directions that are squared, against brute force."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from surgery.data.tokens.sequences import IGNORED
from surgery.gradients.likelihood import (
    covariance_factor,
    directions,
    draw_noise,
    likelihood_slope,
    log_likelihood,
)
from surgery.schemas.enums import Fisher, Problem

LOGITS = st.lists(st.floats(-2000, 2000), min_size=2, max_size=6)
TAGS = torch.tensor([[IGNORED, 1, 0, IGNORED], [2, 2, IGNORED, IGNORED], [IGNORED] * 4])


def random_logits(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64) * 2


def all_directions(
    logits: Tensor, labels: Tensor, problem: Problem, fisher: Fisher, **noise: Tensor
) -> Tensor:
    return torch.stack(list(directions(logits, labels, problem, fisher, **noise)))


@given(LOGITS)
@settings(max_examples=200, deadline=None)
def test_factor_of_the_covariance_of_a_draw(values: list[float]) -> None:
    p = torch.softmax(torch.tensor(values, dtype=torch.float64), -1)
    factor = covariance_factor(p)
    assert factor.shape == (len(values), len(values) - 1)
    torch.testing.assert_close(
        factor @ factor.mT, torch.diag(p) - p.outer(p), rtol=1e-12, atol=1e-15
    )


def test_factor_keeps_the_digits_of_rare_classes() -> None:
    """1 − p of a class that is nearly certain is far below one in the last place of p."""
    p = torch.softmax(torch.tensor([0.0, -60.0, -90.0], dtype=torch.float64), -1)
    variances = (covariance_factor(p) ** 2).sum(-1)
    expected = [float(p[1] + p[2]), float(p[1]), float(p[2])]
    torch.testing.assert_close(variances.tolist(), expected, rtol=1e-12, atol=0)


def test_factor_of_two_classes_is_one_direction_and_of_a_certain_one_nothing() -> None:
    factor = covariance_factor(torch.tensor([0.25, 0.75], dtype=torch.float64))[:, 0]
    root = (0.25 * 0.75) ** 0.5
    assert factor.abs().tolist() == pytest.approx([root, root])
    assert factor.sum() == pytest.approx(0)
    assert not covariance_factor(torch.tensor([0.0, 1.0, 0.0])).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_factor_of_a_batch_keeps_its_shape(dtype: torch.dtype) -> None:
    p = torch.softmax(random_logits(2, 5, 4), -1)
    factor = covariance_factor(p)
    assert factor.shape == (2, 5, 4, 3)
    torch.testing.assert_close(factor[1, 3], covariance_factor(p[1, 3]))
    [direction, *_] = directions(
        random_logits(3, 4).to(dtype), torch.tensor([0, 1, 2]), Problem.CLASSIFICATION, Fisher.EXACT
    )
    assert direction.dtype is dtype


@pytest.mark.parametrize(
    ("problem", "logits", "labels"),
    [
        (Problem.CLASSIFICATION, random_logits(3, 4), torch.tensor([0, 3, 1])),
        (Problem.MULTIPLE_CHOICE, random_logits(3, 2), torch.tensor([0, 1, 1])),
        (Problem.REGRESSION, random_logits(3, 1), random_logits(3, seed=1)),
        (Problem.TOKEN_CLASSIFICATION, random_logits(3, 4, 3), TAGS),
    ],
)  # fmt: skip
def test_slope_is_the_gradient_of_the_likelihood(
    problem: Problem, logits: Tensor, labels: Tensor
) -> None:
    asked = logits.clone().requires_grad_(True)
    values = log_likelihood(asked, labels, problem)
    assert values.shape == (3,)
    [gradient] = torch.autograd.grad(values.sum(), asked)
    torch.testing.assert_close(likelihood_slope(logits, labels, problem), gradient)
    [direction] = directions(asked, labels, problem, Fisher.EMPIRICAL)
    torch.testing.assert_close(direction, gradient)


def test_likelihood_of_tags_is_the_sum_over_those_there_are() -> None:
    logits = random_logits(3, 4, 3)
    logs = logits.log_softmax(-1)
    expected = [logs[0, 1, 1] + logs[0, 2, 0], logs[1, 0, 2] + logs[1, 1, 2], torch.tensor(0.0)]
    found = log_likelihood(logits, TAGS, Problem.TOKEN_CLASSIFICATION)
    assert found.tolist() == pytest.approx([float(value) for value in expected])


def test_exact_directions_of_classes_are_the_covariance_of_the_slope() -> None:
    logits, labels = random_logits(3, 4), torch.tensor([0, 3, 1])
    found = all_directions(logits, labels, Problem.CLASSIFICATION, Fisher.EXACT)
    assert len(found) == 3
    for row in range(3):
        p = logits[row].softmax(-1)
        slopes = torch.eye(4, dtype=torch.float64) - p
        expected = sum(p[c] * slopes[c].outer(slopes[c]) for c in range(4))
        torch.testing.assert_close(found[:, row].T @ found[:, row], expected)


def test_exact_directions_of_tags_are_the_covariance_over_all_sequences() -> None:
    logits = random_logits(3, 4, 3)
    found = all_directions(logits, TAGS, Problem.TOKEN_CLASSIFICATION, Fisher.EXACT)
    assert len(found) == 4  # at most two tagged tokens a row, two directions each
    for row in range(3):
        places = (TAGS[row] != IGNORED).nonzero().flatten().tolist()
        expected = torch.zeros(12, 12, dtype=torch.float64)
        for sequence in itertools.product(range(3), repeat=len(places)):
            tags = torch.full((1, 4), IGNORED)
            tags[0, places] = torch.tensor(sequence, dtype=torch.long)
            slope = likelihood_slope(logits[row : row + 1], tags, Problem.TOKEN_CLASSIFICATION)
            value = log_likelihood(logits[row : row + 1], tags, Problem.TOKEN_CLASSIFICATION)
            expected += value.exp() * slope.flatten().outer(slope.flatten())
        flat = found[:, row].flatten(1)
        torch.testing.assert_close(flat.T @ flat, expected, rtol=1e-9, atol=1e-15)


def test_a_batch_without_tags_has_no_exact_direction() -> None:
    tags = torch.full((2, 3), IGNORED)
    logits = random_logits(2, 3, 3)
    assert not list(directions(logits, tags, Problem.TOKEN_CLASSIFICATION, Fisher.EXACT))


def test_exact_direction_of_a_regression_is_one() -> None:
    found = all_directions(random_logits(3, 1), torch.zeros(3), Problem.REGRESSION, Fisher.EXACT)
    assert torch.equal(found, torch.ones(1, 3, 1, dtype=torch.float64))


@pytest.mark.parametrize("problem", [Problem.CLASSIFICATION, Problem.REGRESSION])
def test_draws_depend_on_seed_and_row_alone(problem: Problem) -> None:
    together = draw_noise([7, 2, 9], 3, 5, problem)
    assert together.shape == (3, 3, 1)
    for place, row in enumerate([7, 2, 9]):
        assert torch.equal(draw_noise([row], 3, 5, problem)[0], together[place])
    assert not torch.equal(draw_noise([7], 3, 6, problem)[0], together[0])
    assert len(set(together.flatten().tolist())) == 9


def test_padding_changes_no_draw_of_a_tag() -> None:
    logits = random_logits(1, 4, 3)
    tags = torch.tensor([[IGNORED, 0, 0, 0]])
    seen = []
    for left, right in ((0, 0), (3, 0), (0, 2)):
        padded = torch.nn.functional.pad(logits, (0, 0, left, right))
        own = torch.nn.functional.pad(tags, (left, right), value=IGNORED)
        noise = draw_noise([4], 1, 0, Problem.TOKEN_CLASSIFICATION, own.shape[1])
        [found] = directions(padded, own, Problem.TOKEN_CLASSIFICATION, Fisher.SAMPLED, noise)
        seen.append(found[:, left : left + 4])
        assert not found[own == IGNORED].any()
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_classes_are_drawn_as_often_as_the_model_says() -> None:
    rows = 20_000
    logits = torch.tensor([[0.0, 1.0, -1.0, -40.0]], dtype=torch.float64).expand(rows, 4)
    labels = torch.zeros(rows, dtype=torch.long)
    noise = draw_noise(list(range(rows)), 1, 3, Problem.CLASSIFICATION)
    [found] = directions(logits, labels, Problem.CLASSIFICATION, Fisher.SAMPLED, noise)
    p = logits[0].softmax(-1)
    chosen = (found + p > 0.5).double()
    assert chosen.sum(1).eq(1).all()
    error = (p * (1 - p) / rows).sqrt()
    assert ((chosen.mean(0) - p).abs() <= 4 * error).all()


def test_numbers_are_drawn_with_unit_variance() -> None:
    rows = 20_000
    noise = draw_noise(list(range(rows)), 1, 3, Problem.REGRESSION)
    logits = torch.full((rows, 1), 5.0)
    [found] = directions(logits, torch.zeros(rows), Problem.REGRESSION, Fisher.SAMPLED, noise)
    assert float(found.mean()) == pytest.approx(0, abs=4 / rows**0.5)
    assert float(found.var()) == pytest.approx(1, abs=4 * (2 / rows) ** 0.5)


def test_several_draws_share_the_weight_of_one() -> None:
    """Σ_v v vᵀ over the draws is their mean, and tends to the exact covariance."""
    logits, labels = random_logits(1, 3), torch.tensor([0])
    noise = draw_noise([0], 4000, 0, Problem.CLASSIFICATION)
    found = all_directions(logits, labels, Problem.CLASSIFICATION, Fisher.SAMPLED, noise=noise)
    exact = all_directions(logits, labels, Problem.CLASSIFICATION, Fisher.EXACT)
    torch.testing.assert_close(
        found[:, 0].T @ found[:, 0], exact[:, 0].T @ exact[:, 0], rtol=0, atol=0.03
    )


@pytest.mark.parametrize("fisher", [Fisher.SAMPLED, Fisher.EXACT, Fisher.EMPIRICAL])
def test_extreme_logits_give_finite_directions(fisher: Fisher) -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [0.0, 0.0, 1e4]])
    noise = draw_noise([0, 1], 2, 0, Problem.CLASSIFICATION)
    found = all_directions(
        logits, torch.tensor([1, 2]), Problem.CLASSIFICATION, fisher, noise=noise
    )
    assert torch.isfinite(found).all()
