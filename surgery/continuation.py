"""Begin a run with the weights of an earlier one."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from surgery.adapter_checkpoint import merge_adapter
from surgery.card import CARD_FILE
from surgery.checkpoint import apply_delta, read_record
from surgery.data import TaskData
from surgery.errors import CheckpointMismatch, Fault
from surgery.folder import check_intact
from surgery.loading import LoadedModel
from surgery.merge import ADAPTER_FILE, WEIGHTS_FILE
from surgery.parentage import continuation_fault


def begin_with(loaded: LoadedModel, data: TaskData, folder: Path) -> None:
    """Give a freshly loaded model the weights of a checkpoint of the same base, in place.

    What the checkpoint trained and the new run freezes differs from the base and so travels in the
    new run's deltas. Raises CheckpointMismatch where base, problem or labels are others, and
    CheckpointDamaged.
    """
    record = read_record(folder)
    detail = continuation_fault(
        record, loaded.source.id, loaded.source.fingerprint, data.problem, data.labels
    )
    if detail is not None:
        raise CheckpointMismatch(detail, [Fault(detail, pointer="/continue_from")])
    check_intact(folder, but=CARD_FILE)
    if not (folder / WEIGHTS_FILE).exists():
        apply = merge_adapter if (folder / ADAPTER_FILE).exists() else apply_delta
        apply(loaded.model, folder)
        return
    state = loaded.model.state_dict()
    with torch.no_grad():
        for name, tensor in load_file(folder / WEIGHTS_FILE).items():
            state[name].copy_(tensor)
