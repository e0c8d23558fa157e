"""What trains in place of layers: low-rank updates of their linear maps, or biases alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear
from torch import Tensor, nn

from surgery.adapter_checks import is_bias, no_biases
from surgery.errors import Fault, SelectionMismatch
from surgery.finetune_spec import FinetuneSpec
from surgery.loading import LoadedModel
from surgery.selection import freeze_all_but, trained_parameters
from surgery.training_spec import AdapterSpec
from surgery.units import Unit

ADAPTER = "default"  # PEFT's own name for the only one


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
        r=adapter.rank, lora_alpha=adapter.alpha or 2 * adapter.rank,  # type: ignore[arg-type]
        lora_dropout=adapter.dropout, target_modules=targets, bias="none",
    )  # fmt: skip


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
