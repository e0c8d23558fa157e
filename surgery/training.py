"""Fine-tune the selected layers and the head, and nothing else."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import get_scheduler

from surgery.architecture import model_inputs
from surgery.checkpoint import CheckpointRecord, write_checkpoint
from surgery.data import Batch, TaskData
from surgery.errors import TrainingDiverged
from surgery.evaluation import evaluate
from surgery.finetune_spec import FinetuneSpec
from surgery.lengths import token_lengths, truncation_warnings
from surgery.likelihood import IGNORED
from surgery.loading import LoadedModel
from surgery.memory import peak_bytes, reset_peak
from surgery.progress import Quiet, Reporter, Stopped
from surgery.results import EpochReport, FinetuneResult
from surgery.selection import freeze_all_but, frozen_digests
from surgery.state import Progress, load_state, save_state
from surgery.terms import Problem
from surgery.token_cache import encode_split
from surgery.tracking import RankingTracker
from surgery.training_spec import TrainingSpec
from surgery.units import Unit

LOG_EVERY = 10  # optimizer steps between two reports of the loss
STATE_SECONDS = 300.0  # at most this much training is lost to a crash
LENGTH_GROUP = 50  # batches whose rows are sorted by length together, as transformers groups them


def epoch_batches(
    lengths: np.ndarray[Any, Any], training: TrainingSpec, epoch: int
) -> list[list[int]]:
    """All rows once, in an order of seed and epoch alone, rows of like length together."""
    generator = torch.Generator().manual_seed(training.seed * 1_000_003 + epoch)
    order = torch.randperm(len(lengths), generator=generator).numpy()
    size = training.batch_size
    batches = []
    for start in range(0, len(order), size * LENGTH_GROUP):
        group = order[start : start + size * LENGTH_GROUP]
        group = group[np.argsort(-lengths[group], kind="stable")]
        batches += [group[at : at + size].tolist() for at in range(0, len(group), size)]
    shuffled = torch.randperm(len(batches), generator=generator).tolist()
    return [batches[index] for index in shuffled]


def loss_of(model: nn.Module, batch: Batch, problem: Problem) -> Tensor:
    """Mean cross-entropy (over the tagged tokens), or mean squared error.

    What transformers' own heads use, but for a batch without a tagged token, whose loss is zero.
    """
    logits = model(**model_inputs(model, batch)).logits.float()
    if problem is Problem.REGRESSION:
        return F.mse_loss(logits.squeeze(-1), batch["labels"].float())
    labels = batch["labels"]
    if problem is Problem.TOKEN_CLASSIFICATION:
        total = F.cross_entropy(logits.mT, labels, ignore_index=IGNORED, reduction="sum")
        return total / (labels != IGNORED).sum().clamp_min(1)
    return F.cross_entropy(logits, labels)


def make_optimizer(trained: dict[str, nn.Parameter], training: TrainingSpec) -> torch.optim.AdamW:
    """AdamW over the trained tensors only; biases and norms are not decayed."""
    decayed = [p for p in trained.values() if p.dim() > 1]
    others = [p for p in trained.values() if p.dim() <= 1]
    groups = [
        {"params": decayed, "weight_decay": training.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=training.learning_rate)


@dataclass
class Finetune:
    """One run: what it works on and how far it is."""

    loaded: LoadedModel
    data: TaskData
    spec: FinetuneSpec
    layers: Sequence[Unit]
    report: Reporter
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        training = self.spec.training
        self.report.phase("tokenize")
        tokenizer, length = self.loaded.tokenizer, training.max_length
        self.train = encode_split(self.data, "train", tokenizer, length)
        self.validation = encode_split(self.data, "validation", tokenizer, length)
        self.lengths = token_lengths(self.train, self.loaded, length, self.validation)
        self.tracker = self._track() if self.spec.track_ranking else None
        self.trained = freeze_all_but(self.loaded, self.layers, self.spec.selection.include)
        self.digests = frozen_digests(self.loaded.model)
        per_epoch = math.ceil(len(self.train) / training.batch_size)
        self.total_steps = min(
            training.max_steps or per_epoch * training.epochs, per_epoch * training.epochs
        )
        optimizer = make_optimizer(self.trained, training)
        # accelerate places the model; one process, so batches need no sharding.
        self.accelerator = Accelerator()
        self.model, self.optimizer = self.accelerator.prepare(self.loaded.model, optimizer)
        self.scheduler = get_scheduler(
            training.schedule, optimizer,
            num_warmup_steps=int(training.warmup_ratio * self.total_steps),
            num_training_steps=self.total_steps,
        )  # fmt: skip
        torch.manual_seed(training.seed)

    def _track(self) -> RankingTracker:
        """The ranking at the start: a resumed run finds the same, from the same weights."""
        self.report.phase("rank")
        return RankingTracker(self.loaded, self.data, self.spec.training)

    def restore(self, folder: Path) -> None:
        """Go on exactly where the saved state was."""
        self.progress = load_state(folder, self.trained, self.optimizer.optimizer, self.scheduler)

    def run(self) -> None:
        """Train to the last step, evaluating after each epoch."""
        self._state_saved = time.monotonic()
        while self.progress.step < self.total_steps:
            self.report.phase("train")
            self.model.train()
            for batch in self._remaining_batches():
                self._step(batch)
                if self.progress.step >= self.total_steps:
                    break
            self._finish_epoch()

    def _remaining_batches(self) -> Iterator[list[int]]:
        batches = epoch_batches(self.train.lengths, self.spec.training, self.progress.epoch)
        yield from batches[self.progress.batch :]

    def _step(self, rows: list[int]) -> None:
        began = time.perf_counter()
        batch = {
            name: tensor.to(self.accelerator.device)
            for name, tensor in self.train.batch(rows).items()
        }
        loss = loss_of(self.model, batch, self.data.problem)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.trained.values(), self.spec.training.max_grad_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        progress = self.progress
        progress.add_loss(loss.detach(), len(rows))
        progress.step += 1
        progress.batch += 1
        progress.train_seconds += time.perf_counter() - began
        if progress.step % LOG_EVERY == 0:
            self._log()
        self._stop_or_save()

    def _log(self) -> None:
        value = self.progress.recent_loss()
        if not math.isfinite(value):
            raise TrainingDiverged(
                f"the loss is not finite at step {self.progress.step}; lower training.learning_rate"
            )
        rate = float(self.scheduler.get_last_lr()[0])
        epochs = self.progress.epoch + self.progress.batch * self.spec.training.batch_size / len(
            self.train
        )
        self.report.metric(self.progress.step, epochs, {"train_loss": value, "learning_rate": rate})

    def _stop_or_save(self) -> None:
        try:
            self.report.step(self.progress.step, self.total_steps, "steps")
        except Stopped as stop:
            if stop.resumable:
                self._save_state()
            raise
        if time.monotonic() - self._state_saved > STATE_SECONDS:
            self._save_state()

    def _save_state(self) -> None:
        folder = self.report.new_folder(f"state-{self.progress.step}")
        save_state(folder, self.progress, self.trained, self.optimizer.optimizer, self.scheduler)
        self.report.state(folder, self.progress.step)
        self._state_saved = time.monotonic()

    def _finish_epoch(self) -> None:
        self.report.phase("evaluate")
        progress = self.progress
        values = evaluate(self.model, self.validation, self.data, self.accelerator.device)
        progress.epoch += 1
        progress.batch = 0
        entry = EpochReport(
            epoch=progress.epoch,
            step=progress.step,
            train_loss=progress.epoch_loss(),
            metrics=values,
            ranking=self.tracker.now() if self.tracker else None,
        )
        progress.reports.append(entry)
        told = {f"validation_{name}": value for name, value in values.items()}
        if entry.ranking is not None:
            told["ranking_kendall_tau"] = entry.ranking.kendall_tau
        self.report.metric(progress.step, progress.epoch, told)
        self._save_checkpoint(entry)
        if progress.step < self.total_steps:
            self._save_state()

    def _save_checkpoint(self, entry: EpochReport) -> None:
        self.report.phase("save")
        folder = self.report.new_folder(f"checkpoint-{entry.step}")
        record = CheckpointRecord(
            layers=[layer.name for layer in self.layers],
            included=list(self.spec.selection.include),
            problem=self.data.problem.value,
            labels=self.data.labels,
            metrics=entry.metrics,
            epoch=entry.epoch,
            step=entry.step,
        )
        form = self.spec.checkpoints.form
        write_checkpoint(folder, self.loaded, list(self.trained), form, record)
        self.report.checkpoint(
            folder,
            {
                "epoch": entry.epoch, "step": entry.step, "form": form, "metrics": entry.metrics,
                "is_best": self._best() is entry,
            },
        )  # fmt: skip

    def _best(self) -> EpochReport:
        """The epoch with the highest primary metric; the earlier one where two are equal."""
        name = self.data.metrics[0]
        values = [report.metrics[name] for report in self.progress.reports]
        ranked = [-math.inf if value is None else value for value in values]
        return self.progress.reports[int(np.argmax(ranked))]

    def result(self, seconds: float) -> FinetuneResult:
        """What was reached, after proving that nothing frozen moved."""
        changed = [n for n, d in frozen_digests(self.loaded.model).items() if self.digests[n] != d]
        if changed:
            raise AssertionError(f"frozen tensors changed: {changed[:3]}")
        rows = self.progress.rows
        spent = self.progress.train_seconds
        return FinetuneResult(
            trained_layers=[layer.name for layer in self.layers],
            included=list(self.spec.selection.include),
            trainable_parameters=sum(p.numel() for p in self.trained.values()),
            total_parameters=sum(p.numel() for p in self.loaded.model.parameters()),
            primary_metric=self.data.metrics[0],
            best=self._best(),
            epochs=self.progress.reports,
            ranking_at_start=self.tracker.at_start if self.tracker else None,
            frozen_verified=True,
            peak_memory_bytes=peak_bytes(),
            samples_per_second=round(rows / spent, 2) if spent else None,
            lengths=self.lengths,
            seconds={"train": round(spent, 3), "total": round(seconds, 3)},
            warnings=truncation_warnings(self.lengths, self.spec.training.max_length),
        )  # fmt: skip


def finetune(
    loaded: LoadedModel,
    data: TaskData,
    spec: FinetuneSpec,
    layers: Sequence[Unit],
    report: Reporter | None = None,
    resume: Path | None = None,
) -> FinetuneResult:
    """Train the given layers and the head; evaluate and keep a checkpoint after each epoch.

    ``resume`` is a state an earlier, interrupted run of the same spec left; the run then ends with
    the same weights as an uninterrupted one. Raises TrainingDiverged when the loss is not finite,
    Stopped when the reporter asks for it.
    """
    reset_peak()
    began = time.perf_counter()
    run = Finetune(loaded, data, spec, layers, report or Quiet())
    if resume is not None:
        run.restore(resume)
    run.run()
    return run.result(time.perf_counter() - began)
