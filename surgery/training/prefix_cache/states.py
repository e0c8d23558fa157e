"""The stored hidden states of a frozen prefix in a flat array, and the key they have."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from surgery.data.tokens.dataset import Encoded
from surgery.io.digests import json_digest
from surgery.models.loading import LoadedModel
from surgery.schemas.enums import TrainingPrecision
from surgery.schemas.options.training import TrainingSpec
from surgery.training.prefix_cache.trace import Cut

Positions = np.ndarray[Any, np.dtype[np.int64]]

STATES_FORMAT = 1  # version of the stored states


class Layout:
    """Where the states of each sequence lie in a flat array (M + 1, d) whose last row is zero.

    With ``first_only``, only the state of each sequence's first token is stored. Rows of a model
    that takes no mask are stored with their padding.
    """

    def __init__(self, encoded: Encoded, *, first_only: bool) -> None:
        sequences = len(encoded.offsets) - 1
        own = np.diff(encoded.offsets)
        if first_only:
            stored = np.ones(sequences, dtype=np.int64)
        elif encoded.pad_to is not None:
            stored = np.full(sequences, encoded.pad_to, dtype=np.int64)
        else:
            stored = np.asarray(own, dtype=np.int64)
        self._own, self._stored = own, stored
        self._starts = np.concatenate([[0], np.cumsum(stored)[:-1]]).astype(np.int64)
        self._choices, self._pad_to = encoded.choices, encoded.pad_to
        self._pad_left = encoded.pad_left and encoded.pad_to is None and not first_only
        self.states = int(stored.sum())

    def positions(self, rows: Sequence[int], tokens: int) -> Positions:
        """The flat position of each token of a padded batch, (N, ``tokens``); M for padding."""
        sequences = np.asarray(rows, dtype=np.int64)
        if self._choices > 1:
            sequences = (sequences[:, None] * self._choices + np.arange(self._choices)).ravel()
        stored = self._stored[sequences][:, None]
        at = np.arange(tokens)[None]
        if self._pad_left:
            own = self._own[sequences]
            at = at - (own.max() - own)[:, None]
        positions = self._starts[sequences][:, None] + at
        return np.where((at >= 0) & (at < stored), positions, self.states)


class States:
    """The states of a split's rows on one device or in a mapped file.

    ``flat`` has shape (M + 1, d), with a last row of zeros, in the dtype of the stored states.
    """

    def __init__(self, layout: Layout, flat: Tensor) -> None:
        self.layout, self.flat = layout, flat

    def put(self, rows: Sequence[int], states: Tensor) -> None:
        """Store the states (N, T, d) that the model computed for some rows."""
        positions = torch.from_numpy(self.layout.positions(rows, states.shape[1]).ravel())
        own = (positions < self.layout.states).nonzero().squeeze(1)
        values = states.reshape(-1, states.shape[2]).to(self.flat.dtype)
        values = values[own.to(values.device)]
        self.flat[positions[own].to(self.flat.device)] = values.to(self.flat.device)

    def padded(self, rows: Sequence[int], tokens: int) -> Tensor:
        """The states of some rows, (N, ``tokens``, d), with zeros for padding."""
        positions = torch.from_numpy(self.layout.positions(rows, tokens))
        values = self.flat.index_select(0, positions.flatten().to(self.flat.device))
        return values.view(*positions.shape, -1)


def prefix_key(
    loaded: LoadedModel,
    cut: Cut,
    digests: Mapping[str, str],
    training: TrainingSpec,
    dtype: torch.dtype,
) -> str:
    """A hash of the model, the values of its frozen tensors, the prefix's end and the formats.

    ``digests`` are `trainable.frozen_digests`; parameters above the prefix do not count.
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
    return json_digest(
        [STATES_FORMAT, loaded.source.fingerprint, runs, frozen, computed, str(dtype)]
    )


def split_key(prefix: str, split: str, encoded: Encoded, layout: Layout) -> str:
    """A hash of the prefix's key, the split's tokens without their labels, and their layout."""
    digest = hashlib.sha256()
    for array in (encoded.ids, encoded.types, encoded.offsets):
        digest.update(b"-" if array is None else np.ascontiguousarray(array).data)
    form = [encoded.pad_id, encoded.pad_type, encoded.pad_left, encoded.pad_to, encoded.choices]
    return json_digest([prefix, split, digest.hexdigest(), form, layout.states])
