"""Run the pieces that a race asks for, and save what an interrupted search needs."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np

from surgery.io.reporter import Reporter, Stopped
from surgery.training.search.decision.race import Piece, Race, Reading, RunKey
from surgery.training.search.decision.surrogate import Array
from surgery.training.search.state import SearchState, save_search
from surgery.training.search.trials import Run, Trainer

RESAMPLES = 200  # of the rows, when finalists are compared
NOISE_RESAMPLES = 40  # for the standard error of one reading
STATE_SECONDS = 300.0  # between two saved states: a crash loses at most this much


class Pieces:
    """Trains pieces in order; all that they leave is in ``state``.

    A piece that a stop interrupts leaves nothing: it is repeated and its time is not charged.
    """

    def __init__(
        self, race: Race, trainer: Trainer, state: SearchState, report: Reporter, metric: str
    ) -> None:
        self._race, self._trainer, self._state = race, trainer, state
        self._report, self._metric = report, metric
        self._saved_at = time.monotonic()

    def train(self, piece: Piece) -> Reading:
        """Continue or begin a run; raises Stopped if the reporter asks for it."""
        if time.monotonic() - self._saved_at > STATE_SECONDS:
            self._save()
        run = self._run(piece.run)
        until = max(1, round(piece.fraction * self._trainer.steps))
        began = time.perf_counter()
        try:
            judged = self._trainer.advance(run, until, lambda: self._tell(began))
        except Stopped as stop:
            if stop.resumable:
                self._save()
            raise
        if piece.fraction == 1:  # it will not go on
            run.weights, run.moments = {}, {}
        self._state.runs[piece.run] = run
        metric = noise = None
        if judged.predictions is not None:
            self._state.logits[piece.run] = judged.predictions.logits
            metric = judged.predictions.metrics([self._metric])[self._metric]
            drawn = judged.predictions.resampled(self._metric, NOISE_RESAMPLES)
            noise = float(np.nanstd(drawn)) if np.isfinite(drawn).sum() > 1 else None
        if metric is not None:
            epoch = run.step / self._trainer.steps_per_epoch
            self._report.metric(self._steps(), epoch, {self._metric: metric, "loss": judged.loss})
        return Reading(
            piece=piece,
            metric=metric,
            loss=judged.loss,
            noise=noise or 1 / math.sqrt(len(self._trainer.rows.judged)),
            seconds=time.perf_counter() - began,
            train_seconds=judged.train_seconds,
            steps=run.step,
        )

    def resample(self, runs: Sequence[RunKey]) -> Array:
        """The metric of each run on the same resamples of the rows, (R, B)."""
        return np.array(
            [
                self._trainer.predictions(self._state.logits[run]).resampled(
                    self._metric, RESAMPLES
                )
                for run in runs
            ]
        )

    def _run(self, key: RunKey) -> Run:
        if key in self._state.runs:
            return self._state.runs[key]
        place, rate = divmod(key.point, len(self._race.contest.rates))
        candidate = self._race.contest.candidates[place]
        seed = self._trainer.seed + key.repeat
        return Run(candidate, self._race.contest.rates[rate], seed)

    def _tell(self, began: float) -> None:
        spent = self._race.spent + time.perf_counter() - began
        allowed = self._race.allowed
        total = max(math.ceil(allowed), math.ceil(spent)) if allowed else None
        self._report.step(int(spent), total, "seconds")

    def _steps(self) -> int:
        """Optimizer steps of all runs so far."""
        return sum(run.step for run in self._state.runs.values())

    def _save(self) -> None:
        folder = self._report.new_folder(f"state-{len(self._state.readings)}")
        save_search(folder, self._state)
        self._report.state(folder, self._steps())
        self._saved_at = time.monotonic()
