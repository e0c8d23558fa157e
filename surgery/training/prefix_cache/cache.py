"""The frozen-prefix cache: what runs below the lowest trained layer is computed once a row.

Before anything else a few rows are tried: stored outputs must give what the prefix gives.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from surgery.data.tokens.dataset import Batch, Encoded, batches_by_length, on_device
from surgery.errors import Fault, TrainingInvalid
from surgery.io.reporter import Reporter
from surgery.models.blocks import model_inputs
from surgery.models.loading import LoadedModel
from surgery.schemas.finetune import PrefixReport
from surgery.schemas.training import TrainingSpec
from surgery.training.prefix_cache.replay import StandIns, prefix_states, quiet_prefix
from surgery.training.prefix_cache.states import Layout, States, prefix_key, split_key
from surgery.training.prefix_cache.store import Kept, Place, Room, Store, Wanted
from surgery.training.prefix_cache.trace import CannotReplay, Cut, Embedded, Form, find_cut, form_of

# Largest difference of a logit from the plain forward pass's, as a share of the largest logit. A
# wrong replay is off by the logits' own size.
TOLERANCE = 1e-3
ROUNDED = 5e-2  # the same where states or products are rounded to fewer bits than float32 has

Context = Callable[[], AbstractContextManager[Any]]
Mode = Literal["memory", "disk", "recompute", "none"]
PLACES: dict[str, tuple[Place, ...]] = {
    "auto": ("memory", "disk"), "memory": ("memory",), "disk": ("disk",),
}  # fmt: skip
TRACED_ROWS = 3
CHECKED_ROWS = 4


class Check:
    """A few rows of a split, on which a way to replay is compared with the plain forward pass.

    ``kept`` is the dtype in which states are stored. All in eval mode.
    """

    def __init__(
        self, model: nn.Module, cut: Cut, form: Form, encoded: Encoded, kept: torch.dtype
    ) -> None:
        self._model, self._cut, self._form, self._kept = model, cut, form, kept
        self._encoded = encoded
        self._device = next(model.parameters()).device
        self._rows = list(range(len(encoded)))
        self._batch = self._on_device(self._rows)

    @torch.no_grad()
    def fitting(self) -> tuple[StandIns, bool]:
        """Stand-ins that give the logits of the plain forward pass, and whether the head reads no
        state but the first token's.

        Raises CannotReplay where none do.
        """
        plain = self._logits()
        choices: list[Embedded | None] = [None]
        if self._cut.embeddings is not None:
            choices.insert(0, self._cut.embeddings)
        for embeddings in choices:
            stand_ins = StandIns(self._cut, self._form, embeddings)
            whole = self._replayed(stand_ins, first_only=False)
            if self._close(plain, whole):
                return stand_ins, self._reads_first_only(stand_ins, whole)
        raise CannotReplay("replaying its output does not give the model's own predictions")

    def _reads_first_only(self, stand_ins: StandIns, whole: Tensor) -> bool:
        if self._cut.after is not None:
            return False
        first = self._replayed(stand_ins, first_only=True)
        return torch.equal(first, whole)

    def _close(self, plain: Tensor, found: Tensor) -> bool:
        exact = (torch.float32, torch.float64)
        rounds = self._kept not in exact or plain.dtype not in exact
        rounds |= torch.get_float32_matmul_precision() != "highest"
        worst = float((plain - found).abs().max())
        return worst <= (ROUNDED if rounds else TOLERANCE) * float(plain.abs().max())

    def _replayed(self, stand_ins: StandIns, *, first_only: bool) -> Tensor:
        layout = Layout(self._encoded, first_only=first_only)
        flat = torch.zeros(
            layout.states + 1, self._form.width, dtype=self._kept, device=self._device
        )
        states = States(layout, flat)
        for row in self._rows:
            batch = self._on_device([row])
            states.put([row], prefix_states(self._model, self._cut, self._form, batch))
        with stand_ins.installed(), stand_ins.replay(states, self._rows):
            return self._logits()

    def _logits(self) -> Tensor:
        logits: Tensor = self._model(**model_inputs(self._model, self._batch)).logits
        if self._encoded.tagged:  # nobody reads what is said of padding
            return logits[self._batch["attention_mask"] == 1]
        return logits

    def _on_device(self, rows: Sequence[int]) -> Batch:
        return on_device(self._encoded.batch(rows), self._device)


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

        Embeddings alone are no prefix: where the lowest layer trains, they keep their dropout.
        Parameters, modules and names of the model stay as they are.
        """
        quiet = quiet_prefix(self._model, self._cut) if self._cut.runs else nullcontext()
        with quiet:
            if self._stand_ins is None:
                yield
                return
            with self._stand_ins.installed():
                yield

    @property
    def replays(self) -> bool:
        """Whether states are stored and replayed."""
        return self._stand_ins is not None

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
    digests: Mapping[str, str],
    passes: float = 1.0,
    room: Room | None = None,
    before: bool | None = None,
) -> Prefix:
    """Find the frozen prefix of a model whose ``requires_grad`` are set, and store its states.

    ``digests`` are `selection.frozen_digests` of the model; ``passes`` is how often the run goes
    through ``train``; ``before`` is whether an interrupted run that goes on replayed states: their
    rounding is not that of a whole forward pass, so that it must do the same to end the same.
    Raises TrainingInvalid where ``prefix_cache`` asks for a place that the states do not fit in,
    and Stopped.
    """
    opening = _Opening(loaded, splits, training, report, digests, passes, room or Room(), before)
    was_training = loaded.model.training
    loaded.model.eval()
    try:
        return opening.open()
    finally:
        loaded.model.train(was_training)


@dataclass
class _Opening:
    """Decides what becomes of a prefix."""

    loaded: LoadedModel
    splits: Mapping[str, Split]
    training: TrainingSpec
    report: Reporter
    digests: Mapping[str, str]
    passes: float
    room: Room
    before: bool | None

    def __post_init__(self) -> None:
        self.model = self.loaded.model
        self.device = next(self.model.parameters()).device

    def open(self) -> Prefix:
        train = self.splits["train"]
        batch = self._batch(train.encoded, _spread(train.encoded, TRACED_ROWS))
        with train.context():
            self.cut = find_cut(self.model, self.loaded.blocks, batch)
        if self.cut.reason is not None:
            return self._without("none", self.cut.reason)
        if self.training.prefix_cache == "off":
            return self._without("recompute", "prefix_cache is off")
        if self.before is False:
            return self._without("recompute", "it was before the run was interrupted")
        try:
            self.form = form_of(self.cut.runs[-1], *batch["input_ids"].flatten(0, -2).shape)
            with train.context():
                some = train.encoded.select(_spread(train.encoded, CHECKED_ROWS))
                check = Check(self.model, self.cut, self.form, some, self._dtype)
                self.stand_ins, self.first_only = check.fitting()
            return self._kept()
        except CannotReplay as cannot:
            return self._refused(str(cannot))

    def _batch(self, encoded: Encoded, rows: Sequence[int]) -> Batch:
        return on_device(encoded.batch(rows), self.device)

    @property
    def _dtype(self) -> torch.dtype:
        """What states are stored in: as computed, or bf16."""
        if self.training.prefix_cache_dtype == "bf16":
            return torch.bfloat16
        return torch.promote_types(self.form.dtype, torch.float32)

    def _kept(self) -> Prefix:
        began = time.perf_counter()
        store = Store(self._wanted(), self.room, self.device, self._fill)
        places = PLACES[self.training.prefix_cache]
        for place in places:
            found = store.found(place)
            if found is not None:
                return self._with(found, store, began)
        if self.training.prefix_cache == "auto" and self.passes < 1 and not self.before:
            return self._without("recompute", "the run is over before it has seen each row once")
        self.report.phase("prefix")
        refusals = []
        for place in places:
            try:
                return self._with(store.keep(place), store, began)
            except CannotReplay as cannot:
                refusals.append(str(cannot))
        raise CannotReplay("; ".join(refusals))

    def _wanted(self) -> dict[str, Wanted]:
        key = prefix_key(self.loaded, self.cut, self.digests, self.training, self._dtype)
        wanted = {}
        for name, split in self.splits.items():
            layout = Layout(split.encoded, first_only=self.first_only)
            own = split_key(key, name, split.encoded, layout)
            wanted[name] = Wanted(own, layout, self.form.width, self._dtype)
        return wanted

    def _fill(self, name: str, states: States) -> None:
        """Batches of like length, the same ones whatever the run: the states are the same bits."""
        split = self.splits[name]
        total, done = len(split.encoded), 0
        for rows in batches_by_length(split.encoded.lengths, None):
            with split.context():
                batch = self._batch(split.encoded, rows)
                states.put(rows, prefix_states(self.model, self.cut, self.form, batch))
            done += len(rows)
            self.report.step(done, total, "rows")

    def _with(self, kept: Kept, store: Store, began: float) -> Prefix:
        report = self._reported(kept.place, kept.reason)
        report.rows = sum(len(split.encoded) for split in self.splits.values())
        report.states = sum(states.layout.states for states in kept.states.values())
        report.bytes = store.bytes
        report.dtype = str(self._dtype).removeprefix("torch.")
        report.reused = kept.reused
        report.seconds = round(time.perf_counter() - began, 3)
        return Prefix(self.loaded, self.cut, report, self.stand_ins, kept.states)

    def _refused(self, why: str) -> Prefix:
        """The states cannot be kept: an error where that was asked for."""
        asked = self.training.prefix_cache
        if asked == "auto":
            again = "; before the interruption states were replayed: the last bits may differ"
            return self._without("recompute", why + again * bool(self.before))
        raise TrainingInvalid(
            f"prefix_cache {asked} is not possible: {why}; ask for auto or off",
            [Fault(why, pointer="/training/prefix_cache")],
        )

    def _without(self, mode: Mode, reason: str) -> Prefix:
        return Prefix(self.loaded, self.cut, self._reported(mode, reason))

    def _reported(self, mode: Mode, reason: str) -> PrefixReport:
        runs = len(self.cut.runs)
        return PrefixReport(
            mode=mode, reason=reason, layers=runs, share=round(runs / self.cut.total, 4)
        )


def _spread(encoded: Encoded, count: int) -> list[int]:
    """Some rows from the longest to the shortest."""
    order = np.argsort(-encoded.lengths, kind="stable")
    places = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    return [int(order[place]) for place in dict.fromkeys(places.tolist())]
