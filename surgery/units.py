"""What is scored: blocks, parts of blocks or single tensors, and the groups beside them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from surgery.architecture import Block, encoder_of, head_parameters
from surgery.parts import SUBLAYERS, part_of_block
from surgery.terms import Granularity

EMBEDDING = re.compile(r"emb", re.IGNORECASE)
GROUPS = ("embeddings", "pooler", "head", "other")


@dataclass(frozen=True)
class Unit:
    """One thing that gets a score: the sum over the parameters it names.

    ``index`` is that of its block; a group beside the blocks has none and is never ranked.
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
    """The ranked units, bottom to top. A parameter of two names is listed under the first."""
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
    """What lies beside the blocks: embeddings, pooler, head, and whatever else there is."""
    inside = {id(p) for block in blocks for p in block.module.parameters()}
    head = {id(parameter) for parameter in head_parameters(model).values()}
    encoder = encoder_of(model)
    pooler = getattr(encoder, "pooler", None)
    pooled = {id(p) for p in pooler.parameters()} if isinstance(pooler, nn.Module) else set()
    held: dict[str, list[tuple[str, nn.Parameter]]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if id(parameter) in inside:
            continue
        if id(parameter) in head:
            group = "head"
        elif id(parameter) in pooled:
            group = "pooler"
        else:
            group = "embeddings" if EMBEDDING.search(name) else "other"
        held[group].append((name, parameter))
    return [_unit(group, None, held[group]) for group in GROUPS if group in held]


def _unit(name: str, index: int | None, held: Sequence[tuple[str, nn.Parameter]]) -> Unit:
    return Unit(name, index, tuple(name for name, _ in held), sum(p.numel() for _, p in held))
