"""Under which name stored states are found again: all that they depend on, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import numpy as np
import torch
import transformers

from surgery.data import Encoded
from surgery.loading import LoadedModel
from surgery.prefix_states import Layout
from surgery.prefix_trace import Cut
from surgery.terms import TrainingPrecision
from surgery.training_spec import TrainingSpec

FORMAT = 1  # of the stored states


def prefix_key(
    loaded: LoadedModel,
    cut: Cut,
    digests: Mapping[str, str],
    training: TrainingSpec,
    dtype: torch.dtype,
) -> str:
    """One for each model, values of its frozen tensors, end of the prefix and number format.

    ``digests`` are `selection.frozen_digests`; parameters above the prefix do not count.
    """
    inside = {id(module) for module in cut.blocks}
    above = {
        id(parameter)
        for block in loaded.blocks
        if id(block.module) not in inside
        for parameter in block.module.parameters()
    }
    elsewhere = {name for name, p in loaded.model.named_parameters() if id(p) in above}
    frozen = sorted((name, value) for name, value in digests.items() if name not in elsewhere)
    device = next(loaded.model.parameters()).device
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    precision = training.precision or TrainingPrecision.FP32
    computed = [kind, precision.value, torch.__version__, transformers.__version__]
    runs = [run.block.name for run in cut.runs]
    return _digest([FORMAT, loaded.source.fingerprint, runs, frozen, computed, str(dtype)])


def split_key(prefix: str, split: str, encoded: Encoded, layout: Layout) -> str:
    """One for each set of rows as tokens, their labels aside, and each way a split is run in."""
    digest = hashlib.sha256()
    for array in (encoded.ids, encoded.types, encoded.offsets):
        digest.update(b"-" if array is None else np.ascontiguousarray(array).data)
    form = [encoded.pad_id, encoded.pad_type, encoded.pad_left, encoded.pad_to, encoded.choices]
    return _digest([prefix, split, digest.hexdigest(), form, layout.states])


def _digest(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
