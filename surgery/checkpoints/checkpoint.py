"""Write and load checkpoints of every form, and begin a run with their weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig

from surgery import __version__
from surgery.checkpoints.base_weights import (
    BaseWeights,
    digest_of_origins,
    find_origins,
    weights_of,
)
from surgery.checkpoints.card import CARD_FILE, CheckpointForm, documents, record_format
from surgery.checkpoints.compatibility import continuation_fault
from surgery.checkpoints.lora import merged_tensors, saved_name, write_adapter
from surgery.checkpoints.merge import ADAPTER_FILE, DELTA, RECORD, Origin, origins_of
from surgery.checkpoints.record import CheckpointRecord
from surgery.data.tokens.dataset import TaskData
from surgery.errors import CheckpointMismatch, Fault
from surgery.io.folders import check_intact, complete_folder
from surgery.models.loading import HEAD_CLASSES, LoadedModel, head_class
from surgery.models.source.folder import WEIGHTS_FILE, weights_among
from surgery.models.trainable import merged_state, unadapted_state
from surgery.schemas.enums import Problem


def write_checkpoint(
    target: Path,
    loaded: LoadedModel,
    trained: Sequence[str],
    form: CheckpointForm,
    record: CheckpointRecord,
) -> None:
    """Write a checkpoint folder, which appears only when complete. ``adapter`` is for LoRA only."""
    with complete_folder(target) as folder:
        adapter = form == "adapter"
        state = unadapted_state(loaded.model) if adapter else merged_state(loaded.model)
        changed = {*trained, *loaded.new}
        frozen = find_origins(loaded, {n: t for n, t in state.items() if n not in changed})
        config: Any = loaded.model.config
        config.architectures = [type(loaded.model).__name__]
        if record.thresholds is not None:
            config.label_thresholds = dict(record.thresholds)
        config.save_pretrained(folder)
        _save_tokenizer(loaded.tokenizer, folder)
        if form == "adapter":
            write_adapter(folder, loaded, Problem(record.problem), frozen)
        elif form == "full":
            _save(state, folder / WEIGHTS_FILE)
        else:
            # The delta holds everything that the base does not.
            _save({n: t for n, t in state.items() if n not in frozen}, folder / DELTA)
        names = sorted({saved_name(name, form) for name in trained})
        entries = _entries(loaded, form, record, names, frozen)
        for file, text in documents(entries).items():
            (folder / file).write_text(text)


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, path, metadata={"format": "pt"})


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Save a tokenizer with the names of the model's inputs, which may differ from its defaults."""
    # `tokenizer.pad` pads by the length of the first input, which gets the padding token.
    others = [name for name in tokenizer.model_input_names if name != "input_ids"]
    tokenizer.model_input_names = ["input_ids", *others]
    tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names  # else not saved
    tokenizer.save_pretrained(folder)


def _entries(
    loaded: LoadedModel,
    form: CheckpointForm,
    record: CheckpointRecord,
    trained: list[str],
    frozen: dict[str, Origin],
) -> dict[str, Any]:
    source = loaded.source
    base = {"id": source.id, "revision": source.revision, "fingerprint": source.fingerprint}
    return {
        "format": record_format(form),
        "base": base,
        **asdict(record),
        "trained": trained,
        "frozen": {name: origin.key for name, origin in frozen.items()},
        "rows": {name: origin.rows for name, origin in frozen.items() if origin.rows},
        "frozen_sha256": digest_of_origins(weights_of(loaded), frozen.values()),
        "versions": {"surgery": __version__, "torch": torch.__version__},
    }


def apply_delta(model: nn.Module, delta: Path | str) -> nn.Module:
    """Copy a delta's tensors into a task model, in place.

    Raises CheckpointMismatch, and changes nothing, if the model has the head of another problem,
    lacks one of the tensors or has it in another shape.
    """
    folder = Path(delta)
    _check_head(model, folder)
    if (folder / ADAPTER_FILE).exists():
        raise CheckpointMismatch(
            f"{folder} is an adapter, not a delta; use surgery.load, or PEFT's from_pretrained"
        )
    return _copied(model, load_file(folder / DELTA), "delta")


@torch.no_grad()
def _apply(model: nn.Module, folder: Path) -> nn.Module:
    """Copy a checkpoint of any form into a model that has its base's weights, in place."""
    if (folder / WEIGHTS_FILE).exists():
        whole = load_file(folder / WEIGHTS_FILE)
        missing = sorted(model.state_dict().keys() - whole.keys())
        if missing:
            raise CheckpointMismatch(f"the checkpoint in {folder} has no {missing[0]}")
        return _copied(model, whole, "checkpoint")
    if (folder / ADAPTER_FILE).exists():
        return _copied(model, merged_tensors(model.state_dict(), folder), "adapter")
    return apply_delta(model, folder)


@torch.no_grad()
def _copied(model: nn.Module, tensors: Mapping[str, Tensor], what: str) -> nn.Module:
    """Copy tensors into a model. Raises CheckpointMismatch, and changes nothing, if one misfits."""
    state = model.state_dict()
    wrong = [n for n, t in tensors.items() if n not in state or state[n].shape != t.shape]
    if wrong:
        raise CheckpointMismatch(
            f"the {what} does not fit the model: {wrong[0]} and {len(wrong) - 1} more"
        )
    for name, tensor in tensors.items():
        state[name].copy_(tensor)
    return model


def _check_head(model: nn.Module, folder: Path) -> None:
    """Raise CheckpointMismatch if the model's head is for another problem than the checkpoint's.

    The heads of two problems may have tensors of the same names and shapes.
    """
    config = _read_config(folder)
    kind = head_class(config, Problem(read_record(folder)["problem"]))
    heads: set[Any] = {m[type(config)] for m in HEAD_CLASSES.values() if type(config) in m}
    if type(model) in heads - {kind}:
        raise CheckpointMismatch(
            f"the delta is of a {kind.__name__}, but the model is a {type(model).__name__}"
        )


def load(base: Path | str, checkpoint: Path | str) -> nn.Module:
    """The fine-tuned model in eval mode, from the folders of its base and of any checkpoint.

    LoRA's updates are added to the weights, so that the result is a plain model. The checkpoint may
    be unpacked from a downloaded archive. Raises CheckpointMismatch if the folder is not a
    checkpoint of this package, or ``base`` is not the model that was trained, and CheckpointDamaged
    if a file differs from the folder's manifest.
    """
    folder = Path(checkpoint)
    record = read_record(folder)
    check_intact(folder, but=CARD_FILE)
    config = _read_config(folder)
    model: nn.Module = head_class(config, Problem(record["problem"]))(config)
    if not (folder / WEIGHTS_FILE).exists():
        model.load_state_dict(_frozen_tensors(Path(base), record), strict=False)
    return _apply(model, folder).eval()


def _frozen_tensors(base: Path, record: Mapping[str, Any]) -> dict[str, Tensor]:
    """The frozen tensors, read from a base that is proved to be the one that was trained."""
    files = tuple(base / name for name in weights_among([path.name for path in base.iterdir()]))
    weights, frozen, meant = BaseWeights(files), origins_of(record), record["base"]
    missing = [origin.key for origin in frozen.values() if origin not in weights]
    if missing:
        raise CheckpointMismatch(f"{base} is not the base of this delta: it has no {missing[0]}")
    if digest_of_origins(files, frozen.values()) != record["frozen_sha256"]:
        raise CheckpointMismatch(
            f"{base} is not the base of this delta: its tensors have other values than those of "
            f"{meant['id']} (revision {meant['revision'] or 'of the mirror'}) that were trained on"
        )
    return {name: weights.read(origin) for name, origin in frozen.items()}


def read_record(folder: Path) -> dict[str, Any]:
    """A checkpoint's record. Raises CheckpointMismatch if the folder is not a checkpoint."""
    path = folder / RECORD
    if not path.is_file():
        raise CheckpointMismatch(
            f"{folder} has no {RECORD}, so it is not a checkpoint of Layer Surgeon; name the whole "
            "folder that a fine-tune wrote, or load this one with transformers"
        )
    record: dict[str, Any] = json.loads(path.read_text())
    return record


def _read_config(folder: Path) -> Any:
    entries = json.loads((folder / "config.json").read_text())
    return AutoConfig.for_model(entries.pop("model_type"), **entries)


def begin_with(loaded: LoadedModel, data: TaskData, folder: Path) -> None:
    """Copy the weights of a checkpoint of the same base into a freshly loaded model, in place.

    Tensors that the checkpoint trained and the new run freezes differ from the base, so the new
    run's deltas contain them too. Raises CheckpointMismatch if base, problem or labels differ, and
    CheckpointDamaged.
    """
    record = read_record(folder)
    detail = continuation_fault(
        record, loaded.source.id, loaded.source.fingerprint, data.problem, data.labels
    )
    if detail is not None:
        raise CheckpointMismatch(detail, [Fault(detail, pointer="/continue_from")])
    check_intact(folder, but=CARD_FILE)
    _apply(loaded.model, folder)
    loaded.continued = True
