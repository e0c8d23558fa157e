"""Write a LoRA adapter in PEFT's format, and merge one into the weights of its base."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from surgery.checkpoints.card import CheckpointForm
from surgery.checkpoints.merge import ADAPTER_CONFIG, ADAPTER_FILE
from surgery.errors import ModelUnsupported
from surgery.models.loading import LoadedModel
from surgery.models.trainable import ADAPTER, unadapted_state
from surgery.schemas.enums import Problem

PREFIX = "base_model.model."  # of every tensor in PEFT's files
SUFFIX = f".{ADAPTER}."  # in the names of a model's LoRA matrices, but not on disk
TASK_TYPES = {
    Problem.CLASSIFICATION: "SEQ_CLS",
    Problem.MULTI_LABEL: "SEQ_CLS",
    Problem.REGRESSION: "SEQ_CLS",
    Problem.TOKEN_CLASSIFICATION: "TOKEN_CLS",
}


def saved_name(name: str, form: CheckpointForm) -> str:
    """The name of a model's trained tensor in a checkpoint of this form.

    A full checkpoint has the merged weights in the place of LoRA's matrices.
    """
    path, _, matrix = name.rpartition(".lora_")
    if not path:
        return name
    return f"{path}.weight" if form == "full" else f"{path}.lora_{matrix}".replace(SUFFIX, ".")


def write_adapter(
    folder: Path, loaded: LoadedModel, problem: Problem, frozen: Collection[str]
) -> None:
    """Write the two files that `PeftModel.from_pretrained` reads: the settings, and the tensors.

    ``frozen`` names the tensors that the base holds. Raises ModelUnsupported if PEFT could not
    rebuild the model from its base and these files.
    """
    model: Any = loaded.model
    lost = unadapted_state(model).keys() - loaded.head.keys() - set(frozen)
    if lost:
        raise ModelUnsupported(
            f"{loaded.source.id} does not hold {min(lost)} with the values used in training, so an "
            "adapter of it would not load; keep checkpoints in form full"
        )
    config: LoraConfig = model.peft_config[ADAPTER]
    config.modules_to_save = head_modules(loaded)
    config.task_type = TASK_TYPES.get(problem)
    config.base_model_name_or_path = loaded.source.id
    config.revision = loaded.source.revision
    config.inference_mode = True
    config.save_pretrained(str(folder))
    tensors = {
        PREFIX + saved_name(name, "adapter"): parameter.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    save_file(tensors, folder / ADAPTER_FILE, metadata={"format": "pt"})


def head_modules(loaded: LoadedModel) -> list[str]:
    """The paths of the modules that hold the head, for PEFT, which matches modules by path endings.

    Raises ModelUnsupported if such an ending also matches a module outside the head.
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
    """The outermost module on a path that holds only parameters of the head."""
    parts = path.split(".")
    for end in range(1, len(parts)):
        above = ".".join(parts[:end])
        if {id(parameter) for parameter in model.get_submodule(above).parameters()} <= head:
            return above
    return path


def merged_tensors(state: Mapping[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """The tensors that an adapter changes in its base's ``state``: W + (α/r)·B·A, and the head."""
    settings = json.loads((folder / ADAPTER_CONFIG).read_text())
    scale = settings["lora_alpha"] / settings["r"]
    tensors = load_file(folder / ADAPTER_FILE)
    return _merged(state, {n.removeprefix(PREFIX): t for n, t in tensors.items()}, scale)


def _merged(
    state: Mapping[str, Tensor], tensors: Mapping[str, Tensor], scale: float
) -> dict[str, Tensor]:
    merged = {}
    for name, tensor in tensors.items():
        path, _, matrix = name.rpartition(".lora_")
        if not path:
            merged[name] = tensor
        elif matrix == "B.weight":
            update = scale * tensor @ tensors[f"{path}.lora_A.weight"]
            base = state.get(f"{path}.weight")
            if base is not None and base.shape == update.shape:
                update = base + update
            merged[f"{path}.weight"] = update
    return merged
