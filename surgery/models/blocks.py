"""Find the blocks of a loaded encoder, and the units in them that are scored.

Blocks are found by the structure of the modules, without a table of architectures. A unit is a
block, a sublayer of one, or a single tensor.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from inspect import Parameter, signature
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from surgery.data.tokens.dataset import Batch
from surgery.errors import ModelUnsupported
from surgery.models.layers import SUBLAYERS, in_decoder, part_of_block
from surgery.schemas.enums import Granularity

Stack = list[tuple[str, nn.Module]]  # blocks and their paths inside the encoder, bottom to top

EMBEDDING = re.compile(r"emb", re.IGNORECASE)
GROUPS = ("embeddings", "pooler", "head", "other")


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
        """The number of the block's parameters."""
        return sum(parameter.numel() for parameter in self.module.parameters())


def encoder_of(model: nn.Module) -> nn.Module:
    """The encoder inside a task model (``model.bert``), or the model itself."""
    prefix = getattr(model, "base_model_prefix", "")
    encoder = getattr(model, prefix, None) if prefix else None
    return encoder if isinstance(encoder, nn.Module) else model


def find_blocks(model: nn.Module) -> list[Block]:
    """The longest stack of like blocks in the encoder, bottom to top.

    Lists of lists (Funnel's ``encoder.blocks.0.1``) and groups that hold nothing but a list
    (ALBERT's) are flattened. A block is listed once, however often the forward pass runs it, so an
    ALBERT of one group has one block. Layers of a decoder (Funnel's for tokens) are used only if
    there is no other stack. Raises ModelUnsupported if there is no list of like modules with
    parameters.
    """
    stacks = list(_stacks("", encoder_of(model)))
    if not stacks:
        raise ModelUnsupported(f"{type(model).__name__} has no list of repeated blocks to rank")
    stack = max(stacks, key=_precedence)
    return [Block(name, index, module) for index, (name, module) in enumerate(stack)]


def _precedence(stack: Stack) -> tuple[bool, int, int]:
    size = sum(parameter.numel() for _, module in stack for parameter in module.parameters())
    return not in_decoder(stack[0][0]), len(stack), size


def _stacks(path: str, module: nn.Module) -> Iterator[Stack]:
    """Every list of like blocks that is not inside a block."""
    if isinstance(module, nn.ModuleList):
        stack = _flattened(path, module)
        if _alike(stack):
            yield stack
            return
    for name, child in module.named_children():
        yield from _stacks(f"{path}.{name}".lstrip("."), child)


def _flattened(path: str, modules: nn.ModuleList) -> Stack:
    stack: Stack = []
    for index, module in enumerate(modules):
        place = f"{path}.{index}".lstrip(".")
        stack += _inner_stack(place, module) or [(place, module)]
    return stack


def _inner_stack(path: str, module: nn.Module) -> Stack | None:
    """The blocks of a module that holds nothing but a list of them, or None."""
    lists = {path: module} | {f"{path}.{name}": child for name, child in module.named_children()}
    count = sum(1 for _ in module.parameters())
    for place, inner in lists.items():
        if isinstance(inner, nn.ModuleList) and sum(1 for _ in inner.parameters()) == count:
            stack = _flattened(place, inner)
            return stack if _alike(stack) else None
    return None


def _alike(stack: Stack) -> bool:
    kinds = {type(module) for _, module in stack}
    return len(kinds) == 1 and next(stack[0][1].parameters(), None) is not None


@cache
def _accepted(forward: Callable[..., Any]) -> frozenset[str] | None:
    """The inputs that a class's forward names, or None if it takes any."""
    named = {
        name
        for name, parameter in signature(forward).parameters.items()
        if parameter.kind not in (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL)
    }
    return frozenset(named) if named - {"self"} else None


def accepts(model: nn.Module, name: str) -> bool:
    """Whether the model's forward takes an input of this name."""
    accepted = _accepted(type(model).forward)
    return accepted is None or name in accepted


def model_inputs(model: nn.Module, batch: Batch) -> Batch:
    """A batch without labels and without inputs that the model's forward does not take.

    FNet takes no ``attention_mask``; DistilBERT, MPNet and ModernBERT take no ``token_type_ids``.
    """
    return {
        name: tensor for name, tensor in batch.items() if name != "labels" and accepts(model, name)
    }


def part_of(model: nn.Module, part: str) -> nn.Module | None:
    """The ``embeddings`` or the ``pooler`` of the encoder, if it has one.

    For an encoder without an embeddings module (XLNet), it is the embedding of its tokens.
    """
    encoder = encoder_of(model)
    module = getattr(encoder, part, None)
    if module is None and part == "embeddings" and isinstance(encoder, PreTrainedModel):
        module = encoder.get_input_embeddings()
    return module if isinstance(module, nn.Module) else None


def block_of_parameter(model: nn.Module, blocks: list[Block]) -> dict[str, int]:
    """Parameter name → index of the block that holds it, by identity.

    A parameter that modules share is listed under each of its names.
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
    """The parameters that the task model adds to the encoder, by name."""
    encoder = {id(parameter) for parameter in encoder_of(model).parameters()}
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if id(parameter) not in encoder
    }


def positions_of(model: nn.Module) -> int:
    """The number of positions with an embedding; sys.maxsize if the model has no table of them.

    Models like RoBERTa do not use the positions up to that of the padding token.
    """
    table = getattr(part_of(model, "embeddings"), "position_embeddings", None)
    if not isinstance(table, nn.Embedding):
        return sys.maxsize
    unused = 0 if table.padding_idx is None else table.padding_idx + 1
    return table.num_embeddings - unused


@dataclass(frozen=True)
class Unit:
    """A set of parameters that gets one score, which is a sum over them.

    ``index`` is that of its block; a group outside the blocks has none and is never ranked.
    """

    name: str
    index: int | None
    members: tuple[str, ...]
    parameters: int

    @property
    def ranked(self) -> bool:
        """Whether it belongs to a block."""
        return self.index is not None


def units_of(
    model: nn.Module, blocks: Sequence[Block], granularity: Granularity = Granularity.LAYER
) -> list[Unit]:
    """The ranked units, bottom to top. A parameter with two names is listed under the first."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    units = []
    for block in blocks:
        parts: dict[str, list[tuple[str, nn.Parameter]]] = defaultdict(list)
        for inner, parameter in block.module.named_parameters():
            part = part_of_block(inner, granularity)
            parts[part].append((names[id(parameter)], parameter))
        sublayers = granularity is Granularity.SUBLAYER
        for part in filter(parts.__contains__, SUBLAYERS) if sublayers else parts:
            name = f"{block.name}.{part}" if part else block.name
            units.append(_unit(name, block.index, parts[part]))
    return units


def groups_of(model: nn.Module, blocks: Sequence[Block]) -> list[Unit]:
    """The parameters outside the blocks as units: embeddings, pooler, head and others."""
    inside = {id(p) for block in blocks for p in block.module.parameters()}
    head = {id(parameter) for parameter in head_parameters(model).values()}
    encoder = encoder_of(model)
    pooler = getattr(encoder, "pooler", None)
    pooled = {id(p) for p in pooler.parameters()} if isinstance(pooler, nn.Module) else set()
    groups: dict[str, list[tuple[str, nn.Parameter]]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if id(parameter) in inside:
            continue
        if id(parameter) in head:
            group = "head"
        elif id(parameter) in pooled:
            group = "pooler"
        else:
            group = "embeddings" if EMBEDDING.search(name) else "other"
        groups[group].append((name, parameter))
    return [_unit(group, None, groups[group]) for group in GROUPS if group in groups]


def _unit(name: str, index: int | None, members: Sequence[tuple[str, nn.Parameter]]) -> Unit:
    return Unit(name, index, tuple(name for name, _ in members), sum(p.numel() for _, p in members))
