"""Fine-tune the selected layers and the head, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from accelerate import PartialState
from torch import nn

from surgery.checkpoints.checkpoint import write_checkpoint
from surgery.checkpoints.onnx_export import BestExport
from surgery.checkpoints.record import checkpoint_form, record_of
from surgery.data.tokens.cache import encode_split
from surgery.data.tokens.dataset import Encoded, TaskData
from surgery.errors import Fault, TrainingInvalid
from surgery.evaluation.baseline import baseline_metrics, only_prediction
from surgery.evaluation.evaluate import evaluate_sets, finite_logits, predict_validation
from surgery.evaluation.evaluation_sets import reported_metrics
from surgery.evaluation.learning import Baseline, learning_warnings
from surgery.evaluation.thresholds import DEFAULT, Array, fit_thresholds
from surgery.io.reporter import CheckpointSummary, Quiet, Reporter
from surgery.models.blocks import Unit
from surgery.models.distributed import present_share
from surgery.models.lengths import token_lengths, truncation_warnings
from surgery.models.loading import LoadedModel
from surgery.models.memory import peak_bytes, reset_peak
from surgery.models.numerics import Numerics, with_precision
from surgery.models.trainable import check_frozen, frozen_digests, make_trainable
from surgery.ranking.agreement import RankingTracker
from surgery.schemas import JobWarning
from surgery.schemas.enums import Problem, TrainingPrecision
from surgery.schemas.jobs.finetune import (
    EpochReport,
    FinetuneResult,
    FinetuneSpec,
    PrefixReport,
    RateTrial,
)
from surgery.schemas.options.training import TrainingSpec, check_training, with_dropout_decided
from surgery.training.optimizer import Loss, constant_loss, loss_for, rate_factors
from surgery.training.prefix_cache.cache import SplitRows
from surgery.training.prefix_cache.store import Room
from surgery.training.preparation.head import begin_head
from surgery.training.preparation.rates import RateTrials, at_rate, best_trial, with_earlier
from surgery.training.preparation.set_aside import without_set_aside
from surgery.training.run import (
    LOG_EVERY,
    Setup,
    after_step,
    checked_loss,
    metric_value,
    save,
    take_step,
)
from surgery.training.speed.throughput import Meter
from surgery.training.stages import ActiveLayers, PrefixInputs, StagedPrefix, unreached_warnings
from surgery.training.state import Progress, TrainState, load_state, saved_precision, saved_trials
from surgery.training.step import Rows, Stepper, epoch_steps, halving_warnings


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
    digests = frozen_digests(loaded.model)
    stepper = Stepper(loaded.model, run.train, run.loss, training, numerics=numerics, share=share)
    prefix = _prefix_inputs(run, digests, room)
    with numerics.settings():
        rates = RateTrials(run, trained, factors, run.loss, stepper, prefix)
        trials = rates.choose(resume)
        if trials:
            run = at_rate(run, best_trial(trials).learning_rate)
        stepper.train_state = run.begin(trained, factors, run.steps)
        progress = _begun(run, stepper, trials, resume)
        active = ActiveLayers(loaded, trained, run.training, run.steps_per_epoch)
        with StagedPrefix(prefix, active, run.steps, run.steps_per_epoch) as staged:
            _train(run, progress, stepper, active, staged)
    active.end()
    check_frozen(loaded.model, digests)
    prefix_report = with_earlier(staged.report, rates.prefix_report)
    result = _result(run, trained, progress, active, prefix_report)
    result.seconds["total"] = round(time.perf_counter() - began, 3)
    result.onnx = export.finish() if export else None
    return result


def _begun(
    run: Setup, stepper: Stepper, trials: Sequence[RateTrial], resume: Path | None
) -> Progress:
    """The progress before the first step that remains, and the state that goes with it."""
    if resume and saved_trials(resume)[1] is None:
        progress = load_state(resume, stepper.train_state, run.device, run.share)
        stepper.halvings = progress.halvings
        return progress
    progress = Progress(trials=list(trials), precision=run.training.precision)
    if trials:
        save(run, stepper.train_state, progress)  # what was tried is not to be tried again
    return progress


def _train(
    run: Setup, progress: Progress, stepper: Stepper, active: ActiveLayers, prefix: StagedPrefix
) -> None:
    """Take the remaining steps, and evaluate after each epoch or number of steps."""
    training, train_state, saved_at = run.training, stepper.train_state, time.monotonic()
    stepper.replay = partial(prefix.replay, "train")
    steps: list[list[Rows]] = []  # the batches of each step of this epoch
    prefix.enter(max(0, progress.step - 1), progress)  # as the last step had it, for evaluations
    _begin_training(run, stepper)
    while True:
        evaluates = evaluation_due(progress, training, run.steps)
        if evaluates:
            _evaluate(run, train_state, progress, prefix)
        if run.is_over(progress):
            return
        if evaluates:
            saved_at = save(run, train_state, progress)
        if prefix.enter(progress.step, progress) or evaluates:
            _begin_training(run, stepper)
        if progress.batch == 0 or not steps:
            steps = epoch_steps(run.train.lengths, training, progress.epoch, run.share.world)
        take_step(run, stepper, active, progress, steps)
        if progress.step % LOG_EVERY == 0:
            _log(run, train_state, progress)
        count = (progress.step, run.steps)
        saved_at = after_step(run, stepper, progress, saved_at, count)


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
    training = with_dropout_decided(training, data.problem)
    loaded.model.to(device)
    meter = Meter(loaded, training.precision or TrainingPrecision.FP32)
    numerics = Numerics(training, device)
    report.phase("tokenize")
    tokenizer, length = loaded.tokenizer, training.max_length
    with PartialState().main_process_first():  # the other processes read its tokens from disk
        whole = encode_split(data, "train", tokenizer, length)
        validation = encode_split(data, "validation", tokenizer, length)
    trained_on, train, set_aside = without_set_aside(data, whole, training)
    classes, rows = len(data.labels), len(train)
    check_training(
        training, data.problem, data.metrics, classes=classes, rows=rows, processes=share.world
    )
    if training.layer_schedule is not None and share.world > 1:
        raise TrainingInvalid(
            "layer_schedule does not go with several processes; start one",
            [Fault("does not go with several processes", pointer="/training/layer_schedule")],
        )
    with numerics.settings():
        head = begin_head(loaded, train, data.problem, training, report)
    tracker = None
    if spec.track_ranking:  # a resumed run computes the same ranking, from the same weights
        report.phase("rank")
        untrained = head.source == "new" and head.fit == "none"
        tracker = RankingTracker(loaded, data, training, untrained=untrained)
    loss = loss_for(training, data.problem, classes, train)
    return Setup(
        loaded=loaded,
        data=trained_on,
        spec=spec,
        training=training,
        layers=layers,
        report=report,
        train=train,
        validation=validation,
        set_aside=set_aside,
        device=device,
        share=share,
        numerics=numerics,
        meter=meter,
        head=head,
        loss=loss,
        baseline=_baseline(data, train, validation, loss),
        tracker=tracker,
    )


def _baseline(data: TaskData, train: Encoded, validation: Encoded, loss: Loss) -> Baseline:
    """What a constant prediction reaches on the rows that measure the run."""
    return Baseline(
        metrics=baseline_metrics(train, validation, data),
        loss=constant_loss(loss, train, len(data.labels)),
        also={
            own.name: baseline_metrics(train, own.encoded, own.data, own.outputs)
            for own in data.also
        },
    )


def _prefix_inputs(run: Setup, digests: Mapping[str, str], room: Room | None) -> PrefixInputs:
    """What the frozen prefix below the lowest trained layer is opened with."""
    splits = {
        "train": SplitRows(run.train, run.numerics.autocast),
        "validation": SplitRows(run.validation),
    }
    if run.set_aside is not None:
        splits["set_aside"] = SplitRows(run.set_aside)
    return PrefixInputs(run.loaded, splits, run.training, run.report, digests, room)


def _begin_training(run: Setup, stepper: Stepper) -> None:
    run.report.phase("train")
    stepper.begin()


def _log(run: Setup, train_state: TrainState, progress: Progress) -> None:
    rate = max(float(rate) for rate in train_state.schedule.get_last_lr())
    values = {"train_loss": checked_loss(progress), "learning_rate": rate}
    run.report.metric(progress.step, run.epochs(progress), values)


def _evaluate(
    run: Setup, train_state: TrainState, progress: Progress, prefix: StagedPrefix
) -> None:
    """Evaluate the model, report the metrics and write a checkpoint."""
    run.report.phase("evaluate")
    model, data = run.loaded.model, run.data
    replay = partial(prefix.replay, "validation")
    thresholds = _thresholds(run, prefix)
    found = predict_validation(model, run.validation, data, run.device, replay=replay)
    result = replace(found, thresholds=thresholds)
    entry = EpochReport(
        epoch=run.epochs(progress),
        step=progress.step,
        train_loss=progress.epoch_loss(),
        metrics=result.metrics(data.metrics),
        also=evaluate_sets(model, data.also, run.device),
        ranking=run.tracker.now() if run.tracker else None,
        thresholds=None
        if thresholds is None
        else dict(zip(data.labels, thresholds.tolist(), strict=True)),
        only_prediction=only_prediction(result, data.labels),
    )
    progress.reports.append(entry)
    is_best = best_report(progress.reports, run.metric) is entry
    if is_best:
        entry.noise = result.noise(run.metric)
        entry.unrelated = result.unrelated(run.metric)
        entry.rmse_noise = result.noise("rmse") if "rmse" in data.metrics else None
    run.report.metric(progress.step, entry.epoch, reported_metrics(entry, run.baseline))
    if run.share.rank == 0:
        _write_checkpoint(run, list(train_state.trained), progress, is_best=is_best)


def _thresholds(run: Setup, prefix: StagedPrefix) -> Array | None:
    """The thresholds (C,) of the present model, for several labels a row.

    They are fitted on rows of train that were set aside, never on validation; without such rows
    they are a half.
    """
    if run.data.problem is not Problem.MULTI_LABEL:
        return None
    if run.set_aside is None:
        return np.full(len(run.data.labels), DEFAULT)
    replay = partial(prefix.replay, "set_aside")
    logits = finite_logits(run.loaded.model, run.set_aside, run.device, replay)
    return fit_thresholds(logits, run.set_aside.targets)


def _write_checkpoint(
    run: Setup, trained: Sequence[str], progress: Progress, *, is_best: bool
) -> None:
    """Write the checkpoint of the last evaluation and report it."""
    run.report.phase("save")
    entry = progress.reports[-1]
    folder = run.report.new_folder(f"checkpoint-{entry.step}")
    form, record = checkpoint_form(run.spec), record_of(run.spec, run.data, run.layers, entry)
    record = replace(
        record,
        baseline=dict(run.baseline.metrics),
        baseline_loss=run.baseline.loss,
        warnings=[warning.model_dump() for warning in _learned(run, progress, entry)],
    )
    write_checkpoint(folder, run.loaded, trained, form, record)
    summary = CheckpointSummary(entry.epoch, entry.step, form, entry.metrics, is_best)
    run.report.checkpoint(folder, summary)


def _learned(run: Setup, progress: Progress, judged: EpochReport) -> list[JobWarning]:
    return learning_warnings(progress.reports, judged, run.metric, run.baseline)


def _result(
    run: Setup,
    trained: Mapping[str, nn.Parameter],
    progress: Progress,
    active: ActiveLayers,
    prefix: PrefixReport,
) -> FinetuneResult:
    """The result of a run whose frozen tensors have been proved unchanged."""
    spent, length, scheduled = progress.train_seconds, run.training.max_length, active.schedule
    lengths = token_lengths(run.train, run.loaded, length, run.validation)
    best = best_report(progress.reports, run.metric)
    tried = {"rates": round(sum(trial.seconds for trial in progress.trials), 3)}
    return FinetuneResult(
        trained_layers=[layer.name for layer in run.layers],
        included=list(run.spec.selection.include),
        adapter=run.spec.adapter,
        learning_rate=run.training.learning_rate,
        learning_rates=progress.trials,
        trainable_parameters=sum(p.numel() for p in trained.values()),
        active_parameters=active.most if scheduled else None,
        total_parameters=sum(p.numel() for p in run.loaded.model.parameters()),
        primary_metric=run.metric,
        baseline=dict(run.baseline.metrics),
        baseline_loss=run.baseline.loss,
        baseline_also={name: dict(of) for name, of in run.baseline.also.items()},
        best=best,
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
        dropout=run.training.dropout is not False,
        throughput=None if scheduled else run.meter.measured(run.train, progress, prefix),
        seconds={**(tried if progress.trials else {}), "train": round(spent, 3)},
        warnings=[
            *truncation_warnings(lengths, length, "training.max_length"),
            *halving_warnings(run.training, progress.halvings),
            *unreached_warnings(active, progress.step),
            *_learned(run, progress, best),
        ],
    )


def best_report(reports: Sequence[EpochReport], metric: str) -> EpochReport:
    """The evaluation with the highest metric, the earliest of equal ones; undefined is lowest."""
    return max(reports, key=lambda report: metric_value(report, metric))


def evaluation_due(progress: Progress, training: TrainingSpec, total_steps: int) -> bool:
    """Whether the steps done since the last evaluation call for another."""
    if progress.step == (progress.reports[-1].step if progress.reports else 0):
        return False
    every = training.evaluate_every_steps
    due = progress.batch == 0 if every is None else progress.step % every == 0
    return due or progress.step == total_steps
