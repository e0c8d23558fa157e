"""The stored states of a frozen prefix, flat as the tokens are, and a batch of them padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surgery.data import Encoded

Places = np.ndarray[Any, np.dtype[np.int64]]


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
