"""The frozen-prefix cache: what runs below the lowest trained layer is computed once a row.

Before anything else a few rows are tried: stored outputs must give what the prefix gives.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from surgery.data.tokens.dataset import Encoded, batches_by_length, on_device
from surgery.errors import Fault, TrainingInvalid
from surgery.io.reporter import Reporter
from surgery.models.blocks import model_inputs
from surgery.models.loading import LoadedModel
from surgery.schemas.finetune import PrefixReport
from surgery.schemas.training import TrainingSpec
from surgery.training.prefix_cache.replay import StandIns, prefix_states, quiet_prefix
from surgery.training.prefix_cache.states import Layout, States, prefix_key, split_key
from surgery.training.prefix_cache.store import Kept, Place, Room, Store, Wanted
from surgery.training.prefix_cache.trace import CannotReplay, Cut, Form, find_cut, form_of

# Largest difference of a logit from the plain forward pass's, as a share of the largest logit. A
# wrong replay is off by the logits' own size.
TOLERANCE = 1e-3
ROUNDED = 5e-2  # the same where states or products are rounded to fewer bits than float32 has

Context = Callable[[], AbstractContextManager[Any]]
Mode = Literal["memory", "disk", "recompute", "none"]
PLACES: dict[str, tuple[Place, ...]] = {
    "auto": ("memory", "disk"),
    "memory": ("memory",),
    "disk": ("disk",),
}
TRACED_ROWS = 3
CHECKED_ROWS = 4


@torch.no_grad()
def fitting_stand_ins(
    model: nn.Module, cut: Cut, form: Form, encoded: Encoded, kept: torch.dtype
) -> tuple[StandIns, bool]:
    """Stand-ins that give the logits of the plain forward pass of a few rows, in eval mode.

    ``kept`` is the dtype in which states are stored. Also says whether the head reads no state but
    the first token's. Raises CannotReplay where no stand-ins do.
    """
    plain = _logits(model, encoded)
    for embeddings in [None] if cut.embeddings is None else [cut.embeddings, None]:
        stand_ins = StandIns(cut, form, embeddings)
        whole = _replayed(model, stand_ins, Layout(encoded, first_only=False), encoded, kept)
        if not _are_close(plain, whole, kept):
            continue
        if cut.after is not None:
            return stand_ins, False
        first = _replayed(model, stand_ins, Layout(encoded, first_only=True), encoded, kept)
        return stand_ins, torch.equal(first, whole)
    raise CannotReplay("replaying its output does not give the model's own predictions")


def _are_close(plain: Tensor, found: Tensor, kept: torch.dtype) -> bool:
    exact = (torch.float32, torch.float64)
    rounds = kept not in exact or plain.dtype not in exact
    rounds |= torch.get_float32_matmul_precision() != "highest"
    worst = float((plain - found).abs().max())
    return worst <= (ROUNDED if rounds else TOLERANCE) * float(plain.abs().max())


def _replayed(
    model: nn.Module, stand_ins: StandIns, layout: Layout, encoded: Encoded, kept: torch.dtype
) -> Tensor:
    """The logits of the rows once their states are stored in that layout and replayed."""
    device, rows = _device_of(model), list(range(len(encoded)))
    cut, form = stand_ins.cut, stand_ins.form
    states = States(layout, torch.zeros(layout.states + 1, form.width, dtype=kept, device=device))
    for row in rows:
        batch = on_device(encoded.batch([row]), device)
        states.put([row], prefix_states(model, cut, form, batch))
    with stand_ins.installed(), stand_ins.replay(states, rows):
        return _logits(model, encoded)


def _logits(model: nn.Module, encoded: Encoded) -> Tensor:
    batch = on_device(encoded.batch(list(range(len(encoded)))), _device_of(model))
    logits: Tensor = model(**model_inputs(model, batch)).logits
    if encoded.tagged:  # nobody reads what is said of padding
        return logits[batch["attention_mask"] == 1]
    return logits


def _device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


@dataclass(frozen=True)
class Split:
    """Rows that a run goes through again and again, and how their forward pass is run."""

    encoded: Encoded
    context: Context = nullcontext


class Prefix:
    """The frozen prefix of a run's model. What became of it is in ``report``."""

    def __init__(
        self,
        loaded: LoadedModel,
        cut: Cut,
        report: PrefixReport,
        stand_ins: StandIns | None = None,
        states: Mapping[str, States] | None = None,
    ) -> None:
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

    ``digests`` are `trainable.frozen_digests` of the model; ``passes`` is how often the run goes
    through ``train``; ``before`` is whether an interrupted run that goes on replayed states: their
    rounding is not that of a whole forward pass, so that it must do the same to end the same.
    Raises TrainingInvalid where ``prefix_cache`` asks for a place that the states do not fit in,
    and Stopped.
    """
    model, train = loaded.model, splits["train"]
    was_training = model.training
    model.eval()
    try:
        traced = _spread(train.encoded, TRACED_ROWS)
        batch = on_device(train.encoded.batch(traced), _device_of(model))
        with train.context():
            cut = find_cut(model, loaded.blocks, batch)
        if cut.reason is not None:
            return Prefix(loaded, cut, _report(cut, "none", cut.reason))
        if training.prefix_cache == "off":
            return Prefix(loaded, cut, _report(cut, "recompute", "prefix_cache is off"))
        if before is False:
            reason = "it was before the run was interrupted"
            return Prefix(loaded, cut, _report(cut, "recompute", reason))

        form = form_of(cut.runs[-1], *batch["input_ids"].flatten(0, -2).shape)
        dtype = _stored_dtype(form, training)
        with train.context():
            checked = train.encoded.select(_spread(train.encoded, CHECKED_ROWS))
            stand_ins, first_only = fitting_stand_ins(model, cut, form, checked, dtype)
        began = time.perf_counter()
        key = prefix_key(loaded, cut, digests, training, dtype)
        wanted = {}
        for name, split in splits.items():
            layout = Layout(split.encoded, first_only=first_only)
            own = split_key(key, name, split.encoded, layout)
            wanted[name] = Wanted(own, layout, form.width, dtype)
        fill = partial(_fill, model, stand_ins, splits, report)
        store = Store(wanted, room or Room(), _device_of(model), fill)
        kept = _keep(store, training, report, is_short=passes < 1 and not before)
        found = _report(cut, kept.place, kept.reason)
        found.rows = sum(len(split.encoded) for split in splits.values())
        found.states = sum(each.layout.states for each in wanted.values())
        found.bytes, found.dtype = store.bytes, str(dtype).removeprefix("torch.")
        found.reused, found.seconds = kept.reused, round(time.perf_counter() - began, 3)
        return Prefix(loaded, cut, found, stand_ins, kept.states)
    except CannotReplay as cannot:
        reason = _recomputing(training, str(cannot), before=before)
        return Prefix(loaded, cut, _report(cut, "recompute", reason))
    finally:
        model.train(was_training)


def _stored_dtype(form: Form, training: TrainingSpec) -> torch.dtype:
    """What states are stored in: as computed, or bf16."""
    if training.prefix_cache_dtype == "bf16":
        return torch.bfloat16
    return torch.promote_types(form.dtype, torch.float32)


def _fill(
    model: nn.Module,
    stand_ins: StandIns,
    splits: Mapping[str, Split],
    report: Reporter,
    name: str,
    states: States,
) -> None:
    """Batches of like length, the same ones whatever the run: the states are the same bits."""
    split, done = splits[name], 0
    for rows in batches_by_length(split.encoded.lengths, None):
        with split.context():
            batch = on_device(split.encoded.batch(rows), _device_of(model))
            states.put(rows, prefix_states(model, stand_ins.cut, stand_ins.form, batch))
        done += len(rows)
        report.step(done, len(split.encoded), "rows")


def _keep(store: Store, training: TrainingSpec, report: Reporter, *, is_short: bool) -> Kept:
    """The states that an earlier run left, or else those computed now. Raises CannotReplay."""
    places = PLACES[training.prefix_cache]
    for place in places:
        found = store.found(place)
        if found is not None:
            return found
    if training.prefix_cache == "auto" and is_short:
        raise CannotReplay("the run is over before it has seen each row once")
    report.phase("prefix")
    refusals = []
    for place in places:
        try:
            return store.keep(place)
        except CannotReplay as cannot:
            refusals.append(str(cannot))
    raise CannotReplay("; ".join(refusals))


def _recomputing(training: TrainingSpec, why: str, *, before: bool | None) -> str:
    """Why each step computes the prefix. Raises TrainingInvalid where stored states are a must."""
    asked = training.prefix_cache
    if asked != "auto":
        raise TrainingInvalid(
            f"prefix_cache {asked} is not possible: {why}; ask for auto or off",
            [Fault(why, pointer="/training/prefix_cache")],
        )
    if before:
        why += "; before the interruption states were replayed: the last bits may differ"
    return why


def _report(cut: Cut, mode: Mode, reason: str) -> PrefixReport:
    runs = len(cut.runs)
    return PrefixReport(mode=mode, reason=reason, layers=runs, share=round(runs / cut.total, 4))


def _spread(encoded: Encoded, count: int) -> list[int]:
    """Some rows from the longest to the shortest."""
    order = np.argsort(-encoded.lengths, kind="stable")
    places = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    return [int(order[place]) for place in dict.fromkeys(places.tolist())]
