"""Freeze all but a selection, by the identity of parameters, and prove that it stayed frozen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from surgery.architecture import Block, encoder_of, part_of
from surgery.errors import Fault, SelectionMismatch
from surgery.loading import LoadedModel
from surgery.parts import part_of_block
from surgery.terms import Granularity
from surgery.units import Unit, units_of


def layers_of_model(
    loaded: LoadedModel, granularity: Granularity = Granularity.LAYER
) -> list[Unit]:
    """The blocks, or the parts of them, as the API names them."""
    return units_of(loaded.model, loaded.blocks, granularity)


def named_layers(loaded: LoadedModel, names: Sequence[str], granularity: Granularity) -> list[Unit]:
    """Exactly the layers or parts of these names. Raises SelectionMismatch where one is missing."""
    known = {unit.name: unit for unit in layers_of_model(loaded, granularity)}
    faults = [
        Fault(f"the model as it was loaded has no {granularity} {name!r}", pointer="/selection")
        for name in names
        if name not in known
    ]
    if faults:
        raise SelectionMismatch("the model does not have all that was selected", faults)
    return [known[name] for name in names]


def trained_parameters(
    loaded: LoadedModel, layers: Sequence[Unit], include: Sequence[str]
) -> dict[str, nn.Parameter]:
    """What trains, by name: the chosen layers, the head and ``include``.

    Raises SelectionMismatch when ``include`` names a part the model does not have, or when a
    parameter is shared between what trains and what does not.
    """
    known = dict(loaded.model.named_parameters())
    chosen = {id(known[name]) for layer in layers for name in layer.members}
    chosen |= {id(parameter) for parameter in included_parameters(loaded, include)}
    _refuse_shared(loaded, layers, include, chosen)
    wanted = chosen | {id(parameter) for parameter in loaded.head.values()}
    return {name: parameter for name, parameter in known.items() if id(parameter) in wanted}


def included_parameters(loaded: LoadedModel, include: Sequence[str]) -> list[nn.Parameter]:
    """Those of the parts that ``include`` names. Raises SelectionMismatch where there is none."""
    found = []
    for part in sorted(set(include)):
        module = part_of(loaded.model, part)
        if module is None:
            raise SelectionMismatch(
                f"the model has no {part}", [Fault("leave it out", pointer="/selection/include")]
            )
        found += list(module.parameters())
    return found


def freeze_all_but(
    loaded: LoadedModel, layers: Sequence[Unit], include: Sequence[str]
) -> dict[str, nn.Parameter]:
    """Make exactly ``trained_parameters`` trainable, check that it is so, and return them."""
    wanted = trained_parameters(loaded, layers, include)
    ids = {id(parameter) for parameter in wanted.values()}
    for parameter in loaded.model.parameters():
        parameter.requires_grad_(id(parameter) in ids)
    trained = {name for name, p in loaded.model.named_parameters() if p.requires_grad}
    if trained != wanted.keys():
        raise AssertionError("the trainable parameters are not the selected ones")
    return wanted


def _refuse_shared(
    loaded: LoadedModel, layers: Sequence[Unit], include: Sequence[str], chosen: set[int]
) -> None:
    """A parameter of two places trains in both: they are chosen together or not at all."""
    names = {unit.name for unit in layers}
    included = [part_of(loaded.model, part) for part in include]
    encoder = encoder_of(loaded.model)
    starts = tuple(
        f"{path}."
        for path, module in encoder.named_modules(remove_duplicate=False)
        if any(module is part for part in included)
    )
    for path, parameter in encoder.named_parameters(remove_duplicate=False):
        if id(parameter) not in chosen or path.startswith(starts):
            continue
        if not names & _holders(path, loaded.blocks):
            raise SelectionMismatch(
                f"{path} is shared with a selected part of the model and would train with it",
                [Fault("select both, or neither", pointer="/selection")],
            )


def _holders(path: str, blocks: Sequence[Block]) -> set[str]:
    """Names of the layer, the sublayer and the tensor that a parameter of the encoder is in."""
    for block in blocks:
        start = f"{block.name}."
        if path.startswith(start):
            sublayer = part_of_block(path.removeprefix(start), Granularity.SUBLAYER)
            return {block.name, f"{start}{sublayer}", path}
    return set()


def _frozen(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What a checkpoint would hold and training must not move: parameters and buffers."""
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            yield name, parameter
    saved = model.state_dict().keys()
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name in saved)


@torch.no_grad()
def frozen_digests(model: nn.Module) -> dict[str, str]:
    """Name → SHA-256 of its bytes, for every parameter that does not train and every buffer."""
    return {
        name: hashlib.sha256(
            tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        ).hexdigest()
        for name, tensor in _frozen(model)
    }


def check_frozen(model: nn.Module, digests: Mapping[str, str]) -> None:
    """Prove that the frozen parameters are what they were when their digests were taken."""
    changed = [name for name, now in frozen_digests(model).items() if digests[name] != now]
    if changed:
        raise AssertionError(f"frozen tensors changed: {changed[:3]}")
