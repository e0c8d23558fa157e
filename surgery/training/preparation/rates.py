"""Choose a learning rate on a part of the train rows that is set aside; validation is not read."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from surgery.data.tokens.held_out import held_out_rows
from surgery.errors import Fault, TrainingDiverged
from surgery.evaluation.evaluate import Predictions, predict_validation
from surgery.schemas.jobs.finetune import PrefixReport, RateTrial
from surgery.schemas.options.training import HELD_OUT_SHARE, steps_per_epoch, total_steps
from surgery.training.optimizer import Loss, mean_loss
from surgery.training.run import LOG_EVERY, Setup, after_step, checked_loss, save, take_step
from surgery.training.stages import ActiveLayers, PrefixInputs, StagedPrefix
from surgery.training.state import Progress, TrainState, load_state, saved_trials
from surgery.training.step import Rows, Stepper, epoch_steps


def best_trial(trials: Sequence[RateTrial]) -> RateTrial:
    """The trial with the highest metric, then the lowest loss, then the lowest rate.

    Raises TrainingDiverged if no trial has a finite loss.
    """
    if all(trial.loss is None for trial in trials):
        rates = ", ".join(f"{trial.learning_rate:g}" for trial in trials)
        detail = f"the loss is not finite at any of the learning rates {rates}"
        raise TrainingDiverged(
            f"{detail}; give lower ones", [Fault(detail, pointer="/training/learning_rates")]
        )
    return max(trials, key=_goodness)


def _goodness(trial: RateTrial) -> tuple[bool, float, float, float]:
    metric = -math.inf if trial.metric is None else trial.metric
    loss = math.inf if trial.loss is None else trial.loss
    return trial.loss is not None, metric, -loss, -trial.learning_rate


def with_earlier(report: PrefixReport, earlier: PrefixReport | None) -> PrefixReport:
    """The report of a run's prefix whose states its own trials may have computed first."""
    if earlier is None or earlier.mode != report.mode:
        return report
    seconds = round(report.seconds + earlier.seconds, 3)
    changed = {"reused": earlier.reused, "reason": earlier.reason, "seconds": seconds}
    return report.model_copy(update=changed)


def at_rate(run: Setup, rate: float) -> Setup:
    """The same run at one learning rate, as if it had been requested so."""
    changed = {"learning_rate": rate, "learning_rates": None}
    spec = run.spec.model_copy(update={"training": run.spec.training.model_copy(update=changed)})
    return replace(run, spec=spec, training=run.training.model_copy(update=changed))


@dataclass
class RateTrials:
    """Trains at each of ``learning_rates`` from the same start, on the rows not set aside.

    The rows that are set aside depend on the data and the run's seed only. ``factors`` are those of
    `rate_factors`. The states of the frozen prefix are those of the run itself; ``prefix_report``
    says where the first trial got them from.
    """

    run: Setup
    trained: dict[str, nn.Parameter]
    factors: Mapping[str, float]
    loss: Loss
    stepper: Stepper
    prefix: PrefixInputs
    prefix_report: PrefixReport | None = None

    @cached_property
    def rows(self) -> tuple[Rows, Rows]:
        """The train rows to fit on, and those to judge by."""
        return held_out_rows(self.run.data, HELD_OUT_SHARE, self.run.training.seed)

    @property
    def steps(self) -> int:
        """The number of optimizer steps of each trial."""
        return total_steps(self.run.training, len(self.rows[0]), self.run.share.world)

    @property
    def steps_per_epoch(self) -> int:
        """The number of optimizer steps of each epoch of a trial."""
        return steps_per_epoch(self.run.training, len(self.rows[0]), self.run.share.world)

    def choose(self, resume: Path | None) -> list[RateTrial]:
        """Try each learning rate, if there are any; ``resume`` is the state of an interrupted run.

        What was tried before the interruption is not tried again, and what was being tried goes on.
        The weights are then as they were. Raises Stopped, after it saved a state.
        """
        rates = self.run.training.learning_rates or []
        if not rates:
            return []
        start = {name: parameter.detach().clone() for name, parameter in self.trained.items()}
        trials, running = saved_trials(resume) if resume else ([], None)
        for place, rate in enumerate(rates):
            if place < len(trials):
                continue
            trial_run = at_rate(self.run, rate)
            train_state = trial_run.begin(self.trained, self.factors, self.steps)
            progress = Progress(trial=place, trials=trials)
            progress.precision = trial_run.training.precision
            if resume is not None and place == running:
                progress = load_state(resume, train_state, self.run.device, self.run.share)
                self.stepper.halvings = progress.halvings
            elif place > 0:  # the one before it is not to be lost
                save(trial_run, train_state, progress)
            trials = [*trials, self._try(trial_run, train_state, progress)]
            self._restore(start)
        return trials

    @torch.no_grad()
    def _restore(self, start: Mapping[str, Tensor]) -> None:
        for name, parameter in self.trained.items():
            parameter.copy_(start[name])

    def _try(self, run: Setup, train_state: TrainState, progress: Progress) -> RateTrial:
        active = ActiveLayers(run.loaded, self.trained, run.training, self.steps_per_epoch)
        self.stepper.train_state = train_state
        metric = loss = None
        with StagedPrefix(self.prefix, active, self.steps, self.steps_per_epoch) as prefix:
            try:
                self._train(run, progress, active, prefix)
                began = time.perf_counter()
                predictions = self._predict(prefix)
                metric = predictions.metrics([run.metric])[run.metric]
                loss = mean_loss(self.loss, predictions)
                progress.train_seconds += time.perf_counter() - began
            except TrainingDiverged:
                metric = loss = None  # the worst that a rate can be, and no reason to end the run
        active.end()
        self.prefix_report = self.prefix_report or prefix.report
        seconds = round(progress.train_seconds, 3)
        rate = run.training.learning_rate
        return RateTrial(learning_rate=rate, metric=metric, loss=loss, seconds=seconds)

    def _train(
        self, run: Setup, progress: Progress, active: ActiveLayers, prefix: StagedPrefix
    ) -> None:
        """Take the remaining steps of a trial. Raises TrainingDiverged and Stopped."""
        self.stepper.replay = partial(prefix.replay, "train")
        saved_at, steps = time.monotonic(), list[list[Rows]]()
        before = len(progress.trials) * self.steps
        total = len(self.run.training.learning_rates or ()) * self.steps
        prefix.enter(max(0, progress.step - 1), progress)
        run.report.phase("rates")
        self.stepper.begin()
        while progress.step < self.steps:
            if prefix.enter(progress.step, progress):
                run.report.phase("rates")
            if progress.batch == 0 or not steps:
                steps = self._epoch_steps(progress.epoch)
            take_step(run, self.stepper, active, progress, steps)
            if progress.step % LOG_EVERY == 0 or progress.step == self.steps:
                checked_loss(progress)
            count = (before + progress.step, total)
            saved_at = after_step(run, self.stepper, progress, saved_at, count)

    def _epoch_steps(self, epoch: int) -> list[list[Rows]]:
        """The batches of each step of an epoch, as places in the whole of train."""
        fit, run = self.rows[0], self.run
        local = epoch_steps(run.train.lengths[fit], run.training, epoch, run.share.world)
        return [[[fit[row] for row in rows] for rows in batches] for batches in local]

    def _predict(self, prefix: StagedPrefix) -> Predictions:
        """The outputs for the rows that are set aside. Raises TrainingDiverged."""
        run, judged = self.run, self.rows[1]

        def replay(rows: Sequence[int]) -> AbstractContextManager[None]:
            return prefix.replay("train", [judged[row] for row in rows])

        data = replace(run.data, validation=run.data.train.select(judged), also=())
        encoded = run.train.select(judged)
        found = predict_validation(run.loaded.model, encoded, data, run.device, replay=replay)
        return found.cross_decided()
