"""Blocks are found by structure, and headers tell the same as modules."""

from __future__ import annotations

import pytest
from encoders import CONFIGS, tiny
from torch import nn

from surgery.architecture import (
    block_of_parameter,
    encoder_of,
    find_blocks,
    head_parameters,
)
from surgery.errors import ModelUnsupported
from surgery.headers import layers_of

FOLDERS = {"distilbert": "transformer.layer", "modernbert": "layers"}


def sizes_of(module: nn.Module) -> dict[str, int]:
    return {name: tensor.numel() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("model_type", CONFIGS)
def test_blocks_have_the_checkpoint_s_own_names(model_type: str) -> None:
    folder = FOLDERS.get(model_type, "encoder.layer")
    for model in (tiny(model_type), encoder_of(tiny(model_type))):
        blocks = find_blocks(model)
        assert [block.name for block in blocks] == [f"{folder}.{index}" for index in range(3)]
        assert [block.index for block in blocks] == [0, 1, 2]
        encoder = dict(encoder_of(model).named_modules())
        assert all(encoder[block.name] is block.module for block in blocks)


@pytest.mark.parametrize("model_type", CONFIGS)
def test_headers_tell_the_same_blocks(model_type: str) -> None:
    model = tiny(model_type)
    prefix = str(model.base_model_prefix)
    expected = [(block.name, block.index, block.parameters) for block in find_blocks(model)]
    for sizes in (sizes_of(model), sizes_of(encoder_of(model))):
        backwards = dict(reversed(sizes.items()))
        for names in (sizes, backwards):
            found = layers_of(names, prefix)
            assert [(layer.name, layer.index, layer.parameters) for layer in found] == expected


@pytest.mark.parametrize("model_type", CONFIGS)
def test_every_parameter_has_one_place(model_type: str) -> None:
    model = tiny(model_type)
    blocks = find_blocks(model)
    owner, head = block_of_parameter(model, blocks), head_parameters(model)
    assert not owner.keys() & head.keys()
    assert all("classifier" in name or "head" in name or "pooler" in name for name in head)
    for block in blocks:
        inside = f".{block.name}."
        assert {name for name, index in owner.items() if index == block.index} == {
            name for name, _ in model.named_parameters() if inside in f".{name}"
        }


def test_ten_is_not_one() -> None:
    """Order is by number, not by spelling, and layer.1 does not own layer.11."""
    model = nn.Module()
    model.layer = nn.ModuleList(nn.Linear(index + 1, 1) for index in range(12))
    blocks = find_blocks(model)
    assert [layer.parameters for layer in layers_of(sizes_of(model), "")] == [
        block.parameters for block in blocks
    ]
    owner = block_of_parameter(model, blocks)
    assert [name for name, index in owner.items() if index == 1] == [
        "layer.1.weight", "layer.1.bias",
    ]  # fmt: skip


def test_longest_list_wins() -> None:
    model = nn.Module()
    model.stem = nn.ModuleList(nn.Linear(50, 50) for _ in range(2))
    model.body = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
    model.mixed = nn.ModuleList([nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.GELU()])
    model.empty = nn.ModuleList(nn.GELU() for _ in range(5))
    assert [block.name for block in find_blocks(model)] == ["body.0", "body.1", "body.2"]


def test_of_equal_lists_the_larger_wins() -> None:
    model = nn.Module()
    model.small = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
    model.large = nn.ModuleList(nn.Linear(9, 9) for _ in range(3))
    assert find_blocks(model)[0].name == "large.0"
    assert layers_of(sizes_of(model), "")[0].name == "large.0"


@pytest.mark.parametrize("layers", [0, 1])
def test_nothing_to_rank(layers: int) -> None:
    model = nn.Module()
    model.layer = nn.ModuleList(nn.Linear(4, 4) for _ in range(layers))
    model.head = nn.Linear(4, 2)
    with pytest.raises(ModelUnsupported):
        find_blocks(model)
    with pytest.raises(ModelUnsupported):
        layers_of(sizes_of(model), "")


def test_numbers_with_a_gap() -> None:
    with pytest.raises(ModelUnsupported, match="numbered from 0"):
        layers_of({"layer.0.weight": 4, "layer.2.weight": 4}, "")


def test_shared_block_owns_each_of_its_names() -> None:
    model = nn.Module()
    model.layer = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
    model.alias = model.layer[1].weight
    assert block_of_parameter(model, find_blocks(model))["alias"] == 1
