"""A LoRA adapter as PEFT keeps it: written, and put into the weights of its base again."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from surgery.checkpoints.card import Form
from surgery.checkpoints.merge import ADAPTER_CONFIG, ADAPTER_FILE
from surgery.errors import ModelUnsupported
from surgery.models.loading import LoadedModel
from surgery.models.trainable import ADAPTER, unadapted_state
from surgery.schemas.enums import Problem

PREFIX = "base_model.model."  # PEFT's, of every tensor
SUFFIX = f".{ADAPTER}."  # inside the names of a model's own, not of those on disk
TASK_TYPES = {
    Problem.CLASSIFICATION: "SEQ_CLS",
    Problem.REGRESSION: "SEQ_CLS",
    Problem.TOKEN_CLASSIFICATION: "TOKEN_CLS",
}


def kept_name(name: str, form: Form) -> str:
    """What a trained tensor of the model is called in a checkpoint of this form.

    A full one has the weights in place of LoRA's matrices.
    """
    path, _, matrix = name.rpartition(".lora_")
    if not path:
        return name
    return f"{path}.weight" if form == "full" else f"{path}.lora_{matrix}".replace(SUFFIX, ".")


def write_adapter(
    folder: Path, loaded: LoadedModel, problem: Problem, frozen: Collection[str]
) -> None:
    """The two files that `PeftModel.from_pretrained` reads: the settings, the matrices and head.

    ``frozen`` names what the base holds. Raises ModelUnsupported where PEFT could not put the model
    together from its base and this.
    """
    model: Any = loaded.model
    lost = unadapted_state(model).keys() - loaded.head.keys() - set(frozen)
    if lost:
        raise ModelUnsupported(
            f"{loaded.source.id} does not hold {min(lost)} as it was trained on, so an adapter of "
            "it would not load; keep checkpoints in form full"
        )
    config: LoraConfig = model.peft_config[ADAPTER]
    config.modules_to_save = head_modules(loaded)
    config.task_type = TASK_TYPES.get(problem)
    config.base_model_name_or_path = loaded.source.id
    config.revision = loaded.source.revision
    config.inference_mode = True
    config.save_pretrained(str(folder))
    tensors = {
        PREFIX + kept_name(name, "adapter"): parameter.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    save_file(tensors, folder / ADAPTER_FILE, metadata={"format": "pt"})


def head_modules(loaded: LoadedModel) -> list[str]:
    """Paths of the modules that hold the head, for PEFT, which takes a path's ending for a path.

    Raises ModelUnsupported where an ending would also mean a module outside the head.
    """
    head = {id(parameter) for parameter in loaded.head.values()}
    owners = {name.rpartition(".")[0] for name in loaded.head}
    outermost = {_outermost(loaded.model, owner, head) for owner in owners}
    for name, module in loaded.model.named_modules():
        also = name.endswith(tuple(outermost))
        if also and not {id(parameter) for parameter in module.parameters()} <= head:
            raise ModelUnsupported(
                f"PEFT cannot tell the head of {loaded.source.id} from {name}; keep checkpoints "
                "in form full"
            )
    return sorted(outermost)


def _outermost(model: nn.Module, path: str, head: set[int]) -> str:
    """The highest module on a path that holds nothing but the head's parameters."""
    parts = path.split(".")
    for end in range(1, len(parts)):
        above = ".".join(parts[:end])
        if {id(parameter) for parameter in model.get_submodule(above).parameters()} <= head:
            return above
    return path


def merged_tensors(state: Mapping[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """What an adapter makes of its base's ``state``: the weights W + (α/r)·B·A, and the head."""
    settings = json.loads((folder / ADAPTER_CONFIG).read_text())
    scale = settings["lora_alpha"] / settings["r"]
    tensors = load_file(folder / ADAPTER_FILE)
    return _merged(state, {n.removeprefix(PREFIX): t for n, t in tensors.items()}, scale)


def _merged(
    state: Mapping[str, Tensor], tensors: Mapping[str, Tensor], scale: float
) -> dict[str, Tensor]:
    found = {}
    for name, tensor in tensors.items():
        path, _, matrix = name.rpartition(".lora_")
        if not path:
            found[name] = tensor
        elif matrix == "B.weight":
            update = scale * tensor @ tensors[f"{path}.lora_A.weight"]
            base = state.get(f"{path}.weight")
            if base is not None and base.shape == update.shape:
                update = base + update
            found[f"{path}.weight"] = update
    return found
