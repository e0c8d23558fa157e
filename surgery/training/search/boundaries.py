"""The states at the boundaries between layers, computed once for all runs of a search.

A run whose lowest trained layer is m reads only what layer m − 1 outputs, which no run changes. One
pass over the rows computes all boundaries: each starts from the states of the one below.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from surgery.data.tokens.dataset import Encoded, batches_by_length, on_device
from surgery.io.reporter import Reporter
from surgery.models.loading import LoadedModel
from surgery.models.memory import available_bytes
from surgery.models.numerics import Numerics
from surgery.schemas import JobWarning
from surgery.schemas.jobs.finetune import PrefixReport
from surgery.training.prefix_cache.cache import (
    CHECKED_ROWS,
    TRACED_ROWS,
    Prefix,
    fitting_stand_ins,
    spread,
)
from surgery.training.prefix_cache.replay import StandIns, prefix_states
from surgery.training.prefix_cache.states import Layout, States
from surgery.training.prefix_cache.store import MEMORY_SHARE, in_mebibytes
from surgery.training.prefix_cache.trace import CannotReplay, Cut, OutputForm, find_cut, output_form

ROWS = "rows"  # the only split of these prefixes


@dataclass(frozen=True)
class _Boundary:
    """What a boundary needs to be stored."""

    cut: Cut
    form: OutputForm
    stand_ins: StandIns
    layout: Layout
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, int]:
        return self.layout.states + 1, self.form.width

    @property
    def bytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.dtype.itemsize


class Boundaries:
    """The frozen prefix below each layer that is the lowest of some candidate.

    ``rows_room`` is what all stored states may take in memory, by default a quarter of what is
    free. The boundaries are stored from the top downwards as far as that reaches, since a higher
    one saves more; the others are computed again in each step, which ``warnings`` tell. While this
    exists, ``requires_grad`` of the model's parameters may be anything.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        encoded: Encoded,
        lowest: Iterable[int],
        numerics: Numerics,
        rows_room: int | None,
    ) -> None:
        self._loaded, self._encoded, self._numerics = loaded, encoded, numerics
        self._device = next(loaded.model.parameters()).device
        self._prefixes: dict[int, Prefix] = {}
        self.warnings: list[JobWarning] = []
        self.bytes = 0
        loaded.model.eval()
        traced = {place: self._traced(place) for place in sorted(set(lowest))}
        boundaries = {place: found for place, found in traced.items() if found is not None}
        self._stored = self._fitting(boundaries, rows_room)

    def prefix(self, place: int) -> Prefix:
        """The prefix below layer ``place``, in whose context a run trains; see `Prefix`."""
        return self._prefixes[place]

    def stores(self, place: int) -> bool:
        """Whether the states below layer ``place`` are stored, or there is nothing below it."""
        return place in self._stored or place == 0

    def fill(self, report: Reporter) -> None:
        """Compute the states of all stored boundaries, from the bottom up."""
        self._loaded.model.eval()
        total, below = len(self._stored) * len(self._encoded), None
        for number, (place, boundary) in enumerate(sorted(self._stored.items())):
            done = number * len(self._encoded)
            flat = torch.zeros(boundary.shape, dtype=boundary.dtype, device=self._device)
            states = States(boundary.layout, flat)
            with nullcontext() if below is None else below.installed():
                for rows in batches_by_length(self._encoded.lengths, None):
                    self._put(boundary, states, rows, below)
                    done += len(rows)
                    report.step(done, total, "rows")
            below = Prefix(
                self._loaded,
                boundary.cut,
                _report(boundary.cut, "memory"),
                boundary.stand_ins,
                {ROWS: states},
            )
            self._prefixes[place] = below

    def _put(
        self, boundary: _Boundary, states: States, rows: list[int], below: Prefix | None
    ) -> None:
        batch = on_device(self._encoded.batch(rows), self._device)
        replay = nullcontext() if below is None else below.replay(ROWS, rows)
        with replay, self._numerics.autocast():
            model = self._loaded.model
            states.put(rows, prefix_states(model, boundary.cut, boundary.form, batch))

    def _traced(self, place: int) -> _Boundary | None:
        """Find the prefix below a layer, and stand-ins that reproduce the model's predictions."""
        loaded, encoded = self._loaded, self._encoded
        loaded.model.requires_grad_(False)
        loaded.blocks[place].module.requires_grad_(True)
        batch = on_device(encoded.batch(spread(encoded, TRACED_ROWS)), self._device)
        with self._numerics.autocast():
            cut = find_cut(loaded.model, loaded.blocks, batch)
        self._prefixes[place] = Prefix(loaded, cut, _report(cut, "recompute"))
        if cut.reason is not None:
            return None
        try:
            form = output_form(cut.runs[-1], *batch["input_ids"].flatten(0, -2).shape)
            dtype = torch.promote_types(form.dtype, torch.float32)
            with self._numerics.autocast():
                checked = encoded.select(spread(encoded, CHECKED_ROWS))
                stand_ins, first_only = fitting_stand_ins(loaded.model, cut, form, checked, dtype)
        except CannotReplay as cannot:
            message = f"the states below layer {place} are not stored: {cannot}"
            self.warnings.append(JobWarning(code="states_not_stored", message=message))
            return None
        layout = Layout(encoded, first_only=first_only)
        return _Boundary(cut, form, stand_ins, layout, dtype)

    def _fitting(
        self, boundaries: dict[int, _Boundary], rows_room: int | None
    ) -> dict[int, _Boundary]:
        room = rows_room
        if room is None:
            room = int(MEMORY_SHARE * available_bytes(self._device))
        stored = {}
        for place, boundary in sorted(boundaries.items(), reverse=True):
            if self.bytes + boundary.bytes <= room:
                self.bytes += boundary.bytes
                stored[place] = boundary
                continue
            message = (
                f"the states below layer {place} are computed again in each step: they take "
                f"{in_mebibytes(boundary.bytes)}, and {in_mebibytes(room - self.bytes)} are left "
                "of the memory that they may take"
            )
            self.warnings.append(JobWarning(code="states_not_stored", message=message))
        return stored


def _report(cut: Cut, mode: str) -> PrefixReport:
    runs = len(cut.runs)
    mode = "none" if cut.reason else mode
    return PrefixReport(mode=mode, reason=cut.reason or "", layers=runs, share=runs / cut.total)
