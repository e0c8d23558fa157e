"""Find the blocks of an encoder by its module structure, not by a table of names."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from surgery.errors import ModelUnsupported


@dataclass(frozen=True)
class Block:
    """One transformer block: the unit that is ranked and trained.

    ``name`` is its path inside the encoder (``encoder.layer.4``), the same whether the checkpoint
    was saved with or without a head.
    """

    name: str
    index: int
    module: nn.Module

    @property
    def parameters(self) -> int:
        """How many numbers the block holds."""
        return sum(parameter.numel() for parameter in self.module.parameters())


def encoder_of(model: nn.Module) -> nn.Module:
    """The encoder inside a task model (``model.bert``), or the model itself."""
    prefix = getattr(model, "base_model_prefix", "")
    encoder = getattr(model, prefix, None) if prefix else None
    return encoder if isinstance(encoder, nn.Module) else model


def find_blocks(model: nn.Module) -> list[Block]:
    """The longest list of like blocks in the encoder, bottom to top.

    Raises ModelUnsupported when no list of two or more like modules with parameters is found.
    """
    encoder = encoder_of(model)
    lists = [
        (name, modules)
        for name, modules in encoder.named_modules()
        if isinstance(modules, nn.ModuleList) and _like_blocks(modules)
    ]
    if not lists:
        raise ModelUnsupported(f"{type(model).__name__} has no list of repeated blocks to rank")
    name, modules = max(
        lists, key=lambda item: (len(item[1]), sum(p.numel() for p in item[1].parameters()))
    )
    return [Block(f"{name}.{index}", index, module) for index, module in enumerate(modules)]


def _like_blocks(modules: nn.ModuleList) -> bool:
    kinds = {type(module) for module in modules}
    return len(modules) > 1 and len(kinds) == 1 and next(modules[0].parameters(), None) is not None


def block_of_parameter(model: nn.Module, blocks: list[Block]) -> dict[str, int]:
    """Parameter name → index of the block that holds it, by identity.

    A parameter shared between modules is listed under each of its names.
    """
    owner = {
        id(parameter): block.index for block in blocks for parameter in block.module.parameters()
    }
    return {
        name: owner[id(parameter)]
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if id(parameter) in owner
    }


def head_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What the task model adds to the encoder."""
    encoder = {id(parameter) for parameter in encoder_of(model).parameters()}
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if id(parameter) not in encoder
    }
