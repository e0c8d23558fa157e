"""Fine-tune the selected layers and the head, and nothing else."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import PartialState

from surgery.checkpoints.checkpoint import write_checkpoint
from surgery.checkpoints.onnx_export import BestExport
from surgery.checkpoints.record import checkpoint_form, record_of
from surgery.data.tokens.cache import encode_split
from surgery.data.tokens.dataset import Encoded, TaskData
from surgery.errors import TrainingDiverged
from surgery.evaluation.evaluate import evaluate_sets, predict_validation
from surgery.evaluation.evaluation_sets import reported_metrics
from surgery.io.reporter import CheckpointSummary, Quiet, Reporter, Stopped
from surgery.models.blocks import Unit
from surgery.models.distributed import Share, from_first, present_share
from surgery.models.lengths import token_lengths, truncation_warnings
from surgery.models.loading import LoadedModel
from surgery.models.memory import peak_bytes, reset_peak, synchronize
from surgery.models.numerics import Numerics, with_precision
from surgery.models.trainable import check_frozen, frozen_digests, make_trainable
from surgery.ranking.agreement import RankingTracker
from surgery.schemas.enums import TrainingPrecision
from surgery.schemas.finetune import EpochReport, FinetuneResult, FinetuneSpec, PrefixReport
from surgery.schemas.head import HeadReport
from surgery.schemas.training import TrainingSpec, check_training, steps_per_epoch, total_steps
from surgery.training.head import begin_head
from surgery.training.optimizer import loss_for, make_optimizer, make_schedule, rate_factors
from surgery.training.prefix_cache.cache import Prefix, SplitRows, open_prefix
from surgery.training.prefix_cache.store import Room
from surgery.training.state import Progress, TrainState, load_state, save_state, saved_precision
from surgery.training.step import Rows, Stepper, epoch_steps, halving_warnings
from surgery.training.throughput import Meter

LOG_EVERY = 10  # optimizer steps between two reports of the loss
STATE_SECONDS = 300.0  # between two saved states: a crash loses at most this much training
CONTINUE, SAVE, DRAIN, CANCEL = range(4)  # what may follow a step


@dataclass(frozen=True)
class Setup:
    """What a run works with and does not change; `TrainState` and `Progress` hold what changes."""

    loaded: LoadedModel
    data: TaskData
    spec: FinetuneSpec
    training: TrainingSpec  # the options of the spec, with the chosen precision
    layers: Sequence[Unit]
    report: Reporter
    train: Encoded
    validation: Encoded
    device: torch.device
    share: Share
    numerics: Numerics
    meter: Meter
    head: HeadReport
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


def finetune(  # noqa: PLR0913  # what a run resumes from is passed beside its options
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
    """Train the given layers and the head; write a checkpoint at each evaluation.

    ``resume`` is the saved state of an interrupted run of the same spec; the resumed run ends with
    the same weights as an uninterrupted one. ``scores`` are the layers' scores by name, which
    ``layer_learning_rates`` needs. ``room`` limits what the states of the frozen prefix may take.
    ``earlier_best`` is the interrupted run's best checkpoint with its report, which
    ``checkpoints.onnx`` needs. In a group of processes (torchrun, accelerate launch) each computes
    a part of every step. Raises TrainingInvalid if the options do not fit, ExportFailed,
    TrainingDiverged if the loss is not finite, OutOfMemory, and Stopped if the reporter asks for
    it.
    """
    reset_peak()
    began = time.perf_counter()
    report, export = report or Quiet(), None
    if spec.checkpoints.onnx and present_share().rank == 0:
        export = BestExport(loaded, data, spec.training.max_length, report, earlier_best)
    run = _set_up(loaded, data, spec, layers, export or report, resume)
    training, numerics, share = run.training, run.numerics, run.share

    trained = make_trainable(loaded, layers, spec)
    factors = rate_factors(loaded, trained, layers, training, scores)
    optimizer = make_optimizer(trained, training, factors)
    schedule = make_schedule(optimizer, training, run.steps)
    train_state = TrainState(trained, optimizer, schedule, numerics.scaler)
    digests = frozen_digests(loaded.model)
    loss = loss_for(training, data.problem, len(data.labels), run.train)
    stepper = Stepper(
        loaded.model, train_state, run.train, loss, training, numerics=numerics, share=share
    )
    torch.manual_seed(training.seed + share.rank)
    progress = load_state(resume, train_state, run.device, share) if resume else Progress()
    stepper.halvings = progress.halvings

    with numerics.settings():
        prefix = _train(run, train_state, progress, stepper, digests, room)
    seconds = time.perf_counter() - began
    check_frozen(loaded.model, digests)
    result = _result(run, train_state, progress, prefix.report, seconds)
    result.onnx = export.finish() if export else None
    return result


def _train(
    run: Setup,
    train_state: TrainState,
    progress: Progress,
    stepper: Stepper,
    digests: Mapping[str, str],
    room: Room | None,
) -> Prefix:
    """Take the remaining steps, and evaluate after each epoch or number of steps."""
    training, saved_at = run.training, time.monotonic()
    prefix = _open_prefix(run, progress, digests, room)
    progress.replays, progress.precision = prefix.replays, training.precision
    stepper.replay = partial(prefix.replay, "train")
    steps: list[list[Rows]] = []  # the batches of each step of this epoch
    with prefix.installed():
        _begin_training(run, stepper)
        while True:
            evaluates = evaluation_due(progress, training, run.steps)
            if evaluates:
                _evaluate(run, train_state, progress, prefix)
            if run.is_over(progress):
                return prefix
            if evaluates:
                saved_at = _save(run, train_state, progress)
                _begin_training(run, stepper)

            began = time.perf_counter()
            if progress.batch == 0 or not steps:
                steps = epoch_steps(run.train.lengths, training, progress.epoch, run.share.world)
            batches = steps[progress.batch]
            loss = stepper.step(batches)
            progress.add_step(loss, sum(map(len, batches)), len(steps))
            progress.halvings = stepper.halvings
            logs = progress.step % LOG_EVERY == 0
            if logs:
                synchronize(run.device)
            progress.train_seconds += time.perf_counter() - began
            if logs:
                _log(run, train_state, progress)

            action = _next_action(run, progress, saved_at)
            if action in {SAVE, DRAIN}:
                saved_at = _save(run, train_state, progress)
            if action in {DRAIN, CANCEL}:
                raise Stopped(resumable=action == DRAIN)


def _set_up(
    loaded: LoadedModel,
    data: TaskData,
    spec: FinetuneSpec,
    layers: Sequence[Unit],
    report: Reporter,
    resume: Path | None,
) -> Setup:
    """Place the model, tokenise the rows and check the options. Raises TrainingInvalid."""
    device, share = PartialState().device, present_share()
    training = with_precision(spec.training, device, saved_precision(resume) if resume else None)
    loaded.model.to(device)
    meter = Meter(loaded, training.precision or TrainingPrecision.FP32)
    numerics = Numerics(training, device)
    report.phase("tokenize")
    tokenizer, length = loaded.tokenizer, training.max_length
    with PartialState().main_process_first():  # the other processes read its tokens from disk
        train = encode_split(data, "train", tokenizer, length)
        validation = encode_split(data, "validation", tokenizer, length)
    classes, rows = len(data.labels), len(train)
    check_training(
        training, data.problem, data.metrics, classes=classes, rows=rows, processes=share.world
    )
    with numerics.settings():
        head = begin_head(loaded, train, data.problem, training, report)
    tracker = None
    if spec.track_ranking:  # a resumed run computes the same ranking, from the same weights
        report.phase("rank")
        untrained = head.source == "new" and head.fit == "none"
        tracker = RankingTracker(loaded, data, training, untrained=untrained)
    return Setup(
        loaded=loaded,
        data=data,
        spec=spec,
        training=training,
        layers=layers,
        report=report,
        train=train,
        validation=validation,
        device=device,
        share=share,
        numerics=numerics,
        meter=meter,
        head=head,
        tracker=tracker,
    )


def _open_prefix(
    run: Setup, progress: Progress, digests: Mapping[str, str], room: Room | None
) -> Prefix:
    """The frozen prefix below the lowest trained layer, with its states if they are stored."""
    splits = {
        "train": SplitRows(run.train, run.numerics.autocast),
        "validation": SplitRows(run.validation),
    }
    return open_prefix(
        run.loaded,
        splits,
        run.training,
        run.report,
        digests=digests,
        passes=run.steps / run.steps_per_epoch,
        room=room,
        before=progress.replays,
    )


def _begin_training(run: Setup, stepper: Stepper) -> None:
    run.report.phase("train")
    stepper.model.train()


def _log(run: Setup, train_state: TrainState, progress: Progress) -> None:
    value = progress.recent_loss()
    if not math.isfinite(value):
        raise TrainingDiverged(
            f"the loss is not finite at step {progress.step}; lower training.learning_rate"
        )
    rate = max(float(rate) for rate in train_state.schedule.get_last_lr())
    values = {"train_loss": value, "learning_rate": rate}
    run.report.metric(progress.step, run.epochs(progress), values)


def _next_action(run: Setup, progress: Progress, saved_at: float) -> int:
    """What the reporter and the clock ask for after a step; the same in all processes."""
    action = SAVE if time.monotonic() - saved_at > STATE_SECONDS else CONTINUE
    try:
        run.report.step(progress.step, run.steps, "steps")
    except Stopped as stop:
        action = DRAIN if stop.resumable else CANCEL
    return from_first(action, run.share)


def _save(run: Setup, train_state: TrainState, progress: Progress) -> float:
    """Write a state to resume from and report it; returns the time when this was done."""
    first = run.share.rank == 0
    folder = run.report.new_folder(f"state-{progress.step}") if first else Path()
    save_state(folder, progress, train_state, run.device, run.share)
    if first:
        run.report.state(folder, progress.step)
    return time.monotonic()


def _evaluate(run: Setup, train_state: TrainState, progress: Progress, prefix: Prefix) -> None:
    """Evaluate the model, report the metrics and write a checkpoint."""
    run.report.phase("evaluate")
    model, data = run.loaded.model, run.data
    replay = partial(prefix.replay, "validation")
    result = predict_validation(model, run.validation, data, run.device, replay=replay)
    entry = EpochReport(
        epoch=run.epochs(progress),
        step=progress.step,
        train_loss=progress.epoch_loss(),
        metrics=result.metrics(data.metrics),
        also=evaluate_sets(model, data.also, run.device),
        ranking=run.tracker.now() if run.tracker else None,
    )
    progress.reports.append(entry)
    is_best = best_report(progress.reports, run.metric) is entry
    if is_best:
        entry.noise = result.noise(run.metric)
    run.report.metric(progress.step, entry.epoch, reported_metrics(entry))
    if run.share.rank == 0:
        _write_checkpoint(run, list(train_state.trained), entry, is_best=is_best)


def _write_checkpoint(
    run: Setup, trained: Sequence[str], entry: EpochReport, *, is_best: bool
) -> None:
    """Write the checkpoint of an evaluation and report it."""
    run.report.phase("save")
    folder = run.report.new_folder(f"checkpoint-{entry.step}")
    form, record = checkpoint_form(run.spec), record_of(run.spec, run.data, run.layers, entry)
    write_checkpoint(folder, run.loaded, trained, form, record)
    summary = CheckpointSummary(entry.epoch, entry.step, form, entry.metrics, is_best)
    run.report.checkpoint(folder, summary)


def _result(
    run: Setup, train_state: TrainState, progress: Progress, prefix: PrefixReport, seconds: float
) -> FinetuneResult:
    """The result of a run whose frozen tensors have been proved unchanged."""
    spent, length = progress.train_seconds, run.training.max_length
    lengths = token_lengths(run.train, run.loaded, length, run.validation)
    return FinetuneResult(
        trained_layers=[layer.name for layer in run.layers],
        included=list(run.spec.selection.include),
        adapter=run.spec.adapter,
        trainable_parameters=sum(p.numel() for p in train_state.trained.values()),
        total_parameters=sum(p.numel() for p in run.loaded.model.parameters()),
        learning_rate=run.training.learning_rate,
        primary_metric=run.metric,
        best=best_report(progress.reports, run.metric),
        epochs=progress.reports,
        stopped_early=progress.step < run.steps,
        head=run.head,
        ranking_at_start=run.tracker.at_start if run.tracker else None,
        frozen_verified=True,
        peak_memory_bytes=peak_bytes(),
        samples_per_second=round(progress.rows / spent, 2) if spent else None,
        lengths=lengths,
        prefix=prefix,
        processes=run.share.world,
        precision=run.training.precision or TrainingPrecision.FP32,
        throughput=run.meter.measured(run.train, progress, prefix),
        seconds={"train": round(spent, 3), "total": round(seconds, 3)},
        warnings=[
            *truncation_warnings(lengths, length),
            *halving_warnings(run.training, progress.halvings),
        ],
    )


def best_report(reports: Sequence[EpochReport], metric: str) -> EpochReport:
    """The evaluation with the highest metric, the earliest of equal ones; undefined is lowest."""
    return max(reports, key=lambda report: _value(report, metric))


def evaluation_due(progress: Progress, training: TrainingSpec, total_steps: int) -> bool:
    """Whether the steps done since the last evaluation call for another."""
    if progress.step == (progress.reports[-1].step if progress.reports else 0):
        return False
    every = training.evaluate_every_steps
    due = progress.batch == 0 if every is None else progress.step % every == 0
    return due or progress.step == total_steps


def stops_early(reports: Sequence[EpochReport], metric: str, training: TrainingSpec) -> bool:
    """Whether none of the last ``early_stopping_patience`` evaluations was an improvement.

    An improvement exceeds the best metric before it by more than ``early_stopping_threshold``.
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
