"""Train a candidate for some more steps, judge it, and put it aside as it is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from surgery.data.tokens.dataset import Encoded, TaskData
from surgery.errors import TrainingDiverged
from surgery.evaluation.baseline import baseline_metrics
from surgery.evaluation.evaluate import Predictions, predict_validation, predictions_for
from surgery.evaluation.learning import Baseline
from surgery.models.blocks import Unit
from surgery.models.distributed import Share
from surgery.models.loading import LoadedModel
from surgery.models.numerics import Numerics
from surgery.models.trainable import freeze_all_but, layers_of_model, trained_parameters
from surgery.schemas.options.training import TrainingSpec, steps_per_epoch, total_steps
from surgery.training.optimizer import (
    constant_loss,
    loss_for,
    make_optimizer,
    make_schedule,
    mean_loss,
    rate_factors,
)
from surgery.training.prefix_cache.cache import Prefix
from surgery.training.search.boundaries import ROWS, Boundaries
from surgery.training.search.decision.candidates import Candidate
from surgery.training.state import TrainState, fast_forward
from surgery.training.step import Stepper, epoch_steps

Moments = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class JudgedRows:
    """The train rows of a dataset, tokenised: those to ``fit`` on, and those ``judged`` by.

    ``metric`` is the metric that counts.
    """

    data: TaskData
    encoded: Encoded
    fit: Sequence[int]
    judged: Sequence[int]
    metric: str


@dataclass
class Run:
    """A candidate at one learning rate and seed, between two of its pieces.

    ``weights`` and ``moments`` are on the CPU, by the names of the trained tensors; both are empty
    before the first step.
    """

    candidate: Candidate
    learning_rate: float
    seed: int
    step: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)
    moments: Moments = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    schedule: int = 0


@dataclass(frozen=True)
class Judged:
    """How good a run was after a piece, and what the piece took."""

    predictions: Predictions | None  # None if the run diverged
    loss: float
    train_seconds: float
    seconds: float


class Trainer:
    """Trains candidates one after the other in one model, which has its own weights in between.

    A run is the beginning of the whole training on the fitted rows: its learning rate falls as it
    would in a run of ``steps`` steps, so that a longer run continues a shorter one and the longest
    is a whole training. Order of rows and dropout depend on the run's seed and step alone.
    ``baseline`` is what a constant prediction reaches on the rows that judge.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        rows: JudgedRows,
        training: TrainingSpec,
        numerics: Numerics,
        boundaries: Boundaries,
        scores: Mapping[str, float] | None = None,
    ) -> None:
        self._loaded, self._numerics, self._boundaries = loaded, numerics, boundaries
        self._training, self._scores = training, scores
        self._encoded, self.rows, data = rows.encoded, rows, rows.data
        self.seed = training.seed
        self._fit, self._judged = np.asarray(rows.fit), np.asarray(rows.judged)
        self._judged_rows = rows.encoded.select(rows.judged)
        self._judged_data = replace(data, validation=data.train.select(rows.judged), also=())
        self._lengths = rows.encoded.lengths[self._fit]
        fit = rows.encoded.select(rows.fit)
        self._loss = loss_for(training, data.problem, len(data.labels), fit)
        own = replace(self._judged_data, metrics=(rows.metric,))
        self.baseline = Baseline(
            baseline_metrics(fit, self._judged_rows, own),
            constant_loss(self._loss, fit, len(data.labels)),
        )
        self._units = layers_of_model(loaded)
        self._device = next(loaded.model.parameters()).device
        self.steps = total_steps(training, len(self._fit))
        self.steps_per_epoch = steps_per_epoch(training, len(self._fit))

    def advance(self, run: Run, until: int, tick: Callable[[], None]) -> Judged:
        """Train a run up to step ``until`` and judge it; the run keeps what it learned.

        ``tick`` is called after each step. If it raises, model and run are as before the piece.
        """
        began = time.perf_counter()
        trained = freeze_all_but(self._loaded, self._units_of(run.candidate), [])
        prefix = self._boundaries.prefix(run.candidate.lowest)
        before = {name: tensor.detach().clone() for name, tensor in trained.items()}
        try:
            with self._numerics.settings(), prefix.installed():
                self._train(run, trained, until, prefix, tick)
                spent = time.perf_counter() - began
                predictions = self._predicted(prefix)
        finally:
            with torch.no_grad():
                for name, tensor in trained.items():
                    tensor.copy_(before[name])
                    tensor.grad = None
        loss = math.inf if predictions is None else mean_loss(self._loss, predictions)
        return Judged(predictions, loss, spent, time.perf_counter() - began)

    def trained_by(self, candidate: Candidate) -> dict[str, nn.Parameter]:
        """The tensors that a candidate trains, by name."""
        return trained_parameters(self._loaded, self._units_of(candidate), [])

    def predictions(self, logits: np.ndarray[Any, Any]) -> Predictions:
        """A run's logits for the rows that judge, with their labels."""
        return predictions_for(logits, self._judged_rows, self._judged_data).cross_decided()

    def _units_of(self, candidate: Candidate) -> list[Unit]:
        return [self._units[place] for place in candidate.layers]

    def _train(
        self,
        run: Run,
        trained: dict[str, nn.Parameter],
        until: int,
        prefix: Prefix,
        tick: Callable[[], None],
    ) -> None:
        """Take the steps of a piece, from where the run was put aside."""
        units = self._units_of(run.candidate)
        training = self._training.model_copy(
            update={"learning_rate": run.learning_rate, "seed": run.seed}
        )
        factors = rate_factors(self._loaded, trained, units, training, self._scores)
        optimizer = make_optimizer(trained, training, factors)
        schedule = make_schedule(optimizer, training, self.steps)
        scaler = Numerics(training, self._device).scaler()
        train_state = TrainState(trained, optimizer, schedule, scaler)
        if run.step:
            _take_up(run, train_state)
        stepper = Stepper(
            self._loaded.model,
            self._encoded,
            self._loss,
            training,
            numerics=self._numerics,
            share=Share(),
        )
        stepper.train_state = train_state
        stepper.replay = partial(prefix.replay, ROWS)
        torch.manual_seed(run.seed * 1_000_003 + run.step)
        stepper.begin()
        for batches in self._batches(training, run.step, until):
            stepper.step(batches)
            tick()
        stepper.model.eval()
        run.step = until
        _put_aside(run, train_state)

    def _batches(self, training: TrainingSpec, first: int, until: int) -> Iterator[list[list[int]]]:
        """The batches of each step from ``first`` up to ``until``, as rows of ``encoded``."""
        each = self.steps_per_epoch
        for epoch in range(first // each, -(-until // each)):
            steps = epoch_steps(self._lengths, training, epoch)
            start, end = max(0, first - epoch * each), min(each, until - epoch * each)
            for batches in steps[start:end]:
                yield [self._fit[rows].tolist() for rows in batches]

    def _predicted(self, prefix: Prefix) -> Predictions | None:
        """The outputs for the rows that judge, or None if they are not finite."""

        def replay(rows: Sequence[int]) -> AbstractContextManager[None]:
            return prefix.replay(ROWS, self._judged[list(rows)].tolist())

        try:
            found = predict_validation(
                self._loaded.model,
                self._judged_rows,
                self._judged_data,
                self._device,
                replay=replay,
            )
            return found.cross_decided()
        except TrainingDiverged:
            return None


@torch.no_grad()
def _take_up(run: Run, train_state: TrainState) -> None:
    """Restore a run's weights, moments and learning rates."""
    for name, tensor in train_state.trained.items():
        tensor.copy_(run.weights[name])
        train_state.optimizer.state[tensor] = {
            key: value.to(tensor.device, copy=True) for key, value in run.moments[name].items()
        }
    train_state.scaler.load_state_dict(run.scaler)
    fast_forward(train_state, run.schedule)


def _put_aside(run: Run, train_state: TrainState) -> None:
    for name, tensor in train_state.trained.items():
        run.weights[name] = tensor.detach().cpu().clone()
        state = train_state.optimizer.state[tensor]
        run.moments[name] = {key: value.detach().cpu() for key, value in state.items()}
    run.scaler = train_state.scaler.state_dict()
    run.schedule = train_state.schedule.last_epoch
