"""What is scored: blocks, their parts, single tensors, and the groups beside them."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn
from transformers import AutoConfig, AutoModel

from surgery.models.blocks import GROUPS, Unit, find_blocks, groups_of, units_of
from surgery.schemas.enums import Granularity, Problem
from tests.support.models.encoders import CONFIGS, SIZES, tiny


def members(units: list[Unit]) -> list[str]:
    return [name for unit in units for name in unit.members]


def sizes(model: nn.Module) -> dict[str, int]:
    return {name: parameter.numel() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("granularity", Granularity)
@pytest.mark.parametrize("kind", CONFIGS)
def test_every_parameter_belongs_to_one_unit(kind: str, granularity: Granularity) -> None:
    model = tiny(kind)
    blocks = find_blocks(model)
    units = units_of(model, blocks, granularity) + groups_of(model, blocks)
    known = sizes(model)
    assert sorted(members(units)) == sorted(known)
    assert len({unit.name for unit in units}) == len(units)
    for unit in units:
        assert unit.parameters == sum(known[name] for name in unit.members)
        assert unit.ranked == (unit.name not in GROUPS)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_layer_is_the_sum_of_its_parts(kind: str) -> None:
    model = tiny(kind)
    blocks = find_blocks(model)
    layers = units_of(model, blocks)
    assert [unit.name for unit in layers] == [block.name for block in blocks]
    assert [unit.index for unit in layers] == list(range(len(blocks)))
    for granularity in (Granularity.SUBLAYER, Granularity.TENSOR):
        parts = units_of(model, blocks, granularity)
        for layer in layers:
            own = [part for part in parts if part.index == layer.index]
            assert sorted(members(own)) == sorted(layer.members)
            assert all(part.name.startswith(f"{layer.name}.") for part in own)


@pytest.mark.parametrize("kind", CONFIGS)
def test_sublayers_are_attention_and_feed_forward(kind: str) -> None:
    model = tiny(kind)
    parts = units_of(model, find_blocks(model), Granularity.SUBLAYER)
    for block in find_blocks(model):
        kinds = [p.name.removeprefix(f"{block.name}.") for p in parts if p.index == block.index]
        assert sorted(kinds) == ["attention", "feed_forward"]


def test_sublayers_of_bert() -> None:
    model = tiny("bert")
    attention, feed_forward = units_of(model, find_blocks(model), Granularity.SUBLAYER)[:2]
    assert attention.name == "encoder.layer.0.attention"
    assert {name.split(".")[4] for name in attention.members} == {"attention"}
    assert {name.split(".")[4] for name in feed_forward.members} == {"intermediate", "output"}


def test_tensors_are_units_of_one() -> None:
    model = tiny("bert")
    units = units_of(model, find_blocks(model), Granularity.TENSOR)
    assert all(len(unit.members) == 1 for unit in units)
    assert units[0].name == "encoder.layer.0.attention.self.query.weight"
    assert units[0].members == ("bert.encoder.layer.0.attention.self.query.weight",)


@pytest.mark.parametrize(
    ("kind", "groups"),
    [
        ("bert", {"embeddings", "pooler", "head"}),
        ("distilbert", {"embeddings", "head"}),
        ("modernbert", {"embeddings", "head", "other"}),  # its last norm
        ("deberta-v2", {"embeddings", "head", "other"}),  # the norm of relative positions
        ("xlnet", {"embeddings", "head"}),
        ("albert", {"embeddings", "pooler", "head"}),
    ],
)
def test_groups_beside_the_blocks(kind: str, groups: set[str]) -> None:
    model = tiny(kind)
    found = groups_of(model, find_blocks(model))
    assert {unit.name for unit in found} == groups


def test_an_encoder_without_a_head_has_no_group_head() -> None:
    model = AutoModel.from_config(AutoConfig.for_model("bert", **SIZES))
    blocks = find_blocks(model)
    assert [unit.name for unit in groups_of(model, blocks)] == ["embeddings", "pooler"]


def test_a_head_of_tags_has_no_pooler() -> None:
    model = tiny("bert", problem=Problem.TOKEN_CLASSIFICATION)
    assert [u.name for u in groups_of(model, find_blocks(model))] == ["embeddings", "head"]


def test_units_of_the_real_encoder(real_model: Path) -> None:
    model = AutoModel.from_pretrained(real_model)
    layers = units_of(model, find_blocks(model))
    assert [unit.name for unit in layers] == [f"encoder.layer.{index}" for index in range(6)]
    assert {unit.parameters for unit in layers} == {1_774_464}
