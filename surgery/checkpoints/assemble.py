"""Put a checkpoint together in the form in which it leaves the service."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from surgery.checkpoints.card import CARD_FILE, full_documents
from surgery.checkpoints.checkpoint import load, read_record
from surgery.checkpoints.lora import saved_name
from surgery.checkpoints.merge import ADAPTER_CONFIG, ADAPTER_FILE, DELTA, RECORD, merge
from surgery.errors import CheckpointMismatch
from surgery.io.folders import MANIFEST, check_intact, complete_folder
from surgery.models.source.folder import WEIGHTS_FILE, weights_among
from surgery.schemas.jobs.export import ExportForm

Written = Callable[[int], None]
"""Called with the number of bytes of weights that were written so far."""
PARTS = (DELTA, ADAPTER_FILE, ADAPTER_CONFIG)  # what a full folder has not


def assemble(
    checkpoint: Path, base: Path, form: ExportForm, target: Path, written: Written
) -> None:
    """Write a checkpoint in this form into a folder, which appears only when it is complete.

    ``base`` is the folder of the model that was trained. The same checkpoint in the same form gives
    the same bytes. Raises CheckpointMismatch if the checkpoint does not have this form, and
    CheckpointDamaged.
    """
    record = read_record(checkpoint)
    check_intact(checkpoint, but=CARD_FILE)
    stored = record["format"].split("/")[1]
    if form not in {stored, "full"}:
        raise CheckpointMismatch(f"the checkpoint is stored in form {stored}, not {form}")
    with complete_folder(target) as building:
        left_out = {MANIFEST} if form == stored else {MANIFEST, *PARTS, RECORD, CARD_FILE}
        for path in checkpoint.iterdir():  # copies: a link could be written through
            if path.name not in left_out:
                shutil.copyfile(path, building / path.name)
        if form == stored:
            return
        for name, text in full_documents(_full_record(record, stored)).items():
            (building / name).write_text(text)
        weights = building / WEIGHTS_FILE
        if stored == "adapter":
            _write_merged(base, checkpoint, weights)
        else:
            _write_whole(_merged_chunks(base, checkpoint), weights, written)


def _full_record(record: Mapping[str, Any], stored: str) -> dict[str, Any]:
    """The record with the names that the trained tensors have in the full form."""
    if stored != "adapter":
        return dict(record)
    names = {saved_name(name, "full") for name in record["trained"]}
    return {**record, "trained": sorted(names)}


def _merged_chunks(base: Path, checkpoint: Path) -> Iterator[bytes]:
    names = weights_among([path.name for path in base.iterdir()])
    return merge(checkpoint, [base / name for name in names]).chunks()


def _write_whole(chunks: Iterator[bytes], path: Path, written: Written) -> None:
    size = 0
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
            size += len(chunk)
            written(size)


def _write_merged(base: Path, checkpoint: Path, path: Path) -> None:
    """Write the weights of a model with LoRA's updates added."""
    state = load(base, checkpoint).state_dict()
    plain = {name: tensor.detach().contiguous() for name, tensor in state.items()}
    save_file(plain, path, metadata={"format": "pt"})
