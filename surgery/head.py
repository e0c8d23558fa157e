"""The task head: warm it up on features computed once, with the encoder frozen.

Gradients reach the encoder through the head, so an untrained head scores random directions. The
encoder does not change while its head warms up: its output is computed once a row, and the model's
own forward then replays it, so pooling and head need not be known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from surgery.architecture import encoder_of
from surgery.data import Batch, Encoded, batches_by_length
from surgery.fisher import log_likelihood
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

    The encoder runs once a row in eval mode; memory holds one vector a row where the head reads
    only the first token, else the whole states. Nothing but ``parameters`` changes.
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
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        output = encoder(**inputs)
        if first_only is None:
            first_only = _reads_first_token_only(model, encoder, output, inputs)
        if first_only:
            output, batch = _first_token(output), _first_column(batch)
        yield Features(output, batch)
        done += len(rows)
        report.step(done, len(encoded), "rows")


def _first_token(output: Any) -> Any:
    return type(output)(
        {key: value[:, :1] if value.dim() == 3 else value for key, value in output.items()}
    )


def _first_column(batch: Batch) -> Batch:
    return {name: tensor[:, :1] if tensor.dim() == 2 else tensor for name, tensor in batch.items()}


def _reads_first_token_only(
    model: nn.Module, encoder: nn.Module, output: Any, inputs: Batch
) -> bool:
    with _replaying(model, encoder) as replay:
        replay.output = output
        whole = model(**inputs).logits
        replay.output = _first_token(output)
        first = model(**_first_column(inputs)).logits
    return whole.shape == first.shape and bool(torch.equal(whole, first))


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
    inputs = {name: tensor.to(device)[rows] for name, tensor in part.inputs.items()}
    labels = inputs.pop("labels")
    if replay is not None:
        replay.output = type(part.output)({k: v[rows] for k, v in part.output.items()})
    return log_likelihood(model(**inputs).logits, labels, problem)
