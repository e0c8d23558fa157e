"""Scores by gradient and by position against their obvious twins, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from surgery.errors import ScoresNotFinite
from surgery.gradients.accumulators import Means
from surgery.gradients.engine import plan_for, score_samples
from surgery.gradients.passes import Objective
from surgery.models.blocks import Unit, find_blocks, units_of
from surgery.ranking.methods import by_position, gradient_scores
from surgery.ranking.scores import Scores
from surgery.schemas.enums import Granularity, Method, Problem
from tests.support.models.encoders import tiny, unequal_batches
from tests.support.reference.methods import mean_gradient, single_rows

Batches = list[dict[str, Tensor]]


def gradients(
    model: nn.Module, units: list[Unit], batches: Batches, problem: Problem
) -> dict[Method, Scores]:
    objective = Objective(problem)
    plan = plan_for(model, units, batches[0], objective)
    halves, sizes = [], []
    for side in (0, 1):
        rows = [row for place, row in enumerate(single_rows(batches)) if place % 2 == side]
        found = score_samples(model, plan, rows, objective, kinds=["means"])
        assert found.means is not None
        sizes.append(len(found.numbers))
        halves.append(found.means)
    return gradient_scores((halves[0], halves[1]), units, (sizes[0], sizes[1]))


def formulas(model: nn.Module, units: list[Unit], mean: dict[str, Tensor]) -> dict[Method, list]:
    """The three scores from ḡ, one unit after the other."""
    weights = {n: p.detach() for n, p in model.named_parameters()}
    found: dict[Method, list] = {
        Method.GRADIENT_NORM: [], Method.RELATIVE_GRADIENT_NORM: [], Method.SNIP: []
    }  # fmt: skip
    for unit in units:
        pairs = [(mean[name], weights[name]) for name in unit.members]
        found[Method.GRADIENT_NORM].append(torch.cat([g.flatten() for g, _ in pairs]).norm())
        found[Method.RELATIVE_GRADIENT_NORM].append(
            sum(g.norm() / w.norm() for g, w in pairs) / len(pairs)
        )
        found[Method.SNIP].append(sum((g * w).abs().sum() for g, w in pairs))
    return found


@pytest.mark.parametrize("granularity", Granularity)
@pytest.mark.parametrize(("kind", "labels"), [("bert", 3), ("bert", 1), ("deberta-v2", 2)])
def test_gradient_scores_equal_the_twin(kind: str, labels: int, granularity: Granularity) -> None:
    model, batches = tiny(kind, labels=labels), unequal_batches(kind, labels)
    units = units_of(model, find_blocks(model), granularity)
    problem = Problem.REGRESSION if labels == 1 else Problem.CLASSIFICATION
    found = gradients(model, units, batches, problem)
    rows = [row for batch in batches for row in single_rows([batch])]
    expected = formulas(model, units, mean_gradient(model, rows, regression=labels == 1))
    for method, values in expected.items():
        scores = found[method]
        assert scores.units == units
        np.testing.assert_allclose(scores.values, values, rtol=1e-9, atol=1e-15)
    for side in (0, 1):
        half = mean_gradient(model, rows[side::2], regression=labels == 1)
        for method, values in formulas(model, units, half).items():
            assert found[method].halves is not None
            np.testing.assert_allclose(found[method].halves[side], values, rtol=1e-9, atol=1e-15)


def test_a_tensor_of_zeros_has_no_part_in_the_relative_norm() -> None:
    model, batches = tiny("bert"), unequal_batches("bert")
    block = find_blocks(model)[1].module
    with torch.no_grad():
        block.output.dense.bias.zero_()
    tensors = units_of(model, find_blocks(model), Granularity.TENSOR)
    place = next(n for n, u in enumerate(tensors) if u.name.endswith("1.output.dense.bias"))
    single = gradients(model, tensors, batches, Problem.CLASSIFICATION)
    assert single[Method.GRADIENT_NORM].values[place] > 0
    assert single[Method.RELATIVE_GRADIENT_NORM].values[place] == 0
    layers = units_of(model, find_blocks(model))
    whole = gradients(model, layers, batches, Problem.CLASSIFICATION)
    ratios = single[Method.RELATIVE_GRADIENT_NORM].values
    others = [n for n, u in enumerate(tensors) if u.index == 1 and n != place]
    found = whole[Method.RELATIVE_GRADIENT_NORM].values[1]
    assert found == pytest.approx(ratios[others].mean(), rel=1e-12)


def test_gradients_that_are_not_numbers() -> None:
    model = tiny("bert")
    units = units_of(model, find_blocks(model))
    scored = {name: p for name, p in model.named_parameters() if name in units[1].members}
    first, second = Means(scored), Means(scored)
    second.sums[units[1].members[0]].view(-1)[0] = float("nan")
    with pytest.raises(ScoresNotFinite):
        gradient_scores((first, second), units[1:2], (2, 2))


def test_positions() -> None:
    model = tiny("bert")
    units = units_of(model, find_blocks(model), Granularity.TENSOR)
    count = len(units)
    last, first = (by_position(units, m, 0) for m in (Method.LAST, Method.FIRST))
    assert last.values.tolist() == list(range(1, count + 1))
    assert first.values.tolist() == last.values.tolist()[::-1]
    drawn = [by_position(units, Method.RANDOM, seed).values.tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert sorted(drawn[2]) == last.values.tolist()
