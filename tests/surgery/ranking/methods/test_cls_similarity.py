"""How far each layer turns the pooled token, against its twin, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from surgery.errors import ModelUnsupported, ScoresNotFinite
from surgery.models.blocks import Block, find_blocks
from surgery.ranking.methods import cls_similarity
from surgery.schemas.enums import Problem
from tests.support.models.encoders import (
    CONFIGS,
    LEFT_PADDED,
    NO_CHOICES,
    UNMASKED,
    padded_batch,
    rounding,
    tiny,
    unequal_batches,
)
from tests.support.reference.methods import single_rows, turned_states

Batches = list[dict[str, Tensor]]


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
    blocks, batches = find_blocks(model), unequal_batches(kind)
    if kind in UNMASKED:
        batches = [batch for batch in batches for batch in single_rows([batch])]
    scores = cls_similarity(model, blocks, iter(batches))
    expected = expected_turns(kind, model, blocks, batches).numpy()
    assert scores.per_sample is not None
    assert scores.per_sample.shape == (9, len(blocks))
    # Distances near zero are differences of cosines near one: the bound is of those.
    close = rounding(kind)
    np.testing.assert_allclose(scores.per_sample, expected, rtol=close, atol=1e-3 * close)
    np.testing.assert_allclose(scores.values, expected.mean(0), rtol=close)
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
    first = cls_similarity(model, blocks, unequal_batches("bert")).values
    second = cls_similarity(model, blocks, unequal_batches("bert")).values
    assert (first == second).all()  # without dropout
    assert model.training
    assert not any(block.module._forward_hooks for block in blocks)


def test_a_block_that_does_not_run() -> None:
    model = tiny("bert")
    blocks = find_blocks(model)
    spare = Block("encoder.layer.9", 3, tiny("bert").bert.encoder.layer[0])
    with pytest.raises(ModelUnsupported, match=r"encoder\.layer\.9 took no part"):
        cls_similarity(model, [*blocks, spare], unequal_batches("bert"))


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
        cls_similarity(model, find_blocks(model), unequal_batches("bert"))


def test_no_batch_is_an_error() -> None:
    model = tiny("bert")
    with pytest.raises(ValueError, match="no batch"):
        cls_similarity(model, find_blocks(model), [])
