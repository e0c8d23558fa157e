"""Methods beside the Fisher score against their obvious twins, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from encoders import CONFIGS, LEFT_PADDED, NO_CHOICES, UNMASKED, padded_batch, tiny
from reference_methods import mean_gradient, single_rows, spectrum_ratio, turned_states
from torch import Tensor, nn

from surgery.architecture import Block, find_blocks
from surgery.errors import ModelUnsupported, ScoresNotFinite
from surgery.fisher import feed, plan_for, scored_parameters
from surgery.methods import (
    by_position,
    cls_similarity,
    gradient_scores,
    linear_weights,
    signal_to_noise,
    weight_snr,
)
from surgery.passes import Objective
from surgery.scores import Scores
from surgery.sums import Means
from surgery.terms import Granularity, Method, Problem
from surgery.units import Unit, units_of

Batches = list[dict[str, Tensor]]
LENGTHS = ([11, 5, 7], [9, 9], [3, 12, 5, 6])


def batches_of(kind: str, labels: int = 2) -> Batches:
    lengths = [[max(5, n) for n in some] for some in LENGTHS] if kind == "funnel" else LENGTHS
    return [
        padded_batch(some, labels=labels, seed=seed, kind=kind) for seed, some in enumerate(lengths)
    ]


def gradients(
    model: nn.Module, units: list[Unit], batches: Batches, problem: Problem
) -> dict[Method, Scores]:
    objective = Objective(problem)
    plan = plan_for(model, units, batches[0], objective)
    halves, sizes = [], []
    for side in (0, 1):
        rows = [row for place, row in enumerate(single_rows(batches)) if place % 2 == side]
        means = Means(scored_parameters(model, plan))
        sizes.append(len(feed(model, means, rows, objective, plan)))
        halves.append(means)
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
    model, batches = tiny(kind, labels=labels), batches_of(kind, labels)
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
    model, batches = tiny("bert"), batches_of("bert")
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


@pytest.mark.parametrize("kind", CONFIGS)
def test_weight_snr_equals_the_twin(kind: str) -> None:
    model = tiny(kind)
    units = units_of(model, find_blocks(model))
    scores = weight_snr(model, units)
    assert scores.units == units
    for unit, value in zip(units, scores.values, strict=True):
        ratios = [
            spectrum_ratio(module.weight.detach().numpy())
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and f"{name}.weight" in unit.members
        ]
        assert value == pytest.approx(np.mean(ratios), rel=1e-9)


def test_weight_snr_leaves_out_what_has_no_matrix() -> None:
    model = tiny("bert")
    units = units_of(model, find_blocks(model), Granularity.TENSOR)
    scores = weight_snr(model, units)
    assert len(scores.units) == len(scores.values) == 3 * 6
    assert all(".dense.weight" in u.name or ".self." in u.name for u in scores.units)
    norms = [unit for unit in units if "LayerNorm" in unit.name]
    with pytest.raises(ModelUnsupported, match="weight_snr"):
        weight_snr(model, norms)


def test_linear_weights_are_the_matrices_of_linears() -> None:
    model = tiny("xlnet")
    units = linear_weights(model, units_of(model, find_blocks(model)))
    names = [name.rpartition("layer.")[2] for unit in units for name in unit.members]
    expected = [f"{n}.ff.layer_{part}.weight" for n in range(3) for part in (1, 2)]
    assert names == expected  # its attention holds three-dimensional tensors of its own
    assert [unit.parameters for unit in units] == [2 * 16 * 24] * 3


def spectrum(values: list[float]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    count = len(values)
    left, right = (
        torch.linalg.qr(torch.randn(count, count, generator=generator, dtype=torch.float64))[0]
        for _ in range(2)
    )
    return left @ torch.tensor(values, dtype=torch.float64).diag() @ right


def test_signal_is_what_lies_above_the_edge() -> None:
    noise = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7]
    # Quartiles of these and the two outliers: 1.225 and 1.675, so the edge is 2 · 0.45 / 1.349,
    # below them all.
    assert signal_to_noise(spectrum([*noise, 50.0, 20.0])) == pytest.approx(
        (sum(noise[1:]) + 70) / 1.0, rel=1e-9
    )
    wide = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    # Quartiles 1.75 and 5.25: the edge is 5.189.
    assert signal_to_noise(spectrum(wide)) == pytest.approx(13 / 15, rel=1e-9)
    assert signal_to_noise(spectrum([*wide, 100.0])) > signal_to_noise(spectrum(wide))


def test_signal_to_noise_is_finite_at_the_ends() -> None:
    assert signal_to_noise(torch.zeros(4, 6)) == 0
    assert signal_to_noise(torch.ones(1, 6)) == 0  # one singular value: nothing to compare
    bulk = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]  # the edge is 1.48
    assert signal_to_noise(spectrum(bulk)) == 0
    # All above: the smallest is taken for noise.
    assert signal_to_noise(torch.eye(5)) == pytest.approx(4)
    low_rank = torch.ones(6, 8)  # all others are rounding
    assert np.isfinite(signal_to_noise(low_rank))
    with pytest.raises(ScoresNotFinite):
        signal_to_noise(torch.full((3, 3), float("inf")))


def expected_turns(kind: str, model: nn.Module, blocks: list[Block], batches: Batches) -> Tensor:
    left = kind in LEFT_PADDED
    return torch.tensor(
        [
            turned_states(
                model, [block.module for block in blocks], row, token=-1 if left else 0,
                tokens_first=left, masked=kind not in UNMASKED,
            )
            for row in single_rows(batches)
        ],
        dtype=torch.float64,
    )  # fmt: skip


@pytest.mark.parametrize("kind", CONFIGS)
def test_cls_similarity_equals_the_twin(kind: str) -> None:
    model = tiny(kind)
    blocks, batches = find_blocks(model), batches_of(kind)
    if kind in UNMASKED:
        batches = [batch for batch in batches for batch in single_rows([batch])]
    scores = cls_similarity(model, blocks, iter(batches))
    expected = expected_turns(kind, model, blocks, batches).numpy()
    assert scores.per_sample is not None
    assert scores.per_sample.shape == (9, len(blocks))
    np.testing.assert_allclose(scores.per_sample, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(scores.values, expected.mean(0), rtol=1e-9)
    assert [unit.name for unit in scores.units] == [block.name for block in blocks]
    assert len(set(scores.values.round(12).tolist())) == len(blocks)


@pytest.mark.parametrize("kind", ["bert", "xlnet"])
def test_as_many_rows_as_tokens(kind: str) -> None:
    """XLNet's states have the tokens first: which is which must not hang on the sizes."""
    model = tiny(kind)
    blocks, batch = find_blocks(model), padded_batch([4, 4, 4, 4], kind=kind)
    found = cls_similarity(model, blocks, [batch]).per_sample
    expected = expected_turns(kind, model, blocks, [batch])
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-9)


@pytest.mark.parametrize("kind", ["bert", "xlnet", "albert"])
def test_choices_are_averaged(kind: str) -> None:
    assert kind not in NO_CHOICES
    model = tiny(kind, problem=Problem.MULTIPLE_CHOICE)
    blocks = find_blocks(model)
    batch = padded_batch([6, 3], kind=kind, problem=Problem.MULTIPLE_CHOICE)  # 2 × 3 = 6 tokens
    texts = [
        {
            "input_ids": batch["input_ids"][row, choice][own][None, None],
            "attention_mask": own[own][None, None].long(),
            "labels": torch.zeros(1),
        }
        for row in range(2)
        for choice in range(3)
        for own in [batch["attention_mask"][row, choice].bool()]
    ]
    left = kind in LEFT_PADDED
    expected = torch.tensor(
        [
            turned_states(
                model, [block.module for block in blocks], text, token=-1 if left else 0,
                tokens_first=left, masked=True,
            )
            for text in texts
        ],
        dtype=torch.float64,
    )  # fmt: skip
    expected = expected.reshape(2, 3, len(blocks)).mean(1)
    found = cls_similarity(model, blocks, [batch]).per_sample
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-9)


def test_rows_are_in_the_order_of_the_samples() -> None:
    model = tiny("bert")
    blocks, batch = find_blocks(model), padded_batch([11, 4, 7, 9])
    expected = cls_similarity(model, blocks, [batch]).per_sample
    order = torch.tensor([2, 0, 3, 1])
    moved = [
        {name: tensor[part] for name, tensor in batch.items()} | {"sample": part}
        for part in order.split(3)
    ]
    assert expected is not None
    np.testing.assert_allclose(cls_similarity(model, blocks, moved).per_sample, expected, rtol=1e-9)


def test_cls_similarity_leaves_the_model_as_it_was() -> None:
    model = tiny("bert").train()
    blocks = find_blocks(model)
    first = cls_similarity(model, blocks, batches_of("bert")).values
    second = cls_similarity(model, blocks, batches_of("bert")).values
    assert (first == second).all()  # without dropout
    assert model.training
    assert not any(block.module._forward_hooks for block in blocks)


def test_a_block_that_does_not_run() -> None:
    model = tiny("bert")
    blocks = find_blocks(model)
    spare = Block("encoder.layer.9", 3, tiny("bert").bert.encoder.layer[0])
    with pytest.raises(ModelUnsupported, match=r"encoder\.layer\.9 took no part"):
        cls_similarity(model, [*blocks, spare], batches_of("bert"))


def test_a_pooled_token_that_is_not_the_first() -> None:
    model = tiny("funnel")
    batch = padded_batch([9, 5])
    padded = {
        name: t if t.dim() == 1 else t.flip(1).contiguous() for name, t in batch.items()
    }  # on the left
    with pytest.raises(ModelUnsupported, match="pools tokens"):
        cls_similarity(model, find_blocks(model), [padded])


def test_states_that_are_not_numbers() -> None:
    model = tiny("bert")
    find_blocks(model)[1].module.output.dense.weight.data[0] = float("nan")
    with pytest.raises(ScoresNotFinite):
        cls_similarity(model, find_blocks(model), batches_of("bert"))


def test_no_batch_is_an_error() -> None:
    model = tiny("bert")
    with pytest.raises(ValueError, match="no batch"):
        cls_similarity(model, find_blocks(model), [])


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
