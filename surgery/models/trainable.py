"""Choose what trains, layers or an adapter, and freeze all else.

Parameters are chosen by identity, and digests prove that frozen tensors stay as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear
from torch import Tensor, nn

from surgery.errors import Fault, SelectionMismatch
from surgery.models.blocks import Block, Unit, encoder_of, part_of, units_of
from surgery.models.layers import is_bias, no_biases, part_of_block
from surgery.models.loading import LoadedModel
from surgery.schemas.enums import Granularity
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.schemas.options.adapter import AdapterSpec

ADAPTER = "default"  # PEFT's name for a model's only adapter


def layers_of_model(
    loaded: LoadedModel, granularity: Granularity = Granularity.LAYER
) -> list[Unit]:
    """The blocks or their parts, by the names that the API uses."""
    return units_of(loaded.model, loaded.blocks, granularity)


def named_layers(loaded: LoadedModel, names: Sequence[str], granularity: Granularity) -> list[Unit]:
    """The layers or parts of these names. Raises SelectionMismatch if the model lacks one."""
    known = {unit.name: unit for unit in layers_of_model(loaded, granularity)}
    faults = [
        Fault(f"the model as it was loaded has no {granularity} {name!r}", pointer="/selection")
        for name in names
        if name not in known
    ]
    if faults:
        raise SelectionMismatch("the model does not have all selected layers", faults)
    return [known[name] for name in names]


def trained_parameters(
    loaded: LoadedModel, layers: Sequence[Unit], include: Sequence[str]
) -> dict[str, nn.Parameter]:
    """The parameters that train, by name: those of the layers, the head and ``include``.

    Raises SelectionMismatch if ``include`` names a part that the model does not have, or if a
    parameter is shared between what trains and what does not.
    """
    known = dict(loaded.model.named_parameters())
    chosen = {id(known[name]) for layer in layers for name in layer.members}
    chosen |= {id(parameter) for parameter in included_parameters(loaded, include)}
    _refuse_shared(loaded, layers, include, chosen)
    chosen |= {id(parameter) for parameter in loaded.head.values()}
    return {name: parameter for name, parameter in known.items() if id(parameter) in chosen}


def included_parameters(loaded: LoadedModel, include: Sequence[str]) -> list[nn.Parameter]:
    """The parameters of the parts in ``include``. Raises SelectionMismatch if there is no such."""
    parameters = []
    for part in sorted(set(include)):
        module = part_of(loaded.model, part)
        if module is None:
            raise SelectionMismatch(
                f"the model has no {part}", [Fault("leave it out", pointer="/selection/include")]
            )
        parameters += list(module.parameters())
    return parameters


def freeze_all_but(
    loaded: LoadedModel, layers: Sequence[Unit], include: Sequence[str]
) -> dict[str, nn.Parameter]:
    """Make exactly the `trained_parameters` trainable, check this, and return them."""
    chosen = trained_parameters(loaded, layers, include)
    ids = {id(parameter) for parameter in chosen.values()}
    for parameter in loaded.model.parameters():
        parameter.requires_grad_(id(parameter) in ids)
    trained = {name for name, p in loaded.model.named_parameters() if p.requires_grad}
    if trained != chosen.keys():
        raise AssertionError("the trainable parameters are not the selected ones")
    return chosen


def _refuse_shared(
    loaded: LoadedModel, layers: Sequence[Unit], include: Sequence[str], chosen: set[int]
) -> None:
    """Raise SelectionMismatch if a chosen parameter is also part of a layer that is not chosen."""
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
    """The names of the layer, the sublayer and the tensor that an encoder's parameter is in."""
    for block in blocks:
        start = f"{block.name}."
        if path.startswith(start):
            sublayer = part_of_block(path.removeprefix(start), Granularity.SUBLAYER)
            return {block.name, f"{start}{sublayer}", path}
    return set()


def _frozen(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers that a checkpoint holds and that training must not change."""
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            yield name, parameter
    saved = model.state_dict().keys()
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name in saved)


@torch.no_grad()
def tensor_digest(tensor: Tensor) -> str:
    """The SHA-256 of a tensor's bytes."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()


def frozen_digests(model: nn.Module) -> dict[str, str]:
    """Name → SHA-256 of the bytes, for every parameter that does not train and every buffer."""
    return {name: tensor_digest(tensor) for name, tensor in _frozen(model)}


def check_frozen(model: nn.Module, digests: Mapping[str, str]) -> None:
    """Raise AssertionError if a frozen tensor changed since its digest was taken."""
    changed = [name for name, now in frozen_digests(model).items() if digests[name] != now]
    if changed:
        raise AssertionError(f"frozen tensors changed: {changed[:3]}")


def make_trainable(
    loaded: LoadedModel, layers: Sequence[Unit], spec: FinetuneSpec
) -> dict[str, nn.Parameter]:
    """Make exactly the parameters that a request trains trainable, in place; return them by name.

    Raises SelectionMismatch if the model has no such part.
    """
    if spec.adapter is None:
        return freeze_all_but(loaded, layers, spec.selection.include)
    return train_adapter(loaded, spec.adapter, spec.training.seed)


def count_trainable(loaded: LoadedModel, layers: Sequence[Unit], spec: FinetuneSpec) -> int:
    """How many parameters `make_trainable` would make trainable; the model is not changed."""
    adapter = spec.adapter
    if adapter is None:
        trained = trained_parameters(loaded, layers, spec.selection.include)
        return sum(parameter.numel() for parameter in trained.values())
    own = sum(parameter.numel() for parameter in loaded.head.values())
    if adapter.type == "lora":
        linear = _linear_layers(loaded).values()
        return own + sum(adapter.rank * (one.in_features + one.out_features) for one in linear)
    biases = loaded.head | _own_tensors(loaded, adapter)
    return sum(parameter.numel() for parameter in biases.values())


def train_adapter(loaded: LoadedModel, adapter: AdapterSpec, seed: int) -> dict[str, nn.Parameter]:
    """Make exactly the adapter and the head trainable, in place; return their parameters by name.

    LoRA (Hu et al., ICLR 2022) turns every Linear of the blocks, found by identity, into
    W + (α/r)·B·A, with A drawn from ``seed`` and B = 0. BitFit (Ben Zaken et al., ACL 2022) trains
    every bias of the model. Raises SelectionMismatch if the model has nothing to adapt.
    """
    if adapter.type == "lora":
        _inject(loaded, adapter, seed)
    chosen = loaded.head | _own_tensors(loaded, adapter)
    ids = {id(parameter) for parameter in chosen.values()}
    for parameter in loaded.model.parameters():
        parameter.requires_grad_(id(parameter) in ids)
    trained = {name: p for name, p in loaded.model.named_parameters() if p.requires_grad}
    if trained.keys() != chosen.keys():
        raise AssertionError("the trainable parameters are not the adapter's")
    return trained


def _own_tensors(loaded: LoadedModel, adapter: AdapterSpec) -> dict[str, nn.Parameter]:
    named = dict(loaded.model.named_parameters())
    if adapter.type == "lora":
        low_rank = {id(p) for _, layer in lora_layers(loaded.model) for p in _matrices(layer)}
        return {name: p for name, p in named.items() if id(p) in low_rank}
    biases = {name: parameter for name, parameter in named.items() if is_bias(name)}
    inside = {id(p) for block in loaded.blocks for p in block.module.parameters()}
    if not any(id(bias) in inside for bias in biases.values()):
        raise no_biases(loaded.source.id)
    return biases


def _inject(loaded: LoadedModel, adapter: AdapterSpec, seed: int) -> None:
    targets = _linear_layers(loaded)
    if not targets:
        raise SelectionMismatch(
            f"the blocks of {loaded.source.id} have no linear layers to adapt",
            [Fault("the model has no linear layers", pointer="/adapter/type")],
        )
    torch.manual_seed(seed)
    inject_adapter_in_model(lora_config(adapter, list(targets)), loaded.model)
    adapted = {id(layer.base_layer) for _, layer in lora_layers(loaded.model)}
    if adapted != {id(module) for module in targets.values()}:
        raise AssertionError("the adapted linear layers are not those of the blocks")


def _linear_layers(loaded: LoadedModel) -> dict[str, nn.Linear]:
    """The Linear modules of the blocks, by their paths in the model."""
    inside = {id(module) for block in loaded.blocks for module in block.module.modules()}
    return {
        name: module
        for name, module in loaded.model.named_modules()
        if id(module) in inside and isinstance(module, nn.Linear)
    }


def lora_config(adapter: AdapterSpec, targets: list[str]) -> LoraConfig:
    """The adapter's options as PEFT's config; α is twice the rank unless given."""
    return LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha or 2 * adapter.rank,  # type: ignore[arg-type]
        lora_dropout=adapter.dropout,
        target_modules=targets,
        bias="none",
    )


def lora_layers(model: nn.Module) -> Iterator[tuple[str, Linear]]:
    """The path and module of each Linear with LoRA."""
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            yield name, module


def _matrices(layer: Linear) -> list[nn.Parameter]:
    return [*layer.lora_A.parameters(), *layer.lora_B.parameters()]


def unadapted_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict that the model would have without LoRA: its weights without the updates."""
    state = dict(model.state_dict())
    for path, _ in lora_layers(model):
        own = {name: state.pop(name) for name in list(state) if name.startswith(f"{path}.")}
        base = f"{path}.base_layer."
        state |= {
            f"{path}.{name.removeprefix(base)}": tensor
            for name, tensor in own.items()
            if name.startswith(base)
        }
    return state


@torch.no_grad()
def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of an equal model without LoRA: the updates are added to the weights."""
    state = unadapted_state(model)
    updates = {f"{p}.weight": layer.get_delta_weight(ADAPTER) for p, layer in lora_layers(model)}
    return state | {name: state[name] + update for name, update in updates.items()}
