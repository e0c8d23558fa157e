"""The frozen-prefix cache: what is below the lowest trained layer is computed once for each row.

A few rows are tried first, to prove that replaying stored states gives the model's predictions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from surgery.data.tokens.dataset import Encoded, batches_by_length, on_device
from surgery.errors import Fault, TrainingInvalid
from surgery.io.reporter import Reporter
from surgery.models.blocks import model_inputs
from surgery.models.loading import LoadedModel
from surgery.schemas.jobs.finetune import PrefixMode, PrefixReport
from surgery.schemas.options.training import TrainingSpec
from surgery.training.prefix_cache.replay import StandIns, prefix_states, quiet_prefix
from surgery.training.prefix_cache.states import Layout, States, prefix_key, split_key
from surgery.training.prefix_cache.store import Medium, Room, StatesSpec, Store, StoredStates
from surgery.training.prefix_cache.trace import CannotReplay, Cut, OutputForm, find_cut, output_form

# Largest allowed difference of a logit from that of the plain forward pass, as a share of the
# largest logit. A wrong replay differs by as much as the logits themselves.
TOLERANCE = 1e-3
ROUNDED = 5e-2  # the same if states or products are rounded to fewer bits than float32 has

Context = Callable[[], AbstractContextManager[Any]]
MEDIA: dict[str, tuple[Medium, ...]] = {
    "auto": ("memory", "disk"),
    "memory": ("memory",),
    "disk": ("disk",),
}
TRACED_ROWS = 3
CHECKED_ROWS = 4


@torch.no_grad()
def fitting_stand_ins(
    model: nn.Module, cut: Cut, form: OutputForm, encoded: Encoded, stored: torch.dtype
) -> tuple[StandIns, bool]:
    """Stand-ins that reproduce the logits of a plain forward pass of a few rows, in eval mode.

    ``stored`` is the dtype of the stored states. Also returns whether the head reads only the
    state of the first token. Raises CannotReplay if no stand-ins reproduce the logits.
    """
    plain = _logits(model, encoded)
    for embeddings in [None] if cut.embeddings is None else [cut.embeddings, None]:
        stand_ins = StandIns(cut, form, embeddings)
        whole = _replayed(model, stand_ins, Layout(encoded, first_only=False), encoded, stored)
        if not _are_close(plain, whole, stored):
            continue
        if cut.after is not None:
            return stand_ins, False
        first = _replayed(model, stand_ins, Layout(encoded, first_only=True), encoded, stored)
        return stand_ins, torch.equal(first, whole)
    raise CannotReplay("replaying its output does not give the model's own predictions")


def _are_close(plain: Tensor, replayed: Tensor, stored: torch.dtype) -> bool:
    exact = (torch.float32, torch.float64)
    rounds = stored not in exact or plain.dtype not in exact
    rounds |= torch.get_float32_matmul_precision() != "highest"
    worst = float((plain - replayed).abs().max())
    return worst <= (ROUNDED if rounds else TOLERANCE) * float(plain.abs().max())


def _replayed(
    model: nn.Module, stand_ins: StandIns, layout: Layout, encoded: Encoded, stored: torch.dtype
) -> Tensor:
    """The logits of the rows when their states are stored in this layout and replayed."""
    device, rows = _device_of(model), list(range(len(encoded)))
    cut, form = stand_ins.cut, stand_ins.form
    states = States(layout, torch.zeros(layout.states + 1, form.width, dtype=stored, device=device))
    for row in rows:
        batch = on_device(encoded.batch([row]), device)
        states.put([row], prefix_states(model, cut, form, batch))
    with stand_ins.installed(), stand_ins.replay(states, rows):
        return _logits(model, encoded)


def _logits(model: nn.Module, encoded: Encoded) -> Tensor:
    batch = on_device(encoded.batch(list(range(len(encoded)))), _device_of(model))
    logits: Tensor = model(**model_inputs(model, batch)).logits
    if encoded.tagged:  # the logits of padding are not used
        return logits[batch["attention_mask"] == 1]
    return logits


def _device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


@dataclass(frozen=True)
class SplitRows:
    """The tokenised rows of a split, and the context in which their forward pass runs."""

    encoded: Encoded
    context: Context = nullcontext


class Prefix:
    """The frozen prefix of a run's model; ``report`` says how it is computed or replayed."""

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
        """A context for a run: the prefix has no dropout, and stand-ins if its states are stored.

        Embeddings alone are not a prefix: if the lowest layer trains, they keep their dropout. The
        model's parameters, modules and names do not change.
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
        """A context for the forward pass of these rows of a split, in this order.

        Without stored states, it does nothing.
        """
        if self._stand_ins is None:
            return nullcontext()
        return self._stand_ins.replay(self._states[split], rows)


def open_prefix(
    loaded: LoadedModel,
    splits: Mapping[str, SplitRows],
    training: TrainingSpec,
    report: Reporter,
    *,
    digests: Mapping[str, str],
    passes: float = 1.0,
    room: Room | None = None,
    before: bool | None = None,
) -> Prefix:
    """Find the frozen prefix of a model whose ``requires_grad`` is set, and store its states.

    ``digests`` are `trainable.frozen_digests` of the model; ``passes`` is how often the run goes
    through ``train``. ``before`` says whether an interrupted run, which now resumes, replayed
    states: their rounding differs from that of a plain forward pass, so it must do the same again
    to end with the same weights. Raises TrainingInvalid if the states do not fit where
    ``prefix_cache`` wants them, and Stopped.
    """
    model, train = loaded.model, splits["train"]
    was_training = model.training
    model.eval()
    try:
        traced = spread(train.encoded, TRACED_ROWS)
        batch = on_device(train.encoded.batch(traced), _device_of(model))
        with train.context():
            cut = find_cut(model, loaded.blocks, batch)
        if cut.reason is not None:
            return Prefix(loaded, cut, _report(cut, "none", cut.reason))
        if training.prefix_cache == "off":
            return Prefix(loaded, cut, _report(cut, "recompute", "prefix_cache is off"))
        if before is False:
            reason = "it was recomputed before the run was interrupted"
            return Prefix(loaded, cut, _report(cut, "recompute", reason))

        form = output_form(cut.runs[-1], *batch["input_ids"].flatten(0, -2).shape)
        dtype = _stored_dtype(form, training)
        with train.context():
            checked = train.encoded.select(spread(train.encoded, CHECKED_ROWS))
            stand_ins, first_only = fitting_stand_ins(model, cut, form, checked, dtype)
        began = time.perf_counter()
        key = prefix_key(loaded, cut, digests, training, dtype)
        specs = {}
        for name, split in splits.items():
            layout = Layout(split.encoded, first_only=first_only)
            own = split_key(key, name, split.encoded, layout)
            specs[name] = StatesSpec(own, layout, form.width, dtype)
        fill = partial(_fill, model, stand_ins, splits, report)
        store = Store(specs, room or Room(), _device_of(model), fill)
        stored = _stored(store, training, report, is_short=passes < 1 and not before)
        result = _report(cut, stored.medium, stored.reason)
        result.rows = sum(len(split.encoded) for split in splits.values())
        result.states = sum(spec.layout.states for spec in specs.values())
        result.bytes, result.dtype = store.bytes, str(dtype).removeprefix("torch.")
        result.reused, result.seconds = stored.reused, round(time.perf_counter() - began, 3)
        return Prefix(loaded, cut, result, stand_ins, stored.states)
    except CannotReplay as cannot:
        reason = _recomputing(training, str(cannot), before=before)
        return Prefix(loaded, cut, _report(cut, "recompute", reason))
    finally:
        model.train(was_training)


def _stored_dtype(form: OutputForm, training: TrainingSpec) -> torch.dtype:
    """The dtype of the stored states: that of the computation, or bf16."""
    if training.prefix_cache_dtype == "bf16":
        return torch.bfloat16
    return torch.promote_types(form.dtype, torch.float32)


def _fill(
    model: nn.Module,
    stand_ins: StandIns,
    splits: Mapping[str, SplitRows],
    report: Reporter,
    name: str,
    states: States,
) -> None:
    """Compute the states of a split, in the same batches in every run, so that their bits agree."""
    split, done = splits[name], 0
    for rows in batches_by_length(split.encoded.lengths, None):
        with split.context():
            batch = on_device(split.encoded.batch(rows), _device_of(model))
            states.put(rows, prefix_states(model, stand_ins.cut, stand_ins.form, batch))
        done += len(rows)
        report.step(done, len(split.encoded), "rows")


def _stored(
    store: Store, training: TrainingSpec, report: Reporter, *, is_short: bool
) -> StoredStates:
    """The states that an earlier run stored, or else newly computed ones. Raises CannotReplay."""
    media = MEDIA[training.prefix_cache]
    for medium in media:
        earlier = store.find(medium)
        if earlier is not None:
            return earlier
    if training.prefix_cache == "auto" and is_short:
        raise CannotReplay("the run is over before it has seen each row once")
    report.phase("prefix")
    refusals = []
    for medium in media:
        try:
            return store.compute(medium)
        except CannotReplay as cannot:
            refusals.append(str(cannot))
    raise CannotReplay("; ".join(refusals))


def _recomputing(training: TrainingSpec, why: str, *, before: bool | None) -> str:
    """Why each step computes the prefix. Raises TrainingInvalid if the request forbids that."""
    requested = training.prefix_cache
    if requested != "auto":
        raise TrainingInvalid(
            f"prefix_cache {requested} is not possible: {why}; ask for auto or off",
            [Fault(why, pointer="/training/prefix_cache")],
        )
    if before:
        why += "; before the interruption states were replayed: the last bits may differ"
    return why


def _report(cut: Cut, mode: PrefixMode, reason: str) -> PrefixReport:
    runs = len(cut.runs)
    return PrefixReport(mode=mode, reason=reason, layers=runs, share=round(runs / cut.total, 4))


def spread(encoded: Encoded, count: int) -> list[int]:
    """``count`` rows of different lengths, from the longest row to the shortest."""
    order = np.argsort(-encoded.lengths, kind="stable")
    ranks = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    return [int(order[rank]) for rank in dict.fromkeys(ranks.tolist())]
