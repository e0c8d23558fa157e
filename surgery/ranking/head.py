"""Warm up the task head on features that are computed once, with the encoder frozen.

Gradients reach the encoder through the head, so with an untrained head scores are of random
directions. The encoder does not change while the head is warmed up. Its output is therefore
computed once for each row, and the model's own forward pass then uses this output in place of the
encoder, so that nothing needs to be known about pooling and head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from surgery.data.tokens.dataset import Batch, Encoded, batches_by_length, on_device
from surgery.gradients.likelihood import log_likelihood
from surgery.io.reporter import Reporter
from surgery.models.blocks import encoder_of, model_inputs
from surgery.schemas.enums import Problem

WARMUP_RATE = 1e-3  # suits AdamW on a linear head over fixed features
WARMUP_BATCH = 16


class _StoredEncoder(nn.Module):
    """Takes the place of the encoder and returns an output that it computed earlier."""

    def __init__(self) -> None:
        super().__init__()
        self.output: Any = None

    def forward(self, *_: object, **__: object) -> Any:
        return self.output


@dataclass(frozen=True)
class Features:
    """The encoder's output for a group of rows of equal padding."""

    output: Any
    inputs: Batch


@contextmanager
def _replaying(model: nn.Module, encoder: nn.Module) -> Iterator[_StoredEncoder]:
    name = model.base_model_prefix
    assert isinstance(name, str)
    replay = _StoredEncoder()
    setattr(model, name, replay)
    try:
        yield replay
    finally:
        setattr(model, name, encoder)


@contextmanager
def preserved_head(head: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Restore the weights of the head at the end of the block."""
    weights = {name: parameter.detach().clone() for name, parameter in head.items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in head.items():
                parameter.copy_(weights[name])


class Warmup:
    """Warms up the heads of a model, one after the other, on the same rows.

    The encoder runs over the rows once, in eval mode. Memory holds one vector for each row (or
    choice) if the head reads only the first token, else the states of all tokens. ``parameters``
    are those of the head; nothing else changes.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Sequence[nn.Parameter],
        encoded: Encoded,
        problem: Problem,
        report: Reporter,
    ) -> None:
        self._model, self._parameters = model, list(parameters)
        self._encoded, self._problem, self._report = encoded, problem, report
        self._features: list[Features] | None = None
        self._encoder = encoder_of(model)
        trained = {id(parameter) for parameter in parameters}
        # A new pooler inside the encoder is trained too, and its input cannot be replayed.
        inside = any(id(parameter) in trained for parameter in self._encoder.parameters())
        self._replays = not inside and self._encoder is not model

    def __len__(self) -> int:
        return len(self._encoded)

    def run(
        self,
        *,
        epochs: int,
        seed: int,
        relabel: Callable[[list[Batch]], list[Batch]] | None = None,
    ) -> float | None:
        """Train the present head, and return the mean loss of the last epoch.

        ``relabel`` replaces the labels of the rows for this run alone.
        """
        self._model.eval()
        features = self._all_features()
        if relabel is not None:
            others = relabel([part.inputs for part in features])
            features = [
                Features(part.output, inputs) for part, inputs in zip(features, others, strict=True)
            ]
        if not self._replays:
            return self._train(None, features, epochs, seed)
        with _replaying(self._model, self._encoder) as replay:
            return self._train(replay, features, epochs, seed)

    def _all_features(self) -> list[Features]:
        if self._features is None:
            self._features = (
                list(_features(self._model, self._encoder, self._encoded, self._report))
                if self._replays
                else _whole_batches(self._encoded)
            )
        return self._features

    def _train(
        self, replay: _StoredEncoder | None, features: list[Features], epochs: int, seed: int
    ) -> float | None:
        self._model.requires_grad_(False)
        for parameter in self._parameters:
            parameter.requires_grad_(True)
        optimizer = torch.optim.AdamW(self._parameters, lr=WARMUP_RATE)
        generator = torch.Generator().manual_seed(seed)
        mean: float | None = None
        for epoch in range(epochs):
            total = torch.zeros((), dtype=torch.float64)
            count = 0
            for part, rows in _shuffled(features, generator):
                loss = -self._likelihood(replay, part, rows).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.detach().double().cpu() * len(rows)
                count += len(rows)
            mean = float(total) / count
            self._report.step(epoch + 1, epochs, "epochs")
        optimizer.zero_grad()  # else a later fine-tune would add its first gradient to these
        return mean

    def _likelihood(self, replay: _StoredEncoder | None, part: Features, rows: Tensor) -> Tensor:
        device = next(self._model.parameters()).device
        batch = {name: tensor.to(device)[rows] for name, tensor in part.inputs.items()}
        if replay is not None:
            of_rows = partial(_of_rows, rows, len(part.inputs["labels"]))
            replay.output = _each_tensor(part.output, of_rows)
        logits = self._model(**model_inputs(self._model, batch)).logits
        return log_likelihood(logits, batch["labels"], self._problem)


def _whole_batches(encoded: Encoded) -> list[Features]:
    return [
        Features(None, encoded.batch(rows))
        for rows in batches_by_length(encoded.lengths, WARMUP_BATCH)
    ]


@torch.no_grad()
def _features(
    model: nn.Module, encoder: nn.Module, encoded: Encoded, report: Reporter
) -> Iterator[Features]:
    device = next(model.parameters()).device
    first_only: bool | None = None
    done = 0
    for rows in batches_by_length(encoded.lengths, None):
        batch = on_device(encoded.batch(rows), device)
        logits, output = _run(model, encoder, batch)
        if first_only is None:
            first_only = _reads_first_token_only(model, encoder, output, batch, logits)
        yield Features(_first_token(output) if first_only else output, batch)
        done += len(rows)
        report.step(done, len(encoded), "rows")


def _run(model: nn.Module, encoder: nn.Module, batch: Batch) -> tuple[Tensor, Any]:
    """The logits, and the encoder's output in the form in which the model requests it."""
    outputs: list[Any] = []
    hook = encoder.register_forward_hook(lambda *passed: outputs.append(passed[-1]))
    try:
        logits = model(**model_inputs(model, batch)).logits
    finally:
        hook.remove()
    [output] = outputs
    return logits, _each_tensor(output, lambda tensor: tensor)


def _each_tensor(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The output of an encoder with each tensor changed and everything else left out."""
    return type(output)(
        {key: change(value) for key, value in output.items() if isinstance(value, Tensor)}
    )


def _first_token(output: Any) -> Any:
    return _each_tensor(output, lambda value: value[:, :1].clone() if value.dim() == 3 else value)


def _reads_first_token_only(
    model: nn.Module, encoder: nn.Module, output: Any, batch: Batch, logits: Tensor
) -> bool:
    with _replaying(model, encoder) as replay:
        replay.output = _first_token(output)
        first = model(**model_inputs(model, batch)).logits
    return logits.shape == first.shape and bool(torch.equal(logits, first))


def _shuffled(
    features: list[Features], generator: torch.Generator
) -> Iterator[tuple[Features, Tensor]]:
    """Small batches in random order, each with rows of a single group of equal padding."""
    pieces = [
        (part, rows)
        for part in features
        for rows in torch.randperm(len(part.inputs["labels"]), generator=generator).split(
            WARMUP_BATCH
        )
    ]
    for index in torch.randperm(len(pieces), generator=generator).tolist():
        yield pieces[index]


def _of_rows(rows: Tensor, count: int, tensor: Tensor) -> Tensor:
    """The given ones of ``count`` rows; the encoder saw each choice of a row as its own row."""
    return tensor.reshape(count, -1, *tensor.shape[1:])[rows].flatten(0, 1)
