"""Sizes without torch, against the models themselves: every architecture with every head."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from surgery.models.blocks import encoder_of, find_blocks, head_parameters, part_of
from surgery.models.layers import layers_of
from surgery.models.loading import LoadedModel
from surgery.models.shape import (
    EncoderShape,
    encoder_shape,
    has_pooler,
    head_size,
    total_parameters,
)
from surgery.models.source.resolve import ENCODERS
from surgery.models.trainable import freeze_all_but, layers_of_model
from surgery.schemas.enums import Problem
from surgery.schemas.options.adapter import AdapterSpec
from surgery.training.costs.estimate import adapter_trained
from tests.support.models.encoders import CONFIGS, NO_CHOICES, tiny
from tests.support.models.tokenizers import tokenizer_of
from tests.support.models.toys import SOURCE

LABELS = 3
CASES = [
    (kind, problem)
    for kind in CONFIGS
    for problem in Problem
    if problem is not Problem.MULTIPLE_CHOICE or kind not in NO_CHOICES
]


def outputs(problem: Problem) -> int:
    return LABELS if "classification" in problem else 1


def model_of(kind: str, problem: Problem) -> nn.Module:
    return tiny(kind, labels=outputs(problem), problem=problem)


def sizes_of(kind: str, problem: Problem, *, pooler: bool) -> tuple[dict[str, int], str]:
    """The tensors of a checkpoint of the encoder alone, with or without a pooler."""
    model = model_of(kind, problem)
    sizes = {name: p.numel() for name, p in encoder_of(model).named_parameters()}
    sizes = {name: size for name, size in sizes.items() if not name.startswith("pooler.")}
    if pooler:
        width = int(getattr(model.config, "hidden_size", 16))
        sizes |= {"pooler.weight": width * width, "pooler.bias": width}
    return sizes, ENCODERS[kind.split(maxsplit=1)[0]]


def shape_of(kind: str, problem: Problem, *, pooler: bool) -> EncoderShape:
    sizes, prefix = sizes_of(kind, problem, pooler=pooler)
    config = {"model_type": kind.split(maxsplit=1)[0], **CONFIGS[kind]}
    return encoder_shape(config, sizes, prefix, layers_of(sizes, prefix))


@pytest.mark.parametrize(("kind", "problem"), CASES)
def test_what_trains_is_known_without_the_model(kind: str, problem: Problem) -> None:
    model = model_of(kind, problem)
    pooler = part_of(model, "pooler")
    own = set(map(id, pooler.parameters())) if pooler else set()
    new = [name for name, p in model.named_parameters() if id(p) in own]
    loaded = LoadedModel(SOURCE, model, tokenizer_of("bert"), find_blocks(model), [], Path())
    for held in (True, False):
        loaded.new = [] if held else new
        shape = shape_of(kind, problem, pooler=held)
        trained = freeze_all_but(loaded, layers_of_model(loaded)[:1], [])
        head = head_size(shape, problem, outputs(problem))
        assert head is not None
        assert shape.blocks[0] + head == sum(p.numel() for p in trained.values())
        everything = sum(p.numel() for p in model.parameters())
        assert total_parameters(shape, problem, outputs(problem)) == everything
        assert has_pooler(shape, problem) == (held and bool(new))


def test_a_config_without_sizes_gives_none() -> None:
    shape = EncoderShape({"model_type": "bert"}, (5,), 9, 1, 0)
    assert head_size(shape, Problem.CLASSIFICATION, 2) is None
    assert total_parameters(shape, Problem.CLASSIFICATION, 2) is None


@pytest.mark.parametrize("kind", ["bert", "distilbert", "electra", "modernbert", "deberta"])
def test_an_adapter_is_counted_by_the_names_of_tensors(kind: str) -> None:
    model = model_of(kind, Problem.CLASSIFICATION)
    sizes = {name: p.numel() for name, p in encoder_of(model).named_parameters()}
    layers = layers_of(sizes, ENCODERS[kind])
    biases = adapter_trained(sizes, layers, AdapterSpec(type="bitfit"), head=0)
    head = set(head_parameters(model))
    assert biases is not None
    assert biases.parameters == sum(
        p.numel()
        for name, p in model.named_parameters()
        if name.endswith("bias") and name not in head
    )
    low_rank = adapter_trained(sizes, layers, AdapterSpec(type="lora", rank=2), head=0)
    linear = [
        module
        for block in find_blocks(model)
        for module in block.module.modules()
        if isinstance(module, nn.Linear)
    ]
    if any(module.bias is None for module in linear):
        assert low_rank is None
        return
    assert low_rank is not None
    assert low_rank.parameters == sum(2 * (m.in_features + m.out_features) for m in linear)
