"""Delta and full checkpoints: write them whole, load them back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from surgery import __version__
from surgery.errors import SelectionMismatch
from surgery.folder import complete_folder
from surgery.headers import TensorHeader, read_header, strip_prefix
from surgery.loading import LoadedModel
from surgery.merge import DELTA, RECORD

Form = Literal["delta", "full"]

CARD = """---
base_model: {base}
library_name: transformers
pipeline_tag: text-classification
tags: [layer-surgeon, surgical-fine-tuning]
---

# {base}, fine-tuned on {layers}

Trained with [Layer Surgeon] {version}: only the layers above, the head{included} changed; every
other tensor is the base model's, byte for byte (revision {revision}, {fingerprint}).

| metric | value |
|---|--:|
{metrics}

{recipe}
"""
FULL_RECIPE = """```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("<this folder>")
tokenizer = AutoTokenizer.from_pretrained("<this folder>")
```"""
DELTA_RECIPE = """This folder is a delta: `delta.safetensors` holds what was trained. Load it with
safetensors alone:

```python
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification

config = AutoConfig.from_pretrained("<this folder>")
model = AutoModelForSequenceClassification.from_pretrained("{base}", config=config)
model.load_state_dict(load_file("<this folder>/delta.safetensors"), strict=False)
```

or `surgery.load("<folder of the base model>", "<this folder>")`, which checks every name."""


@dataclass(frozen=True)
class CheckpointRecord:
    """What a checkpoint says about itself, kept in ``surgery.json``."""

    layers: Sequence[str]
    included: Sequence[str]
    problem: str
    labels: Sequence[str]
    metrics: Mapping[str, float | None]
    epoch: int
    step: int


def write_checkpoint(
    target: Path, loaded: LoadedModel, trained: Sequence[str], form: Form, record: CheckpointRecord
) -> None:
    """Write a checkpoint folder, whole or not at all."""
    with complete_folder(target) as folder:
        state = loaded.model.state_dict()
        frozen = base_keys(loaded, [name for name in state if name not in set(trained)])
        loaded.model.config.save_pretrained(folder)  # type: ignore[union-attr,operator]
        loaded.tokenizer.save_pretrained(folder)
        if form == "full":
            tensors, name = dict(state), "model.safetensors"
        else:
            # Whatever the base does not hold under a known name travels in the delta.
            tensors, name = {n: t for n, t in state.items() if n not in frozen}, DELTA
        kept = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        save_file(kept, folder / name, metadata={"format": "pt"})
        entries = _entries(loaded, form, record, sorted(trained), frozen)
        (folder / RECORD).write_text(json.dumps(entries, indent=1))
        (folder / "README.md").write_text(_card(entries))


def base_keys(loaded: LoadedModel, names: Sequence[str]) -> dict[str, str]:
    """Frozen tensor → its name and bytes in the base checkpoint, where it is there unchanged.

    Old checkpoints leave out the task prefix and write gamma and beta for a LayerNorm.
    """
    held: dict[str, TensorHeader] = {}
    for file in loaded.source.weights:
        held |= read_header(loaded.snapshot / file)[0]
    state = loaded.model.state_dict()
    found = {}
    for name in names:
        short = strip_prefix(name, loaded.source.prefix)
        options = [name, short, *(_legacy(option) for option in (name, short))]
        match = next((o for o in options if o in held and held[o].shape == state[name].shape), None)
        if match is not None and name not in loaded.new:
            found[name] = match
    return found


def _legacy(name: str) -> str:
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
        "LayerNorm.bias", "LayerNorm.beta"
    )


def _entries(
    loaded: LoadedModel,
    form: Form,
    record: CheckpointRecord,
    trained: list[str],
    frozen: dict[str, str],
) -> dict[str, Any]:
    source = loaded.source
    return {
        "format": f"layer-surgeon/{form}/1",
        "base": {
            "id": source.id, "revision": source.revision, "fingerprint": source.fingerprint,
        },
        "layers": list(record.layers),
        "included": list(record.included),
        "problem": record.problem,
        "labels": list(record.labels),
        "metrics": dict(record.metrics),
        "epoch": record.epoch,
        "step": record.step,
        "trained": trained,
        "frozen": frozen,
        "versions": {"surgery": __version__, "torch": torch.__version__},
    }  # fmt: skip


def _card(entries: Mapping[str, Any]) -> str:
    base = entries["base"]
    recipe = FULL_RECIPE if "/full/" in entries["format"] else DELTA_RECIPE.format(base=base["id"])
    return CARD.format(
        base=base["id"],
        revision=base["revision"] or "of the mirror",
        fingerprint=base["fingerprint"],
        layers=", ".join(entries["layers"]) or "the head alone",
        included="".join(f", the {part}" for part in entries["included"]),
        version=__version__,
        metrics="\n".join(
            f"| {name} | {'undefined' if value is None else f'{value:.4f}'} |"
            for name, value in entries["metrics"].items()
        ),
        recipe=recipe,
    )


def apply_delta(model: nn.Module, delta: Path | str) -> nn.Module:
    """Copy a delta's tensors into a task model, in place.

    Raises SelectionMismatch when the model has no such tensor or another shape; nothing is changed
    then.
    """
    tensors = load_file(Path(delta) / DELTA)
    state = model.state_dict()
    wrong = [n for n, t in tensors.items() if n not in state or state[n].shape != t.shape]
    if wrong:
        raise SelectionMismatch(
            f"the delta does not fit the model: {wrong[0]} and {len(wrong) - 1} more"
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            state[name].copy_(tensor)
    return model


def load(base: Path | str, checkpoint: Path | str) -> nn.Module:
    """The fine-tuned model in eval mode, from its base's folder and a delta or full folder."""
    folder = Path(checkpoint)
    entries = json.loads((folder / "config.json").read_text())
    config = AutoConfig.for_model(entries.pop("model_type"), **entries)
    model: nn.Module = AutoModelForSequenceClassification.from_config(config)
    if (folder / "model.safetensors").exists():
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model.eval()
    record = json.loads((folder / RECORD).read_text())
    held: dict[str, Tensor] = {}
    for weights in sorted(Path(base).glob("model*.safetensors")):
        held |= load_file(weights)
    missing = [key for key in record["frozen"].values() if key not in held]
    if missing:
        raise SelectionMismatch(f"{base} is not the base of this delta: it has no {missing[0]}")
    model.load_state_dict({name: held[key] for name, key in record["frozen"].items()}, strict=False)
    return apply_delta(model, folder).eval()
