"""What a run works with, and what it does after each step: go on, save its state, or end."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from surgery.data.tokens.dataset import Encoded, TaskData
from surgery.errors import TrainingDiverged
from surgery.evaluation.learning import Baseline
from surgery.io.reporter import Reporter, Stopped
from surgery.models.blocks import Unit
from surgery.models.distributed import Share, from_first
from surgery.models.loading import LoadedModel
from surgery.models.memory import synchronize
from surgery.models.numerics import Numerics
from surgery.ranking.agreement import RankingTracker
from surgery.schemas.jobs.finetune import EpochReport, FinetuneSpec
from surgery.schemas.options.head import HeadReport
from surgery.schemas.options.training import TrainingSpec, steps_per_epoch, total_steps
from surgery.training.optimizer import Loss, make_optimizer, make_schedule
from surgery.training.speed.throughput import Meter
from surgery.training.stages import ActiveLayers
from surgery.training.state import Progress, TrainState, save_state
from surgery.training.step import Rows, Stepper

LOG_EVERY = 10  # optimizer steps between two reports of the loss
STATE_SECONDS = 300.0  # between two saved states: a crash loses at most this much training
CONTINUE, SAVE, DRAIN, CANCEL = range(4)  # what may follow a step


@dataclass(frozen=True)
class Setup:
    """What a run works with and does not change; `TrainState` and `Progress` hold what changes.

    ``train`` are the tokenised rows of ``data.train``, without those that are set aside.
    """

    loaded: LoadedModel
    data: TaskData
    spec: FinetuneSpec
    training: TrainingSpec  # the options of the spec, with the chosen precision
    layers: Sequence[Unit]
    report: Reporter
    train: Encoded
    validation: Encoded
    set_aside: Encoded | None  # rows of train on which the labels' thresholds are fitted
    device: torch.device
    share: Share
    numerics: Numerics
    meter: Meter
    head: HeadReport
    loss: Loss
    baseline: Baseline
    tracker: RankingTracker | None

    @property
    def metric(self) -> str:
        """The metric that decides which evaluation is the best."""
        return self.training.metric or self.data.metrics[0]

    @property
    def steps(self) -> int:
        """The number of optimizer steps of the whole run."""
        return total_steps(self.training, len(self.train), self.share.world)

    @property
    def steps_per_epoch(self) -> int:
        """The number of optimizer steps of each epoch."""
        return steps_per_epoch(self.training, len(self.train), self.share.world)

    def epochs(self, progress: Progress) -> float:
        """How many epochs are done, including part of the current one."""
        return progress.epoch + progress.batch / self.steps_per_epoch

    def is_over(self, progress: Progress) -> bool:
        """Whether no step is left, or the run stops early."""
        done = progress.step >= self.steps
        return done or stops_early(progress.reports, self.metric, self.training)

    def begin(
        self, trained: dict[str, nn.Parameter], factors: Mapping[str, float], steps: int
    ) -> TrainState:
        """What the first of ``steps`` steps changes; the random generators begin anew."""
        optimizer = make_optimizer(trained, self.training, factors)
        schedule = make_schedule(optimizer, self.training, steps)
        torch.manual_seed(self.training.seed + self.share.rank)
        return TrainState(trained, optimizer, schedule, self.numerics.scaler())


def take_step(
    run: Setup,
    stepper: Stepper,
    active: ActiveLayers,
    progress: Progress,
    steps: Sequence[Sequence[Rows]],
) -> None:
    """Take the next step of an epoch, whose ``steps`` are the batches of each, and count it."""
    began = time.perf_counter()
    active.begin(progress.step, stepper.train_state.optimizer)
    batches = steps[progress.batch]
    loss = stepper.step(batches)
    progress.add_step(loss, sum(map(len, batches)), len(steps))
    progress.halvings = stepper.halvings
    if progress.step % LOG_EVERY == 0:
        synchronize(run.device)
    progress.train_seconds += time.perf_counter() - began


def after_step(
    run: Setup, stepper: Stepper, progress: Progress, saved_at: float, count: tuple[int, int]
) -> float:
    """Report a step, and do what the reporter and the clock ask for then.

    ``count`` is how many steps were taken, out of how many: of the run, or of all trials together.
    Returns the time of the last saved state. Raises Stopped.
    """
    action = _next_action(run, *count, saved_at)
    if action in {SAVE, DRAIN}:
        saved_at = save(run, stepper.train_state, progress)
    if action in {DRAIN, CANCEL}:
        raise Stopped(resumable=action == DRAIN)
    return saved_at


def _next_action(run: Setup, done: int, total: int, saved_at: float) -> int:
    """What the reporter and the clock ask for after a step; the same in all processes."""
    action = SAVE if time.monotonic() - saved_at > STATE_SECONDS else CONTINUE
    try:
        run.report.step(done, total, "steps")
    except Stopped as stop:
        action = DRAIN if stop.resumable else CANCEL
    return from_first(action, run.share)


def save(run: Setup, train_state: TrainState, progress: Progress) -> float:
    """Write a state to resume from and report it; returns the time when this was done."""
    first = run.share.rank == 0
    trial = "" if progress.trial is None else f"trial-{progress.trial}-"
    folder = run.report.new_folder(f"state-{trial}{progress.step}") if first else Path()
    save_state(folder, progress, train_state, run.device, run.share)
    if first:
        run.report.state(folder, 0 if progress.trial is not None else progress.step)
    return time.monotonic()


def checked_loss(progress: Progress) -> float:
    """The mean loss since the last call. Raises TrainingDiverged if it is not finite."""
    value = progress.recent_loss()
    if not math.isfinite(value):
        raise TrainingDiverged(
            f"the loss is not finite at step {progress.step}; lower training.learning_rate"
        )
    return value


def stops_early(reports: Sequence[EpochReport], metric: str, training: TrainingSpec) -> bool:
    """Whether none of the last ``early_stopping_patience`` evaluations was an improvement.

    An improvement exceeds the best metric before it by more than ``early_stopping_threshold``.
    """
    if training.early_stopping_patience is None:
        return False
    best, since = -math.inf, 0
    for report in reports:
        value = metric_value(report, metric)
        if value > best + training.early_stopping_threshold:
            best, since = value, 0
        else:
            since += 1
    return since >= training.early_stopping_patience


def metric_value(report: EpochReport, metric: str) -> float:
    """The metric of an evaluation; an undefined one is the lowest."""
    value = report.metrics[metric]
    return -math.inf if value is None else value
