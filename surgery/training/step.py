"""One optimizer step: the rows it takes, and its forward and backward passes within the memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from math import ceil
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from surgery.data.tokens.dataset import Encoded, on_device
from surgery.errors import OutOfMemory
from surgery.evaluation.evaluate import Replay, run_whole
from surgery.io.library_errors import is_out_of_memory
from surgery.models.blocks import model_inputs
from surgery.models.distributed import Share, all_reduce
from surgery.models.memory import memory_in_use
from surgery.models.numerics import Numerics
from surgery.models.trainable import lora_layers
from surgery.schemas import JobWarning
from surgery.schemas.options.training import TrainingSpec
from surgery.training.optimizer import Loss
from surgery.training.prefix_cache.store import release_memory
from surgery.training.state import TrainState, random_state, set_random_state

LENGTH_GROUP = 50  # batches whose rows are sorted by length together, as in transformers

Rows = list[int]


def epoch_batches(lengths: np.ndarray[Any, Any], training: TrainingSpec, epoch: int) -> list[Rows]:
    """Batches of rows with similar lengths, in an order that depends on seed and epoch only."""
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


def epoch_steps(
    lengths: np.ndarray[Any, Any], training: TrainingSpec, epoch: int, processes: int = 1
) -> list[list[Rows]]:
    """The batches of each optimizer step of an epoch, for all processes together."""
    batches = epoch_batches(lengths, training, epoch)
    each = training.gradient_accumulation_steps * processes
    return [batches[at : at + each] for at in range(0, len(batches), each)]


def split(batches: Sequence[Rows], size: int) -> list[Rows]:
    """The same rows in batches of at most ``size`` rows."""
    return [rows[at : at + size] for rows in batches for at in range(0, len(rows), size)]


class Stepper:
    """Updates the trained tensors of a model, one optimizer step at a time.

    ``train_state`` is what it updates. ``replay`` is the context of each forward pass, called with
    its rows. ``halvings`` counts how often batches were halved because memory ran out; the steps
    stay the same.
    """

    def __init__(
        self,
        model: nn.Module,
        encoded: Encoded,
        loss: Loss,
        training: TrainingSpec,
        *,
        numerics: Numerics,
        share: Share,
    ) -> None:
        # accelerate places the model and sums the gradients of several processes.
        self.accelerator = Accelerator()
        self.model = self.accelerator.prepare_model(model)
        self.device = self.accelerator.device
        self.halvings = 0
        self.replay: Replay = run_whole
        self.train_state: TrainState  # set before the first step
        self._encoded, self._loss = encoded, loss
        self._training, self._numerics, self._share = training, numerics, share

    def begin(self) -> None:
        """Put the model in the mode in which it trains.

        Without ``dropout`` that is the mode of evaluation, but for an adapter's own dropout. The
        encoders have no other layer that computes differently when it trains.
        """
        if self._training.dropout is not False:
            self.model.train()
            return
        self.model.eval()
        for _, layer in lora_layers(self.model):
            layer.lora_dropout.train()

    def step(self, batches: Sequence[Rows]) -> Tensor:
        """Take a step along the gradient of the mean loss over all rows; returns that loss.

        Each of several processes takes some of the batches. Raises OutOfMemory if a batch does not
        fit and cannot be halved, or the options forbid it.
        """
        labels = (self._encoded.labels_of(rows) for rows in batches)
        weight = sum(map(self._loss.weight, labels)) or 1.0  # without tagged tokens, no gradient
        began = random_state(self.device)
        while True:
            try:
                total = self._gradients(batches, weight)
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(error)
            self.train_state.optimizer.zero_grad()
            set_random_state(began, self.device)  # the same dropout, as far as batches allow
        self._update()
        if self._share.world > 1:
            total = all_reduce(total.cpu(), self._share)
        return total / weight

    def _gradients(self, batches: Sequence[Rows], weight: float) -> Tensor:
        """Sum the gradients of this process's batches; returns the sum of their losses."""
        own = split(list(self._share.own(batches)), self._training.batch_size >> self.halvings)
        # Every process takes part in every step; one that has no row adds a zero gradient.
        pieces: list[tuple[Rows, float]] = [(rows, 1.0) for rows in own] or [(batches[0][:1], 0.0)]
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for place, (rows, counted) in enumerate(pieces):
            last = place == len(pieces) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                loss = self._loss_of(rows) * counted
                # accelerate averages the gradients of processes, but a step needs their sum.
                scaled = loss * (self._share.world / weight)
                self.train_state.scaler.scale(scaled).backward()
            total += loss.detach().double()
        return total

    def _loss_of(self, rows: Rows) -> Tensor:
        batch = on_device(self._encoded.batch(rows), self.device)
        with self.replay(rows), self._numerics.autocast():
            logits = self.model(**model_inputs(self.accelerator.unwrap_model(self.model), batch))
        return self._loss.total(logits.logits, batch["labels"])

    def _update(self) -> None:
        train_state = self.train_state
        train_state.scaler.unscale_(train_state.optimizer)
        torch.nn.utils.clip_grad_norm_(train_state.trained.values(), self._training.max_grad_norm)
        before = train_state.scaler.get_scale()
        train_state.scaler.step(train_state.optimizer)
        train_state.scaler.update()
        if (
            train_state.scaler.get_scale() >= before
        ):  # else gradients overflowed and no step was taken
            train_state.schedule.step()
        train_state.optimizer.zero_grad()

    def _halve(self, error: BaseException) -> None:
        size = self._training.batch_size >> self.halvings
        allowed = self._training.out_of_memory == "halve" and self._share.world == 1
        if size == 1 or not allowed:
            raise OutOfMemory(self._advice(size)) from error
        self.halvings += 1
        release_memory()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _advice(self, size: int) -> str:
        used = memory_in_use(self.device)
        length = int(self._encoded.lengths.max())
        smaller = (
            f"try batch_size {size // 2} with gradient_accumulation_steps "
            f"{2 * self._training.gradient_accumulation_steps}, or "
            if size > 1
            else ""
        )
        return (
            f"a batch of {size} rows of up to {length} tokens does not fit into memory ({used}); "
            f"{smaller}lower max_length, train fewer layers, or use a smaller model"
        )


def halving_warnings(training: TrainingSpec, halvings: int) -> list[JobWarning]:
    """A warning if batches were halved because they did not fit into memory."""
    if not halvings:
        return []
    size = training.batch_size >> halvings
    steps = training.gradient_accumulation_steps * ceil(training.batch_size / size)
    message = (
        f"batches of {training.batch_size} rows did not fit into memory; the run went on with "
        f"batch_size {size} and gradient_accumulation_steps {steps}, which are the same steps"
    )
    return [JobWarning(code="batch_halved", message=message)]
