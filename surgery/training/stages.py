"""Which of the trained layers train in a step, and the frozen prefix below them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Self

import torch
from torch import nn

from surgery.io.reporter import Reporter
from surgery.models.blocks import block_of_parameter, part_of
from surgery.models.loading import LoadedModel
from surgery.models.trainable import frozen_digests, tensor_digest
from surgery.schemas import JobWarning
from surgery.schemas.jobs.finetune import PrefixReport, PrefixStage
from surgery.schemas.options.layer_schedule import (
    GradualUnfreezing,
    check_layer_count,
    drawn_at,
    unfrozen_at,
)
from surgery.schemas.options.training import TrainingSpec
from surgery.training.prefix_cache.cache import Prefix, SplitRows, open_prefix
from surgery.training.prefix_cache.store import Room
from surgery.training.state import Progress


class ActiveLayers:
    """Freezes and unfreezes the trained layers as the layer schedule says; else all are active.

    A layer is whatever is selected of one block. Each tensor that the schedule freezes has its
    digest taken, and is proved unchanged when it trains again and at the end. Raises
    TrainingInvalid if the schedule draws more layers than there are.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        trained: Mapping[str, nn.Parameter],
        training: TrainingSpec,
        steps_per_epoch: int,
    ) -> None:
        self.schedule = training.layer_schedule
        self.most = 0  # parameters that were active in one step
        self._trained, self._training, self._steps_per_epoch = trained, training, steps_per_epoch
        self._layers = _scheduled_layers(loaded, trained, training) if self.schedule else []
        check_layer_count(self.schedule, len(self._layers))
        self._always = set(trained).difference(*self._layers)
        self._held: dict[str, str] = {}  # the digests of what the schedule has frozen

    def layers_at(self, step: int) -> list[int]:
        """The layers that are active in a step, counted among those that the schedule moves."""
        layers = len(self._layers)
        if self.schedule is None:
            return []
        if isinstance(self.schedule, GradualUnfreezing):
            return unfrozen_at(self.schedule, layers, step, self._steps_per_epoch)
        return drawn_at(self.schedule, layers, step, self._training.seed)

    def lowest_at(self, step: int) -> int:
        """The lowest layer that may train until the frozen prefix is opened again.

        Where layers are drawn, this is the lowest that can ever be.
        """
        return self.layers_at(step)[0] if isinstance(self.schedule, GradualUnfreezing) else 0

    def free_from(self, lowest: int) -> None:
        """Let every layer from this one on require gradients, and no other."""
        for place, names in enumerate(self._layers):
            for name in names:
                self._trained[name].requires_grad_(place >= lowest)

    def begin(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Freeze and unfreeze layers for a step that is about to be taken.

        At the first step of an interval of LISA, the moments of all layers are dropped, also of
        those that are drawn again: in the paper every interval runs AdamW anew. What always trains
        keeps its moments, as with the authors' own code.
        """
        if self.schedule is None:
            return
        chosen = self.layers_at(step)
        active = self._always.union(*(self._layers[place] for place in chosen))
        if not isinstance(self.schedule, GradualUnfreezing) and step % self.schedule.interval == 0:
            for name in self._trained.keys() - self._always:
                optimizer.state.pop(self._trained[name], None)
        self._check(self._held.keys() & active)
        for name, parameter in self._trained.items():
            parameter.requires_grad_(name in active)
            if name not in active and name not in self._held:
                self._held[name] = tensor_digest(parameter)
        self.most = max(self.most, sum(self._trained[name].numel() for name in active))

    def end(self) -> None:
        """Prove that what is frozen now is unchanged, and let all that trains require gradients."""
        self._check(set(self._held))
        self.free_from(0)

    def _check(self, names: set[str]) -> None:
        changed = [n for n in names if self._held.pop(n) != tensor_digest(self._trained[n])]
        if changed:
            raise AssertionError(f"tensors changed that the schedule had frozen: {changed[:3]}")

    def never_active(self, steps: int) -> list[str]:
        """A tensor of each layer that was active in none of the first ``steps`` steps."""
        seen = {place for step in range(steps) for place in self.layers_at(step)}
        return [names[0] for place, names in enumerate(self._layers) if place not in seen]


def _scheduled_layers(
    loaded: LoadedModel, trained: Mapping[str, nn.Parameter], training: TrainingSpec
) -> list[list[str]]:
    """The trained tensors of each block, bottom to top.

    With gradual unfreezing the embeddings, if they train, are below them as one more layer.
    """
    owner = block_of_parameter(loaded.model, loaded.blocks)
    blocks = sorted({owner[name] for name in trained if name in owner})
    layers = [[name for name in trained if owner.get(name) == block] for block in blocks]
    embeddings = part_of(loaded.model, "embeddings")
    if embeddings is not None and isinstance(training.layer_schedule, GradualUnfreezing):
        inside = {id(parameter) for parameter in embeddings.parameters()}
        below = [name for name, p in trained.items() if id(p) in inside and name not in owner]
        layers = [below, *layers] if below else layers
    return layers


def unreached_warnings(active: ActiveLayers, steps: int) -> list[JobWarning]:
    """A warning if the run was over before the schedule let each layer train."""
    missing = active.never_active(steps)
    if not missing:
        return []
    which = f"the one of {missing[0]}" if len(missing) == 1 else f"those of {', '.join(missing)}"
    message = (
        f"layer_schedule let {len(missing)} of the selected layers train in none of the {steps:,} "
        f"steps: {which}; they are as they were"
    )
    remedy = "train for more training.epochs, or let layers train sooner in training.layer_schedule"
    return [JobWarning(code="layers_never_trained", message=message, remedy=remedy)]


@dataclass(frozen=True)
class PrefixInputs:
    """What the frozen prefix of a run is opened with. ``digests`` are of what never trains."""

    loaded: LoadedModel
    splits: Mapping[str, SplitRows]
    training: TrainingSpec
    report: Reporter
    digests: Mapping[str, str]
    room: Room | None


class StagedPrefix:
    """The frozen prefix of the steps that are taken, opened anew where unfreezing moves its end.

    A context: what it installs in the model is taken back at its end.
    """

    def __init__(
        self, inputs: PrefixInputs, active: ActiveLayers, steps: int, steps_per_epoch: int
    ) -> None:
        self._inputs, self._active = inputs, active
        self._steps, self._steps_per_epoch = steps, steps_per_epoch
        self._stack = ExitStack()
        self._lowest: int | None = None
        self._prefix: Prefix | None = None
        self._report: PrefixReport | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def report(self) -> PrefixReport:
        """How the prefix was computed or replayed, from the first stage on."""
        assert self._report is not None, "the prefix is opened before the first step"
        return self._report

    def replay(self, split: str, rows: Sequence[int]) -> AbstractContextManager[None]:
        """A context for the forward pass of these rows of a split, in this order."""
        assert self._prefix is not None, "the prefix is opened before the first step"
        return self._prefix.replay(split, rows)

    def enter(self, step: int, progress: Progress) -> bool:
        """Open the prefix of this step, unless it is that of the step before; whether it was.

        ``progress`` says how an interrupted run had it, and learns how it is now.
        """
        lowest = self._active.lowest_at(step)
        if lowest == self._lowest:
            return False
        self._stack.close()
        self._active.free_from(lowest)
        inputs = self._inputs
        prefix = open_prefix(
            inputs.loaded,
            inputs.splits,
            inputs.training,
            inputs.report,
            digests=frozen_digests(inputs.loaded.model) if lowest else inputs.digests,
            passes=(self._end_of_stage(step) - step) / self._steps_per_epoch,
            room=inputs.room,
            before=progress.replays if progress.lowest == lowest else None,
        )
        self._stack.enter_context(prefix.installed())
        self._lowest, self._prefix = lowest, prefix
        progress.replays, progress.lowest = prefix.replays, lowest
        self._note(step, prefix.report)
        return True

    def _end_of_stage(self, step: int) -> int:
        """The first step of another stage, or the number of all steps."""
        schedule, lowest = self._active.schedule, self._active.lowest_at(step)
        if not isinstance(schedule, GradualUnfreezing) or lowest == 0:
            return self._steps
        period = schedule.period(self._steps_per_epoch)
        return min(self._steps, (step // period + 1) * period)

    def _note(self, step: int, report: PrefixReport) -> None:
        first = self._report = self._report or report
        if isinstance(self._active.schedule, GradualUnfreezing):
            stage = PrefixStage(
                step=step,
                mode=report.mode,
                reason=report.reason,
                layers=report.layers,
                seconds=report.seconds,
            )
            first.stages.append(stage)
