"""The formula for what autograd keeps, against what it keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig

from surgery.models.blocks import find_blocks, model_inputs
from surgery.models.loading import HEAD_CLASSES
from surgery.models.shape import EncoderShape
from surgery.schemas.enums import Problem
from surgery.training.costs.activations import ACTIVATIONS, block_activations
from tests.support.models.encoders import CONFIGS

ROWS, TOKENS = 2, 48
SIZES = {
    "hidden_size": 64, "dim": 64, "d_model": 64, "intermediate_size": 160, "hidden_dim": 160,
    "num_attention_heads": 4, "n_heads": 4, "max_position_embeddings": 80, "num_hidden_layers": 4,
    "n_layers": 4,
}  # fmt: skip
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{kind: (kind, {}) for kind in ACTIVATIONS if kind != "albert"},
    "bert without dropout": ("bert", NO_DROPOUT),
    "big_bird without dropout": ("big_bird", NO_DROPOUT),
    "distilbert without dropout": ("distilbert", {"dropout": 0.0, "attention_dropout": 0.0}),
    "relu": ("bert", {"hidden_act": "relu"}),
    "gelu_fast": ("bert", {"hidden_act": "gelu_fast"}),
    "albert": ("albert groups", {"num_hidden_groups": 4, "inner_group_num": 1}),
}  # fmt: skip


def build(kind: str, more: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """A model of a kind at sizes at which rounding does not matter, and its config as data."""
    given = {name: SIZES.get(name, value) for name, value in CONFIGS[kind].items()}
    given.pop("local_attention", None)  # ModernBERT's window would be shorter than the rows
    config = AutoConfig.for_model(kind.split(maxsplit=1)[0], **{**given, **more}, num_labels=2)
    torch.manual_seed(0)
    model = HEAD_CLASSES[Problem.CLASSIFICATION][type(config)](config).float().train()
    return model, {**config.to_dict(), "model_type": kind.split(maxsplit=1)[0]}


def kept(model: nn.Module, trained: list[int]) -> int:
    """Numbers that autograd keeps of a forward pass, parameters and buffers left out."""
    blocks = find_blocks(model)
    model.requires_grad_(False)
    for index in trained:
        blocks[index].module.requires_grad_(True)
    tensors = [*model.parameters(), *model.buffers()]
    own = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    storages: dict[int, Tensor] = {}  # held, so that no address is given out twice

    def pack(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            storages.setdefault(place, tensor)
        return tensor

    mask = torch.ones(ROWS, TOKENS, dtype=torch.long)
    mask[0, -3:] = 0
    ids = torch.randint(5, 50, (ROWS, TOKENS))
    inputs = model_inputs(model, {"input_ids": ids, "attention_mask": mask})
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(**inputs)
    return sum(tensor.untyped_storage().nbytes() for tensor in storages.values()) // 4


@pytest.mark.parametrize("case", CASES)
def test_the_formula_counts_what_autograd_keeps(case: str) -> None:
    model, config = build(*CASES[case])
    shape = EncoderShape(config, (1, 1, 1), 3, 0, 0)
    lowest, middle, both = (kept(model, which) for which in ([1], [2], [1, 2]))
    tokens = ROWS * TOKENS
    frozen = block_activations(shape, TOKENS, trained=False)
    trained = block_activations(shape, TOKENS, trained=True)
    assert frozen is not None
    assert trained is not None
    # One frozen block more above the lowest trained one; one of those trains as well.
    assert (lowest - middle) / tokens == pytest.approx(frozen, rel=0.03)
    assert (both - lowest) / tokens == pytest.approx(trained - frozen, rel=0.03)


@pytest.mark.parametrize("kind", ["deberta", "deberta-v2", "funnel", "longformer", "xlnet"])
def test_what_has_no_formula_is_not_guessed(kind: str) -> None:
    _, config = build(kind, {})
    assert block_activations(EncoderShape(config, (1,), 1, 0, 0), TOKENS, trained=True) is None


def test_an_unknown_function_is_not_guessed() -> None:
    _, config = build("bert", {})
    shape = EncoderShape({**config, "hidden_act": "mish"}, (1,), 1, 0, 0)
    assert block_activations(shape, TOKENS, trained=False) is None
