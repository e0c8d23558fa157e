"""Operations counted from sizes, against those that torch counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig

from surgery.models.blocks import find_blocks
from surgery.models.loading import HEAD_CLASSES
from surgery.models.shape import EncoderShape
from surgery.schemas.enums import Problem
from surgery.training.costs.flops import RowLength, TrainedSizes, forward_work, suffix_work

ROWS, TOKENS = 3, 40
SIZES: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256,
    "vocab_size": 50, "max_position_embeddings": 64, "attention_probs_dropout_prob": 0.1,
}  # fmt: skip
LENGTH = RowLength(TOKENS, TOKENS**2)


def build(kind: str = "bert") -> tuple[nn.Module, EncoderShape]:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SIZES)
    model = HEAD_CLASSES[Problem.CLASSIFICATION][type(config)](config).train()
    blocks = [block.parameters for block in find_blocks(model)]
    shape = EncoderShape(
        {"model_type": kind, **SIZES}, tuple(blocks), sum(blocks), 0, 0, 4 // len(blocks)
    )
    return model, shape


def counted(model: nn.Module, layers: list[int]) -> float:
    """Operations of a training step on these layers, a row.

    No gradient goes below the first products of the lowest one, which the formula takes in.
    """
    blocks = find_blocks(model)
    model.requires_grad_(False)
    for index in layers:
        blocks[index].module.requires_grad_(True)
    ids = torch.randint(5, 50, (ROWS, TOKENS))
    with FlopCounterMode(display=False) as counter:
        loss = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.sum()
        if layers:
            loss.backward()
    return counter.get_total_flops() / ROWS


@pytest.mark.parametrize("layers", [[0], [2], [3], [1, 3], [0, 1, 2, 3], []])
def test_a_step_is_counted_as_torch_counts_it(layers: list[int]) -> None:
    model, shape = build()
    trained = TrainedSizes({index: shape.blocks[index] for index in layers}, beside=2)
    prefix = forward_work(shape, LENGTH, 0, trained.lowest(shape))
    found = prefix + suffix_work(shape, LENGTH, trained)
    assert found == pytest.approx(counted(model, layers), rel=0.06)


def test_a_block_that_runs_four_times_counts_four_times() -> None:
    model, shape = build("albert")
    trained = TrainedSizes({0: shape.blocks[0]}, beside=2)
    assert suffix_work(shape, LENGTH, trained) == pytest.approx(counted(model, [0]), rel=0.06)


def test_the_units_are_those_of_one_layer() -> None:
    shape = EncoderShape({"model_type": "bert", "hidden_size": 8}, (10,) * 6, 60, 0, 0)
    row = RowLength(5, 0)  # attention has no weights: its units differ
    one = forward_work(shape, row, 0, 1)

    def step(*layers: int, below: bool = False) -> tuple[float, float]:
        trained = TrainedSizes(dict.fromkeys(layers, 10), 1, below=below)
        return (
            forward_work(shape, row, 0, trained.lowest(shape)) / one,
            suffix_work(shape, row, trained) / one,
        )

    assert step(*range(6)) == (0, 3 * 6)
    assert step(4, 5) == (4, 2 * 2 + 2)
    assert step(4, 5, below=True) == (0, 2 * 6 + 2)
    assert step() == (6, 0)
