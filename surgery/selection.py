"""Freeze all but a selection, by the identity of modules, and prove that it stayed frozen."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import nn

from surgery.architecture import part_of
from surgery.errors import Fault, SelectionMismatch
from surgery.loading import LoadedModel
from surgery.results import LayerInfo


def layers_of_model(loaded: LoadedModel) -> list[LayerInfo]:
    """The blocks as the API names them."""
    return [
        LayerInfo(name=block.name, index=block.index, parameters=block.parameters)
        for block in loaded.blocks
    ]


def freeze_all_but(
    loaded: LoadedModel, layers: Sequence[LayerInfo], include: Sequence[str]
) -> dict[str, nn.Parameter]:
    """Make exactly the chosen layers, the head and ``include`` trainable; return them by name.

    Raises SelectionMismatch when ``include`` names a part the model does not have.
    """
    wanted = {id(parameter) for parameter in loaded.head.values()}
    for layer in layers:
        wanted |= {id(p) for p in loaded.blocks[layer.index].module.parameters()}
    for part in include:
        wanted |= {id(p) for p in _part(loaded, part)}
    for parameter in loaded.model.parameters():
        parameter.requires_grad_(id(parameter) in wanted)
    trained = {name: p for name, p in loaded.model.named_parameters() if p.requires_grad}
    if {id(parameter) for parameter in trained.values()} != wanted:
        raise AssertionError("the trainable parameters are not the selected ones")
    return trained


def _part(loaded: LoadedModel, part: str) -> list[nn.Parameter]:
    module = part_of(loaded.model, part)
    if module is None:
        raise SelectionMismatch(
            f"the model has no {part}", [Fault("leave it out", pointer="/selection/include")]
        )
    return list(module.parameters())


@torch.no_grad()
def frozen_digests(model: nn.Module) -> dict[str, str]:
    """Parameter name → SHA-256 of its bytes, for every parameter that does not train."""
    return {
        name: hashlib.sha256(parameter.detach().cpu().contiguous().numpy().data).hexdigest()
        for name, parameter in model.named_parameters()
        if not parameter.requires_grad
    }
