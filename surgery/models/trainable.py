"""What trains and what is frozen: layers by the identity of their parameters, or an adapter.

That frozen tensors stay as they are is proved by their digests.
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
from surgery.schemas.finetune import FinetuneSpec
from surgery.schemas.training import AdapterSpec

ADAPTER = "default"  # PEFT's own name for the only one


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


def make_trainable(
    loaded: LoadedModel, layers: Sequence[Unit], spec: FinetuneSpec
) -> dict[str, nn.Parameter]:
    """Make exactly what a request trains trainable, in place; return it by name.

    Raises SelectionMismatch where the model has no such part.
    """
    if spec.adapter is None:
        return freeze_all_but(loaded, layers, spec.selection.include)
    return train_adapter(loaded, spec.adapter, spec.training.seed)


def count_trainable(loaded: LoadedModel, layers: Sequence[Unit], spec: FinetuneSpec) -> int:
    """How many numbers `make_trainable` would make trainable; the model stays as it is."""
    adapter = spec.adapter
    if adapter is None:
        trained = trained_parameters(loaded, layers, spec.selection.include)
        return sum(parameter.numel() for parameter in trained.values())
    own = sum(parameter.numel() for parameter in loaded.head.values())
    if adapter.type == "lora":
        linear = _linear_maps(loaded).values()
        return own + sum(adapter.rank * (one.in_features + one.out_features) for one in linear)
    biases = loaded.head | _own_tensors(loaded, adapter)
    return sum(parameter.numel() for parameter in biases.values())


def train_adapter(loaded: LoadedModel, adapter: AdapterSpec, seed: int) -> dict[str, nn.Parameter]:
    """Make exactly the adapter and the head trainable, in place; return them by name.

    LoRA (Hu et al., ICLR 2022): every Linear of the blocks, found by identity, becomes
    W + (α/r)·B·A with A drawn from ``seed`` and B = 0. BitFit (Ben Zaken et al., ACL 2022): every
    bias of the model. Raises SelectionMismatch where the model has nothing to adapt.
    """
    if adapter.type == "lora":
        _inject(loaded, adapter, seed)
    chosen = loaded.head | _own_tensors(loaded, adapter)
    wanted = {id(parameter) for parameter in chosen.values()}
    for parameter in loaded.model.parameters():
        parameter.requires_grad_(id(parameter) in wanted)
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
    targets = _linear_maps(loaded)
    if not targets:
        raise SelectionMismatch(
            f"the blocks of {loaded.source.id} have no linear maps to adapt",
            [Fault("the model has no linear maps", pointer="/adapter/type")],
        )
    torch.manual_seed(seed)
    inject_adapter_in_model(lora_config(adapter, list(targets)), loaded.model)
    adapted = {id(layer.base_layer) for _, layer in lora_layers(loaded.model)}
    if adapted != {id(module) for module in targets.values()}:
        raise AssertionError("the adapted maps are not those of the blocks")


def _linear_maps(loaded: LoadedModel) -> dict[str, nn.Linear]:
    """Path in the model → Linear, for those of the blocks."""
    inside = {id(module) for block in loaded.blocks for module in block.module.modules()}
    return {
        name: module
        for name, module in loaded.model.named_modules()
        if id(module) in inside and isinstance(module, nn.Linear)
    }


def lora_config(adapter: AdapterSpec, targets: list[str]) -> LoraConfig:
    """As PEFT has it; α is twice the rank unless given."""
    return LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha or 2 * adapter.rank,  # type: ignore[arg-type]
        lora_dropout=adapter.dropout,
        target_modules=targets,
        bias="none",
    )


def lora_layers(model: nn.Module) -> Iterator[tuple[str, Linear]]:
    """Path → adapted Linear."""
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            yield name, module


def _matrices(layer: Linear) -> list[nn.Parameter]:
    return [*layer.lora_A.parameters(), *layer.lora_B.parameters()]


def unadapted_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of the model as it was before LoRA: its weights without the updates."""
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
    """The state dict of the same model without LoRA: the updates are added to the weights."""
    state = unadapted_state(model)
    updates = {f"{p}.weight": layer.get_delta_weight(ADAPTER) for p, layer in lora_layers(model)}
    return state | {name: state[name] + update for name, update in updates.items()}
