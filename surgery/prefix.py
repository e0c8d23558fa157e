"""The frozen-prefix cache: what runs below the lowest trained layer is computed once a row.

Selective fine-tuning never changes it. Its output is kept, and each step runs only the rest of the
model. In memory where it fits, in a file where it does not, else it is computed at every step; in
every case without dropout, so that the cache changes nothing but the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from surgery.data import Batch, Encoded, batches_by_length
from surgery.errors import Fault, TrainingInvalid
from surgery.loading import LoadedModel
from surgery.memory import available_bytes
from surgery.prefix_check import Check
from surgery.prefix_replay import StandIns, prefix_states, quiet_prefix
from surgery.prefix_states import Layout, States
from surgery.prefix_trace import CannotReplay, Cut, find_cut, form_of
from surgery.progress import Reporter
from surgery.results import PrefixReport
from surgery.training_spec import TrainingSpec

Context = Callable[[], AbstractContextManager[Any]]
MEMORY_SHARE = 0.25  # of what is free when a run starts; the rest is for the run, and for others
TRACED_ROWS = 3
CHECKED_ROWS = 4


@dataclass(frozen=True)
class Split:
    """Rows that a run goes through again and again, and how their forward pass is run."""

    encoded: Encoded
    context: Context = nullcontext


class Prefix:
    """The frozen prefix of a run's model. What became of it is in ``report``."""

    def __init__(
        self, loaded: LoadedModel, cut: Cut, report: PrefixReport,
        stand_ins: StandIns | None = None, states: Mapping[str, States] | None = None,
    ) -> None:  # fmt: skip
        self.report = report
        self._model, self._cut = loaded.model, cut
        self._stand_ins, self._states = stand_ins, dict(states or {})

    @contextmanager
    def installed(self) -> Iterator[None]:
        """For the length of a run: no dropout in the prefix, and stand-ins where there are states.

        Parameters, modules and names of the model stay as they are.
        """
        with quiet_prefix(self._model, self._cut):
            if self._stand_ins is None:
                yield
                return
            with self._stand_ins.installed():
                yield

    def replay(self, split: str, rows: Sequence[int]) -> AbstractContextManager[None]:
        """Around the forward pass of these rows of a split, in this order; the model runs whole
        wherever nothing is replayed."""
        if self._stand_ins is None:
            return nullcontext()
        return self._stand_ins.replay(self._states[split], rows)


def open_prefix(
    loaded: LoadedModel,
    splits: Mapping[str, Split],
    training: TrainingSpec,
    report: Reporter,
    *,
    passes: float = 1.0,
    memory_bytes: int | None = None,
) -> Prefix:
    """Find the frozen prefix of a model whose ``requires_grad`` are set, and store its states.

    ``passes`` is how often the run goes through ``train``. Raises TrainingInvalid where
    ``prefix_cache`` asks for a place that the states do not fit in, and Stopped.
    """
    return _Opening(loaded, splits, training, report, passes, memory_bytes).open()


class _Opening:
    """Decides where a prefix's states are kept, and puts them there."""

    def __init__(
        self, loaded: LoadedModel, splits: Mapping[str, Split], training: TrainingSpec,
        report: Reporter, passes: float, memory_bytes: int | None,
    ) -> None:  # fmt: skip
        self._loaded, self._splits, self._training = loaded, splits, training
        self._report, self._passes, self._memory_bytes = report, passes, memory_bytes
        self._model = loaded.model
        self._device = next(loaded.model.parameters()).device

    def open(self) -> Prefix:
        was_training = self._model.training
        self._model.eval()
        try:
            return self._open()
        finally:
            self._model.train(was_training)

    def _open(self) -> Prefix:
        encoded, context = self._splits["train"].encoded, self._splits["train"].context
        rows = _spread(encoded, TRACED_ROWS)
        batch = self._batch(encoded, rows)
        with context():
            self._cut = find_cut(self._model, self._loaded.blocks, batch)
        if self._cut.reason is not None:
            return self._without("none", self._cut.reason)
        if self._training.prefix_cache == "off":
            return self._without("recompute", "prefix_cache is off")
        try:
            self._form = form_of(self._cut.runs[-1], *batch["input_ids"].flatten(0, -2).shape)
            with context():
                some = encoded.select(_spread(encoded, CHECKED_ROWS))
                check = Check(self._model, self._cut, self._form, some, self._kept)
                self._stand_ins, self._first_only = check.fitting()
        except CannotReplay as cannot:
            return self._refused(str(cannot))
        return self._stored()

    def _batch(self, encoded: Encoded, rows: Sequence[int]) -> Batch:
        return {name: tensor.to(self._device) for name, tensor in encoded.batch(rows).items()}

    @property
    def _kept(self) -> torch.dtype:
        """What states are stored in: as computed, or bf16."""
        return torch.bfloat16 if self._training.prefix_cache_dtype == "bf16" else self._form.dtype

    def _stored(self) -> Prefix:
        layouts = {
            name: Layout(split.encoded, first_only=self._first_only)
            for name, split in self._splits.items()
        }
        size = sum(layout.states + 1 for layout in layouts.values())
        size *= self._form.width * self._kept.itemsize
        room = self._memory_bytes
        if room is None:
            room = int(MEMORY_SHARE * available_bytes(self._device))
        if size > room:
            return self._refused(f"the states take {_told(size)}, more than the {_told(room)} left")
        if self._training.prefix_cache == "auto" and self._passes < 1:
            return self._without("recompute", "the run is over before it has seen each row once")
        self._report.phase("prefix")
        began = time.perf_counter()
        states = {name: self._filled(name, layout) for name, layout in layouts.items()}
        return Prefix(
            self._loaded,
            self._cut,
            PrefixReport(
                mode="memory",
                reason=f"{_told(size)} of the {_told(room)} that it may take",
                layers=len(self._cut.runs),
                share=round(len(self._cut.runs) / self._cut.total, 4),
                rows=sum(len(split.encoded) for split in self._splits.values()),
                states=sum(layout.states for layout in layouts.values()),
                bytes=size,
                dtype=str(self._kept).removeprefix("torch."),
                seconds=round(time.perf_counter() - began, 3),
            ),
            self._stand_ins,
            states,
        )

    def _filled(self, name: str, layout: Layout) -> States:
        flat = torch.zeros(
            layout.states + 1, self._form.width, dtype=self._kept, device=self._device
        )
        states = States(layout, flat)
        split = self._splits[name]
        total, done = len(split.encoded), 0
        for rows in batches_by_length(split.encoded.lengths, None):
            with split.context():
                batch = self._batch(split.encoded, rows)
                states.put(rows, prefix_states(self._model, self._cut, self._form, batch))
            done += len(rows)
            self._report.step(done, total, "rows")
        return states

    def _refused(self, why: str) -> Prefix:
        """The states cannot be kept: an error where that was asked for."""
        asked = self._training.prefix_cache
        if asked == "auto":
            return self._without("recompute", why)
        raise TrainingInvalid(
            f"prefix_cache {asked} is not possible: {why}; ask for auto or off",
            [Fault(why, pointer="/training/prefix_cache")],
        )

    def _without(self, mode: Any, reason: str) -> Prefix:
        report = PrefixReport(
            mode=mode, reason=reason, layers=len(self._cut.runs),
            share=round(len(self._cut.runs) / self._cut.total, 4),
        )  # fmt: skip
        return Prefix(self._loaded, self._cut, report)


def _spread(encoded: Encoded, count: int) -> list[int]:
    """Some rows from the longest to the shortest."""
    order = np.argsort(-encoded.lengths, kind="stable")
    places = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    return [int(order[place]) for place in dict.fromkeys(places.tolist())]


def _told(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"
