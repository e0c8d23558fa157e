"""Rows with several labels: the Fisher information of independent Bernoulli outputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from surgery.gradients.engine import fisher_scores
from surgery.gradients.likelihood import (
    directions,
    draw_noise,
    likelihood_slope,
    log_likelihood,
)
from surgery.gradients.passes import Objective
from surgery.models.blocks import find_blocks, units_of
from surgery.schemas.enums import Fisher, Problem
from tests.support.models.encoders import padded_batch, tiny
from tests.support.reference.gradients import layer_traces, squared_gradients

PROBLEM = Problem.MULTI_LABEL
LABELS = 4
# The longest row of the second batch has as many tokens as there are labels.
LENGTHS = ([11, 4, 7], [4, 3, 4], [9, 6])


def batches_of(kind: str) -> list[dict[str, Tensor]]:
    return [
        padded_batch(lengths, labels=LABELS, seed=seed, kind=kind, problem=PROBLEM)
        for seed, lengths in enumerate(LENGTHS)
    ]


@pytest.mark.parametrize("fisher", Fisher)
@pytest.mark.parametrize("kind", ["bert", "modernbert", "deberta-v2"])
def test_scores_equal_the_slow_twin_over_all_sets_of_labels(kind: str, fisher: Fisher) -> None:
    model, batches = tiny(kind, labels=LABELS, problem=PROBLEM), batches_of(kind)
    objective = Objective(PROBLEM, fisher, draws=3, seed=5)
    blocks = find_blocks(model)
    found = fisher_scores(model, units_of(model, blocks), batches, objective).per_sample
    squares = squared_gradients(model, batches, PROBLEM, fisher, draws=3, seed=5)
    expected = layer_traces(squares, [(block.name, block.module) for block in blocks], model)
    assert found is not None
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)


def some_logits() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, LABELS, generator=generator, dtype=torch.float64) * 2
    return logits, torch.randint(0, 2, (3, LABELS), generator=generator).float()


def test_the_slope_is_the_gradient_of_the_likelihood() -> None:
    logits, marks = some_logits()
    asked = logits.clone().requires_grad_(True)
    values = log_likelihood(asked, marks, PROBLEM)
    expected = [
        sum(
            float(z.sigmoid().log() if m else (-z).sigmoid().log())
            for z, m in zip(*row, strict=True)
        )
        for row in zip(logits, marks, strict=True)
    ]
    assert values.tolist() == pytest.approx(expected)
    [gradient] = torch.autograd.grad(values.sum(), asked)
    torch.testing.assert_close(likelihood_slope(logits, marks, PROBLEM), gradient)


def test_exact_directions_are_the_covariance_of_independent_labels() -> None:
    logits, marks = some_logits()
    found = torch.stack(list(directions(logits, marks, PROBLEM, Fisher.EXACT)))
    assert found.shape == (LABELS, 3, LABELS)
    p = logits.sigmoid()
    for row in range(3):
        covariance = torch.diag(p[row] * (1 - p[row]))
        torch.testing.assert_close(found[:, row].T @ found[:, row], covariance)


def test_each_label_is_drawn_for_itself_as_often_as_the_model_says() -> None:
    rows = 20_000
    logits = torch.tensor([[0.0, 2.0, -40.0]], dtype=torch.float64).expand(rows, 3)
    noise = draw_noise(list(range(rows)), 1, 3, PROBLEM, 3)
    [slopes] = directions(logits, torch.zeros(rows, 3), PROBLEM, Fisher.SAMPLED, noise)
    p = logits[0].sigmoid()
    drawn = (slopes + p > 0.5).double()
    error = (p * (1 - p) / rows).sqrt()
    assert ((drawn.mean(0) - p).abs() <= 4 * error).all()
    both = (drawn[:, 0] * drawn[:, 1]).mean()
    assert float(both) == pytest.approx(float(p[0] * p[1]), abs=4 * float(error[0]))


@pytest.mark.parametrize("fisher", Fisher)
def test_extreme_logits_give_finite_directions(fisher: Fisher) -> None:
    logits = torch.tensor([[1e4, -1e4], [0.0, 80.0]])
    noise = draw_noise([0, 1], 2, 0, PROBLEM, 2)
    found = directions(logits, torch.tensor([[0.0, 1.0]] * 2), PROBLEM, fisher, noise)
    assert all(torch.isfinite(each).all() for each in found)
