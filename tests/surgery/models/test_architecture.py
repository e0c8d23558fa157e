"""Blocks are found by structure, and headers tell the same as modules."""

from __future__ import annotations

import pytest
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from surgery.errors import ModelUnsupported
from surgery.models.blocks import (
    block_of_parameter,
    encoder_of,
    find_blocks,
    head_parameters,
    model_inputs,
    part_of,
)
from surgery.models.layers import layers_of
from surgery.schemas.enums import Problem
from tests.support.models.encoders import CONFIGS, NO_CHOICES, SIZES, padded_batch, tiny

STACKS = {
    "distilbert": [f"transformer.layer.{index}" for index in range(3)],
    "modernbert": [f"layers.{index}" for index in range(3)],
    "nomic_bert": [f"layers.{index}" for index in range(3)],
    "xlnet": [f"layer.{index}" for index in range(3)],
    "albert": ["encoder.albert_layer_groups.0.albert_layers.0"],
    "albert groups": [
        f"encoder.albert_layer_groups.{group}.albert_layers.{inner}"
        for group in range(2)
        for inner in range(2)
    ],
    "funnel": ["encoder.blocks.0.0", "encoder.blocks.0.1", "encoder.blocks.1.0"],
}
HEADS = ("classifier.", "head.", "pooler.", "pre_classifier.", "sequence_summary.", "logits_proj.")
PROBLEMS = [
    (kind, problem)
    for kind in CONFIGS
    for problem in Problem
    if problem is not Problem.REGRESSION
    and not (problem is Problem.MULTIPLE_CHOICE and kind in NO_CHOICES)
]


def sizes_of(module: nn.Module) -> dict[str, int]:
    return {name: tensor.numel() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize(("kind", "problem"), PROBLEMS)
def test_blocks_have_the_checkpoint_s_own_names(kind: str, problem: Problem) -> None:
    expected = STACKS.get(kind, [f"encoder.layer.{index}" for index in range(3)])
    for model in (tiny(kind, problem=problem), encoder_of(tiny(kind, problem=problem))):
        blocks = find_blocks(model)
        assert [block.name for block in blocks] == expected
        assert [block.index for block in blocks] == list(range(len(expected)))
        encoder = dict(encoder_of(model).named_modules())
        assert all(encoder[block.name] is block.module for block in blocks)


@pytest.mark.parametrize(("kind", "problem"), PROBLEMS)
def test_headers_tell_the_same_blocks(kind: str, problem: Problem) -> None:
    model = tiny(kind, problem=problem)
    prefix = str(model.base_model_prefix)
    expected = [(block.name, block.index, block.parameters) for block in find_blocks(model)]
    for sizes in (sizes_of(model), sizes_of(encoder_of(model))):
        backwards = dict(reversed(sizes.items()))
        for names in (sizes, backwards):
            found = layers_of(names, prefix)
            assert [(layer.name, layer.index, layer.parameters) for layer in found] == expected


@pytest.mark.parametrize(("kind", "problem"), PROBLEMS)
def test_every_parameter_has_one_place(kind: str, problem: Problem) -> None:
    model = tiny(kind, problem=problem)
    blocks = find_blocks(model)
    owner, head = block_of_parameter(model, blocks), head_parameters(model)
    assert head
    assert not owner.keys() & head.keys()
    assert all(name.startswith(HEADS) for name in head)
    for block in blocks:
        inside = f".{block.name}."
        assert {name for name, index in owner.items() if index == block.index} == {
            name for name, _ in model.named_parameters() if inside in f".{name}"
        }


@pytest.mark.parametrize("kind", CONFIGS)
def test_embeddings_and_pooler(kind: str) -> None:
    model = tiny(kind)
    tokens = encoder_of(model).get_input_embeddings().weight
    embeddings = part_of(model, "embeddings")
    assert embeddings is not None
    assert any(parameter is tokens for parameter in embeddings.parameters())
    blocks = {id(p) for block in find_blocks(model) for p in block.module.parameters()}
    assert not blocks & {id(parameter) for parameter in embeddings.parameters()}
    pooler = part_of(model, "pooler")
    assert pooler is getattr(encoder_of(model), "pooler", None)


@pytest.mark.parametrize(("kind", "problem"), PROBLEMS)
def test_inputs_are_those_the_forward_names(kind: str, problem: Problem) -> None:
    model = tiny(kind, problem=problem)
    batch = padded_batch([9, 6, 8], types=True, kind=kind, problem=problem)
    inputs = model_inputs(model, batch)
    untold = {
        "fnet": {"attention_mask"},
        **{each: {"token_type_ids"} for each in ("distilbert", "mpnet", "modernbert")},
    }
    assert batch.keys() - inputs.keys() == {"labels"} | untold.get(kind, set())
    rows, classes = batch["labels"].shape, 3 if problem is Problem.MULTIPLE_CHOICE else 2
    if problem is Problem.MULTI_LABEL:
        rows = rows[:1]
    assert model(**inputs).logits.shape == (*rows, classes)


def test_a_forward_that_hands_on_gets_everything_but_labels() -> None:
    class Wrapper(nn.Module):
        def forward(self, *args: object, **kwargs: object) -> None: ...

    assert model_inputs(Wrapper(), padded_batch([3], types=True)).keys() == {
        "input_ids", "attention_mask", "token_type_ids",
    }  # fmt: skip


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


def test_nothing_to_rank() -> None:
    model = nn.Module()
    model.layer = nn.ModuleList()
    model.head = nn.Linear(4, 2)
    with pytest.raises(ModelUnsupported):
        find_blocks(model)
    with pytest.raises(ModelUnsupported):
        layers_of(sizes_of(model), "")


def test_one_block_is_a_stack_of_one() -> None:
    """It may be run many times, as ALBERT's is; run once, it is a model of one layer."""
    model = nn.Module()
    model.layer = nn.ModuleList([nn.Linear(4, 4)])
    model.head = nn.Linear(4, 2)
    assert [block.name for block in find_blocks(model)] == ["layer.0"]
    assert [(layer.name, layer.parameters) for layer in layers_of(sizes_of(model), "")] == [
        ("layer.0", 20)
    ]


def test_a_list_inside_a_block_is_no_stack() -> None:
    """The experts of a block outnumber the blocks, and are parts of one."""
    model = nn.Module()
    model.layer = nn.ModuleList(nn.Module() for _ in range(2))
    for block in model.layer:
        block.attention = nn.Linear(4, 4)
        block.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(8))
    assert [block.name for block in find_blocks(model)] == ["layer.0", "layer.1"]
    assert [layer.parameters for layer in layers_of(sizes_of(model), "")] == [180, 180]


def test_a_longer_decoder_is_not_the_encoder() -> None:
    model = nn.Module()
    model.encoder, model.decoder = nn.Module(), nn.Module()
    model.encoder.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
    model.decoder.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(5))
    assert [block.name for block in find_blocks(model)] == ["encoder.layers.0", "encoder.layers.1"]
    assert len(layers_of(sizes_of(model), "")) == 2


def test_a_block_in_parts_is_one_block() -> None:
    """A numbered part of a block is not a block of its own: its parts are of different kinds."""
    model = nn.Module()
    model.layer = nn.ModuleList(
        nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4, bias=False)) for _ in range(3)
    )
    assert [block.name for block in find_blocks(model)] == ["layer.0", "layer.1", "layer.2"]
    assert [layer.name for layer in layers_of(sizes_of(model), "")] == [
        "layer.0", "layer.1", "layer.2",
    ]  # fmt: skip


def test_tensors_outside_the_encoder_are_not_its_blocks() -> None:
    sizes = {f"head.stack.{index}.weight": 9 for index in range(5)}
    sizes |= {f"bert.encoder.layer.{index}.weight": 4 for index in range(2)}
    assert [layer.name for layer in layers_of(sizes, "bert")] == [
        "encoder.layer.0", "encoder.layer.1",
    ]  # fmt: skip


OTHERS = {
    "convbert": {**SIZES, "embedding_size": 16},
    "rembert": {**SIZES, "input_embedding_size": 8, "output_embedding_size": 8},
    "megatron-bert": SIZES,
    "ernie": SIZES,
    "roformer": {**SIZES, "embedding_size": 16},
    "esm": {**SIZES, "pad_token_id": 1},
    "squeezebert": {**SIZES, "embedding_size": 16, "q_groups": 1, "k_groups": 1, "v_groups": 1},
    "nystromformer": SIZES,
    "yoso": SIZES,
    "data2vec-text": SIZES,
    "roberta-prelayernorm": SIZES,
    "eurobert": {**SIZES, "num_key_value_heads": 2, "pad_token_id": 0},
}


@pytest.mark.parametrize("model_type", OTHERS)
def test_other_encoders_by_structure(model_type: str) -> None:
    """The service does not load these; the library finds the blocks of whoever built them."""
    config = AutoConfig.for_model(model_type, **OTHERS[model_type])
    model = AutoModelForSequenceClassification.from_config(config)
    found = [block.name.rpartition(".")[2] for block in find_blocks(model)]
    assert found == ["0", "1", "2"]
    told = layers_of(sizes_of(model), str(model.base_model_prefix))
    assert [layer.name for layer in told] == [block.name for block in find_blocks(model)]


def test_numbers_with_a_gap() -> None:
    with pytest.raises(ModelUnsupported, match="numbered from 0"):
        layers_of({"layer.0.weight": 4, "layer.2.weight": 4}, "")


def test_shared_block_owns_each_of_its_names() -> None:
    model = nn.Module()
    model.layer = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
    model.alias = model.layer[1].weight
    assert block_of_parameter(model, find_blocks(model))["alias"] == 1
