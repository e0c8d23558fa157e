"""The stored outputs of a frozen prefix, flat as the tokens are, and the key they are found by."""

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
from surgery.schemas.training import TrainingSpec
from surgery.training.prefix_cache.trace import Cut

Places = np.ndarray[Any, np.dtype[np.int64]]

FORMAT = 1  # of the stored states


class Layout:
    """Where the states of each sequence lie in a flat array (M + 1, d) whose last row is zero.

    ``first_only`` keeps the state of each sequence's first token and no other. Rows of a model that
    takes no mask are stored with their padding.
    """

    def __init__(self, encoded: Encoded, *, first_only: bool) -> None:
        sequences = len(encoded.offsets) - 1
        own = np.diff(encoded.offsets)
        if first_only:
            kept = np.ones(sequences, dtype=np.int64)
        elif encoded.pad_to is not None:
            kept = np.full(sequences, encoded.pad_to, dtype=np.int64)
        else:
            kept = np.asarray(own, dtype=np.int64)
        self._own, self._kept = own, kept
        self._starts = np.concatenate([[0], np.cumsum(kept)[:-1]]).astype(np.int64)
        self._choices, self._pad_to = encoded.choices, encoded.pad_to
        self._pad_left = encoded.pad_left and encoded.pad_to is None and not first_only
        self.states = int(kept.sum())

    def places(self, rows: Sequence[int], tokens: int) -> Places:
        """The flat place of every token of a padded batch, shape (N, ``tokens``); M for padding."""
        sequences = np.asarray(rows, dtype=np.int64)
        if self._choices > 1:
            sequences = (sequences[:, None] * self._choices + np.arange(self._choices)).ravel()
        kept = self._kept[sequences][:, None]
        at = np.arange(tokens)[None]
        if self._pad_left:
            own = self._own[sequences]
            at = at - (own.max() - own)[:, None]
        places = self._starts[sequences][:, None] + at
        return np.where((at >= 0) & (at < kept), places, self.states)


class States:
    """States of a split's rows on one device or in a mapped file.

    ``flat`` has shape (M + 1, d), the last row zero, in the dtype they are kept in.
    """

    def __init__(self, layout: Layout, flat: Tensor) -> None:
        self.layout, self.flat = layout, flat

    def put(self, rows: Sequence[int], states: Tensor) -> None:
        """Store the states (N, T, d) of some rows as the model put them out."""
        places = torch.from_numpy(self.layout.places(rows, states.shape[1]).ravel())
        own = (places < self.layout.states).nonzero().squeeze(1)
        found = states.reshape(-1, states.shape[2]).to(self.flat.dtype)
        found = found[own.to(found.device)]
        self.flat[places[own].to(self.flat.device)] = found.to(self.flat.device)

    def padded(self, rows: Sequence[int], tokens: int) -> Tensor:
        """The states of some rows, (N, ``tokens``, d), zero where there is padding."""
        places = torch.from_numpy(self.layout.places(rows, tokens))
        found = self.flat.index_select(0, places.flatten().to(self.flat.device))
        return found.view(*places.shape, -1)


def prefix_key(
    loaded: LoadedModel,
    cut: Cut,
    digests: Mapping[str, str],
    training: TrainingSpec,
    dtype: torch.dtype,
) -> str:
    """One for each model, values of its frozen tensors, end of the prefix and number format.

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
    return json_digest([FORMAT, loaded.source.fingerprint, runs, frozen, computed, str(dtype)])


def split_key(prefix: str, split: str, encoded: Encoded, layout: Layout) -> str:
    """One for each set of rows as tokens, their labels aside, and each way a split is run in."""
    digest = hashlib.sha256()
    for array in (encoded.ids, encoded.types, encoded.offsets):
        digest.update(b"-" if array is None else np.ascontiguousarray(array).data)
    form = [encoded.pad_id, encoded.pad_type, encoded.pad_left, encoded.pad_to, encoded.choices]
    return json_digest([prefix, split, digest.hexdigest(), form, layout.states])
