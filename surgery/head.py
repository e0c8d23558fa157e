"""The task head: warm it up on features computed once, with the encoder frozen.

Gradients reach the encoder through the head, so an untrained head scores random directions. The
encoder does not change while its head warms up: its output is computed once a row, and the model's
own forward then replays it, so pooling and head need not be known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from surgery.architecture import encoder_of, model_inputs
from surgery.data import Batch, Encoded, batches_by_length
from surgery.likelihood import log_likelihood
from surgery.progress import Reporter
from surgery.spec import Problem

WARMUP_RATE = 1e-3  # AdamW on a linear head over fixed features
WARMUP_BATCH = 16


class _Replay(nn.Module):
    """Stands where the encoder stood and returns its stored output."""

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
def _replaying(model: nn.Module, encoder: nn.Module) -> Iterator[_Replay]:
    name = model.base_model_prefix
    assert isinstance(name, str)
    replay = _Replay()
    setattr(model, name, replay)
    try:
        yield replay
    finally:
        setattr(model, name, encoder)


def warm_up(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    encoded: Encoded,
    problem: Problem,
    *,
    epochs: int,
    seed: int,
    report: Reporter,
) -> float | None:
    """Train ``parameters`` (the head's) on the encoder's cached output; the last mean loss.

    The encoder runs once a row in eval mode; memory holds one vector a row (or choice) where the
    head reads only the first token, else the whole states. Nothing but ``parameters`` changes.
    """
    model.eval()
    encoder = encoder_of(model)
    trained = {id(parameter) for parameter in parameters}
    inside = [p for p in encoder.parameters() if id(p) in trained]
    if inside or encoder is model:
        # A new pooler inside the encoder learns too: its input cannot be replayed from outside.
        source = _whole_batches(encoded)
        return _train(model, None, parameters, source, problem, epochs, seed, report)
    features = list(_features(model, encoder, encoded, report))
    with _replaying(model, encoder) as replay:
        return _train(model, replay, parameters, features, problem, epochs, seed, report)


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
        batch = {name: tensor.to(device) for name, tensor in encoded.batch(rows).items()}
        logits, output = _run(model, encoder, batch)
        if first_only is None:
            first_only = _reads_first_token_only(model, encoder, output, batch, logits)
        yield Features(_first_token(output) if first_only else output, batch)
        done += len(rows)
        report.step(done, len(encoded), "rows")


def _run(model: nn.Module, encoder: nn.Module, batch: Batch) -> tuple[Tensor, Any]:
    """The logits, and the encoder's output as the model itself asks for it."""
    outputs: list[Any] = []
    hook = encoder.register_forward_hook(lambda *passed: outputs.append(passed[-1]))
    try:
        logits = model(**model_inputs(model, batch)).logits
    finally:
        hook.remove()
    [output] = outputs
    return logits, _each_tensor(output, lambda tensor: tensor)


def _each_tensor(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """An encoder's output with every tensor changed; what is no tensor is left out."""
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


def _train(
    model: nn.Module,
    replay: _Replay | None,
    parameters: Sequence[nn.Parameter],
    features: list[Features],
    problem: Problem,
    epochs: int,
    seed: int,
    report: Reporter,
) -> float | None:
    model.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=WARMUP_RATE)
    generator = torch.Generator().manual_seed(seed)
    mean: float | None = None
    for epoch in range(epochs):
        total = torch.zeros((), dtype=torch.float64)
        count = 0
        for part, rows in _shuffled(features, generator):
            loss = -_likelihood(model, replay, part, rows, problem).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach().double().cpu() * len(rows)
            count += len(rows)
        mean = float(total) / count
        report.step(epoch + 1, epochs, "epochs")
    return mean


def _shuffled(
    features: list[Features], generator: torch.Generator
) -> Iterator[tuple[Features, Tensor]]:
    """Small batches in random order; the rows of one come from one group of equal padding."""
    pieces = [
        (part, rows)
        for part in features
        for rows in torch.randperm(len(part.inputs["labels"]), generator=generator).split(
            WARMUP_BATCH
        )
    ]
    for index in torch.randperm(len(pieces), generator=generator).tolist():
        yield pieces[index]


def _likelihood(
    model: nn.Module, replay: _Replay | None, part: Features, rows: Tensor, problem: Problem
) -> Tensor:
    device = next(model.parameters()).device
    batch = {name: tensor.to(device)[rows] for name, tensor in part.inputs.items()}
    if replay is not None:
        replay.output = _each_tensor(
            part.output, partial(_of_rows, rows, len(part.inputs["labels"]))
        )
    logits = model(**model_inputs(model, batch)).logits
    return log_likelihood(logits, batch["labels"], problem)


def _of_rows(rows: Tensor, count: int, tensor: Tensor) -> Tensor:
    """Some of ``count`` rows; the encoder has seen each choice of a row as a row of its own."""
    return tensor.reshape(count, -1, *tensor.shape[1:])[rows].flatten(0, 1)
