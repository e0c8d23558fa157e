"""Fine-tune the selected layers and the head, and nothing else."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from accelerate import PartialState

from surgery.checkpoints.checkpoint import write_checkpoint
from surgery.checkpoints.onnx_export import BestExport
from surgery.checkpoints.record import kept_form, record_of
from surgery.data.tokens.cache import encode_split
from surgery.data.tokens.dataset import TaskData
from surgery.errors import TrainingDiverged
from surgery.evaluation.evaluate import evaluate_also, measured
from surgery.evaluation.evaluation_sets import reported
from surgery.io.reporter import CheckpointSummary, Quiet, Reporter, Stopped
from surgery.models.blocks import Unit
from surgery.models.distributed import first_says, present_share
from surgery.models.lengths import token_lengths, truncation_warnings
from surgery.models.loading import LoadedModel
from surgery.models.memory import peak_bytes, reset_peak, settle
from surgery.models.numerics import Numerics, with_precision
from surgery.models.trainable import check_frozen, frozen_digests, make_trainable
from surgery.ranking.agreement import RankingTracker
from surgery.schemas.enums import TrainingPrecision
from surgery.schemas.finetune import EpochReport, FinetuneResult, FinetuneSpec
from surgery.schemas.training import TrainingSpec, check_training, steps_per_epoch, total_steps
from surgery.training.optimizer import loss_for, make_optimizer, make_schedule, rate_factors
from surgery.training.prefix_cache.cache import Prefix, Split, open_prefix
from surgery.training.prefix_cache.store import Room
from surgery.training.state import Moving, Progress, load_state, save_state, saved_precision
from surgery.training.step import Rows, Stepper, epoch_steps, halving_warnings
from surgery.training.throughput import Meter

LOG_EVERY = 10  # optimizer steps between two reports of the loss
STATE_SECONDS = 300.0  # at most this much training is lost to a crash
GO_ON, SAVE, DRAIN, CANCEL = range(4)


def keep_checkpoint(
    report: Reporter, loaded: LoadedModel, data: TaskData, spec: FinetuneSpec,
    layers: Sequence[Unit], trained: Sequence[str], entry: EpochReport, *, is_best: bool,
) -> None:  # fmt: skip
    """Write the checkpoint of ``entry`` and report it."""
    report.phase("save")
    folder = report.new_folder(f"checkpoint-{entry.step}")
    form = kept_form(spec)
    write_checkpoint(folder, loaded, trained, form, record_of(spec, data, layers, entry))
    summary = CheckpointSummary(entry.epoch, entry.step, form, entry.metrics, is_best)
    report.checkpoint(folder, summary)


def best_report(reports: Sequence[EpochReport], metric: str) -> EpochReport:
    """The evaluation with the highest metric; the earliest of equals. An undefined one is last."""
    return max(reports, key=lambda report: _value(report, metric))


def evaluation_due(progress: Progress, training: TrainingSpec, total_steps: int) -> bool:
    """Whether the steps done since the last evaluation call for another."""
    if progress.step == (progress.reports[-1].step if progress.reports else 0):
        return False
    every = training.evaluate_every_steps
    due = progress.batch == 0 if every is None else progress.step % every == 0
    return due or progress.step == total_steps


def stops_early(reports: Sequence[EpochReport], metric: str, training: TrainingSpec) -> bool:
    """Whether the last ``early_stopping_patience`` evaluations brought nothing better.

    Better is by more than ``early_stopping_threshold`` than the best before it.
    """
    if training.early_stopping_patience is None:
        return False
    best, since = -math.inf, 0
    for report in reports:
        value = _value(report, metric)
        if value > best + training.early_stopping_threshold:
            best, since = value, 0
        else:
            since += 1
    return since >= training.early_stopping_patience


def _value(report: EpochReport, metric: str) -> float:
    value = report.metrics[metric]
    return -math.inf if value is None else value


@dataclass
class Finetune:
    """One run: what it works on and how far it is."""

    loaded: LoadedModel
    data: TaskData
    spec: FinetuneSpec
    layers: Sequence[Unit]
    report: Reporter
    scores: Mapping[str, float] | None = None
    room: Room | None = None
    resume: Path | None = None
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        device = PartialState().device
        before = saved_precision(self.resume) if self.resume else None
        training = self.training = with_precision(self.spec.training, device, before)
        self.loaded.model.to(device)
        self.meter = Meter(self.loaded, training.precision or TrainingPrecision.FP32)
        self.share = present_share()
        self.numerics = Numerics(training, device)
        self.report.phase("tokenize")
        tokenizer, length = self.loaded.tokenizer, training.max_length
        with PartialState().main_process_first():  # the others find its tokens on disk
            self.train = encode_split(self.data, "train", tokenizer, length)
            self.validation = encode_split(self.data, "validation", tokenizer, length)
        self.lengths = token_lengths(self.train, self.loaded, length, self.validation)
        world, rows, classes = self.share.world, len(self.train), len(self.data.labels)
        check_training(
            training, self.data.problem, self.data.metrics, classes=classes, rows=rows,
            processes=world,
        )  # fmt: skip
        self.total_steps = total_steps(training, rows, world)
        self.metric = training.metric or self.data.metrics[0]
        self.tracker: RankingTracker | None = None
        if self.spec.track_ranking:  # a resumed run finds the same, from the same weights
            self.report.phase("rank")
            self.tracker = RankingTracker(self.loaded, self.data, training)
        self.moving = self._moving()
        self.digests = frozen_digests(self.loaded.model)
        loss = loss_for(training, self.data.problem, classes, self.train)
        self.stepper = Stepper(
            self.loaded.model, self.moving, self.train, loss, training, numerics=self.numerics,
            share=self.share,
        )  # fmt: skip
        torch.manual_seed(training.seed + self.share.rank)
        if self.resume is not None:
            self._restore(self.resume)

    def _moving(self) -> Moving:
        trained = make_trainable(self.loaded, self.layers, self.spec)
        factors = rate_factors(self.loaded, trained, self.layers, self.training, self.scores)
        optimizer = make_optimizer(trained, self.training, factors)
        schedule = make_schedule(optimizer, self.training, self.total_steps)
        return Moving(trained, optimizer, schedule, self.numerics.scaler)

    def _restore(self, folder: Path) -> None:
        """Go on exactly where the saved state was."""
        self.progress = load_state(folder, self.moving, self.stepper.device, self.share)
        self.stepper.halvings = self.progress.halvings

    def run(self) -> None:
        """Train to the last step, evaluating after each epoch or so many steps."""
        self._state_saved = time.monotonic()
        self._plan: tuple[int, list[list[Rows]]] | None = None
        with self.numerics.settings():
            self.prefix = self._open_prefix()
            self.progress.replays = self.prefix.replays
            self.progress.precision = self.training.precision
            self.stepper.replay = partial(self.prefix.replay, "train")
            with self.prefix.installed():
                self._train()

    def _open_prefix(self) -> Prefix:
        """What lies below the lowest trained layer, ready to be replayed."""
        train = Split(self.train, self.numerics.autocast)
        per_epoch = steps_per_epoch(self.training, len(self.train), self.share.world)
        return open_prefix(
            self.loaded, {"train": train, "validation": Split(self.validation)}, self.training,
            self.report, digests=self.digests, passes=self.total_steps / per_epoch, room=self.room,
            before=self.progress.replays,
        )  # fmt: skip

    def _train(self) -> None:
        self.report.phase("train")
        self.stepper.model.train()
        while True:
            if evaluation_due(self.progress, self.training, self.total_steps):
                self._evaluate()
            if self._over():
                return
            self._step()
            self._stop_or_save()

    def _over(self) -> bool:
        done = self.progress.step >= self.total_steps
        return done or stops_early(self.progress.reports, self.metric, self.training)

    def _steps(self) -> list[list[Rows]]:
        """The batches of each step of the present epoch."""
        epoch = self.progress.epoch
        if self._plan is None or self._plan[0] != epoch:
            steps = epoch_steps(self.train.lengths, self.training, epoch, self.share.world)
            self._plan = epoch, steps
        return self._plan[1]

    def _step(self) -> None:
        began = time.perf_counter()
        progress, steps = self.progress, self._steps()
        batches = steps[progress.batch]
        progress.add_loss(self.stepper.step(batches), sum(map(len, batches)))
        progress.halvings = self.stepper.halvings
        progress.step += 1
        progress.batch += 1
        if progress.batch == len(steps):
            progress.epoch, progress.batch = progress.epoch + 1, 0
        if progress.step % LOG_EVERY == 0:
            settle(self.stepper.device)
        progress.train_seconds += time.perf_counter() - began
        if progress.step % LOG_EVERY == 0:
            self._log()

    def _epochs(self) -> float:
        """How many epochs are done, parts of one included."""
        progress = self.progress
        part = progress.batch / len(self._steps()) if progress.batch else 0.0
        return progress.epoch + part

    def _log(self) -> None:
        value = self.progress.recent_loss()
        if not math.isfinite(value):
            raise TrainingDiverged(
                f"the loss is not finite at step {self.progress.step}; lower training.learning_rate"
            )
        rate = max(float(rate) for rate in self.moving.schedule.get_last_lr())
        self.report.metric(
            self.progress.step, self._epochs(), {"train_loss": value, "learning_rate": rate}
        )

    def _stop_or_save(self) -> None:
        """Hear what the reporter wants; all processes do the same."""
        wanted = GO_ON
        if time.monotonic() - self._state_saved > STATE_SECONDS:
            wanted = SAVE
        try:
            self.report.step(self.progress.step, self.total_steps, "steps")
        except Stopped as stop:
            wanted = DRAIN if stop.resumable else CANCEL
        wanted = first_says(wanted, self.share)
        if wanted in {SAVE, DRAIN}:
            self._save_state()
        if wanted in {DRAIN, CANCEL}:
            raise Stopped(resumable=wanted == DRAIN)

    def _save_state(self) -> None:
        first = self.share.rank == 0
        folder = self.report.new_folder(f"state-{self.progress.step}") if first else Path()
        save_state(folder, self.progress, self.moving, self.stepper.device, self.share)
        if first:
            self.report.state(folder, self.progress.step)
        self._state_saved = time.monotonic()

    def _evaluate(self) -> None:
        self.report.phase("evaluate")
        progress = self.progress
        model, device = self.loaded.model, self.stepper.device
        replay = partial(self.prefix.replay, "validation")
        found = measured(model, self.validation, self.data, device, replay=replay)
        entry = EpochReport(
            epoch=self._epochs(), step=progress.step, train_loss=progress.epoch_loss(),
            metrics=found.metrics(self.data.metrics),
            also=evaluate_also(model, self.data.also, device),
            ranking=self.tracker.now() if self.tracker else None,
        )  # fmt: skip
        progress.reports.append(entry)
        is_best = best_report(progress.reports, self.metric) is entry
        if is_best:
            entry.noise = found.noise(self.metric)
        self.report.metric(progress.step, entry.epoch, reported(entry))
        if self.share.rank == 0:
            keep_checkpoint(
                self.report, self.loaded, self.data, self.spec, self.layers,
                list(self.moving.trained), entry, is_best=is_best,
            )  # fmt: skip
        if not self._over():
            self._save_state()
            self.report.phase("train")
            self.stepper.model.train()

    def result(self, seconds: float) -> FinetuneResult:
        """What was reached, after proving that nothing frozen moved."""
        check_frozen(self.loaded.model, self.digests)
        progress = self.progress
        spent = progress.train_seconds
        return FinetuneResult(
            trained_layers=[layer.name for layer in self.layers],
            included=list(self.spec.selection.include),
            adapter=self.spec.adapter,
            trainable_parameters=sum(p.numel() for p in self.moving.trained.values()),
            total_parameters=sum(p.numel() for p in self.loaded.model.parameters()),
            primary_metric=self.metric,
            best=best_report(progress.reports, self.metric),
            epochs=progress.reports,
            stopped_early=progress.step < self.total_steps,
            ranking_at_start=self.tracker.at_start if self.tracker else None,
            frozen_verified=True,
            peak_memory_bytes=peak_bytes(),
            samples_per_second=round(progress.rows / spent, 2) if spent else None,
            lengths=self.lengths,
            prefix=self.prefix.report,
            processes=self.share.world,
            precision=self.training.precision or TrainingPrecision.FP32,
            throughput=self.meter.measured(self.train, progress, self.prefix.report),
            seconds={"train": round(spent, 3), "total": round(seconds, 3)},
            warnings=truncation_warnings(self.lengths, self.training.max_length)
            + halving_warnings(self.training, progress.halvings),
        )  # fmt: skip


def finetune(  # noqa: PLR0913  # what a resumed run goes on from comes beside its options
    loaded: LoadedModel,
    data: TaskData,
    spec: FinetuneSpec,
    layers: Sequence[Unit],
    report: Reporter | None = None,
    resume: Path | None = None,
    scores: Mapping[str, float] | None = None,
    room: Room | None = None,
    *,
    earlier_best: tuple[Path, CheckpointSummary] | None = None,
) -> FinetuneResult:
    """Train the given layers and the head; evaluate and keep a checkpoint at each evaluation.

    ``resume`` is a state an earlier, interrupted run of the same spec left; the run then ends with
    the same weights as an uninterrupted one. ``scores``, by name, are what ``layer_learning_rates``
    go by; ``room`` is what the frozen prefix may take; ``earlier_best`` is the best checkpoint of
    the interrupted run with what was reported of it, for ``checkpoints.onnx``. In a group of
    processes (torchrun, accelerate launch) each computes a part of every step. Raises
    TrainingInvalid where the options do not fit, ExportFailed, TrainingDiverged when the loss is
    not finite, OutOfMemory, and Stopped when the reporter asks for it.
    """
    reset_peak()
    began = time.perf_counter()
    report = report or Quiet()
    export = None
    if spec.checkpoints.onnx and present_share().rank == 0:
        export = BestExport(loaded, data, spec.training.max_length, report, earlier_best)
    run = Finetune(loaded, data, spec, layers, export or report, scores, room, resume)
    run.run()
    result = run.result(time.perf_counter() - began)
    result.onnx = export.finish() if export else None
    return result
