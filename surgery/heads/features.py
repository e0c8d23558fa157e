"""The output of the frozen encoder, computed once for each row, for training the head alone.

The encoder does not change while a head is trained. The model's own forward pass then uses the
stored output in place of the encoder, so that nothing needs to be known about pooling and head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from surgery.data.tokens.dataset import Batch, Encoded, batches_by_length, on_device
from surgery.gradients.likelihood import log_likelihood
from surgery.io.reporter import Reporter
from surgery.models.blocks import encoder_of, model_inputs, part_of
from surgery.schemas.enums import Problem

WHOLE_BATCH = 16  # rows in a batch where the encoder runs each time

Relabel = Callable[[list[Batch]], list[Batch]]


@dataclass(frozen=True)
class Features:
    """The encoder's output for a group of rows, by their numbers.

    ``output`` is None where the encoder cannot be replayed. ``pooled`` is the input of a pooler
    that is trained with the head.
    """

    rows: list[int]
    output: Any
    pooled: Tensor | None
    inputs: Batch

    def __len__(self) -> int:
        return len(self.rows)


class _StoredEncoder(nn.Module):
    """Takes the place of the encoder and returns an output that it computed earlier.

    A pooler that is trained with the head computes its part of the output anew.
    """

    def __init__(self, encoder: nn.Module, pooler: nn.Module | None) -> None:
        super().__init__()
        self.pooler = pooler
        self._activation = getattr(encoder, "pooler_activation", None) or nn.Identity()  # ALBERT's
        self.output: Any = None
        self.pooled: Tensor | None = None

    def forward(self, *_: object, **__: object) -> Any:
        if self.pooler is None or self.pooled is None:
            return self.output
        return type(self.output)(
            {**self.output, "pooler_output": self._activation(self.pooler(self.pooled))}
        )


@contextmanager
def _replaying(
    model: nn.Module, encoder: nn.Module, pooler: nn.Module | None
) -> Iterator[_StoredEncoder]:
    name = model.base_model_prefix
    assert isinstance(name, str)
    replay = _StoredEncoder(encoder, pooler)
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


@dataclass
class Replay:
    """The model with the stored output of its encoder, for as long as `HeadFeatures.replayed`.

    Losses and logits are those of the head's present weights.
    """

    model: nn.Module
    problem: Problem
    parts: list[Features]
    stored: _StoredEncoder | None

    @property
    def rows(self) -> int:
        """The number of rows of all parts."""
        return sum(map(len, self.parts))

    def logits(self, part: Features, rows: Tensor | None = None) -> Tensor:
        """The logits of a part, or of some of its rows by their places in it."""
        device = next(self.model.parameters()).device
        chosen = torch.arange(len(part)) if rows is None else rows
        batch = {name: tensor.to(device)[chosen] for name, tensor in part.inputs.items()}
        if self.stored is not None:
            of_rows = partial(_of_rows, chosen, len(part))
            self.stored.output = _each_tensor(part.output, of_rows)
            self.stored.pooled = None if part.pooled is None else of_rows(part.pooled)
        logits: Tensor = self.model(**model_inputs(self.model, batch)).logits
        return logits

    def losses(self, part: Features, rows: Tensor | None = None) -> Tensor:
        """−log p(y | x) of each row of a part, shape (N,); see `log_likelihood`."""
        logits = self.logits(part, rows)
        labels = part.inputs["labels"].to(logits.device)
        chosen = labels if rows is None else labels[rows]
        return -log_likelihood(logits, chosen, self.problem)


class HeadFeatures:
    """What the head of a model reads of each row, computed by one run of the encoder.

    The encoder runs over the rows once, in eval mode, when the features are first needed. Memory
    holds one vector for each row (or choice) if the head reads only the first token, else the
    states of all tokens. ``parameters`` are those that are trained; nothing else changes. A new
    pooler inside the encoder may be one of them. If other parts of the encoder are, or if its
    output cannot be replayed, the encoder runs in every pass.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Sequence[nn.Parameter],
        encoded: Encoded,
        problem: Problem,
        report: Reporter,
    ) -> None:
        self.model, self.parameters = model, list(parameters)
        self.encoded, self.problem, self.report = encoded, problem, report
        self._parts: list[Features] | None = None
        self._first_only = False
        self._encoder = encoder_of(model)
        trained = {id(parameter) for parameter in parameters}
        inside = {id(p) for p in self._encoder.parameters()} & trained
        self._pooler = part_of(model, "pooler") if inside else None
        pooled = set() if self._pooler is None else {id(p) for p in self._pooler.parameters()}
        self._replays = inside <= pooled and self._encoder is not model

    def __len__(self) -> int:
        return len(self.encoded)

    @property
    def rows(self) -> list[list[int]]:
        """The rows of each batch that ``relabel`` is given, by their numbers in ``encoded``."""
        return [part.rows for part in self._all_parts()]

    @contextmanager
    def replayed(self, relabel: Relabel | None = None) -> Iterator[Replay]:
        """The model in eval mode, with stored features in place of its encoder.

        ``relabel`` replaces the labels for this replay alone.
        """
        self.model.eval()
        parts = self._all_parts()
        self.model.requires_grad_(False)
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        if relabel is not None:
            others = relabel([part.inputs for part in parts])
            parts = [replace(part, inputs=new) for part, new in zip(parts, others, strict=True)]
        if not self._replays:
            yield Replay(self.model, self.problem, parts, None)
            return
        with _replaying(self.model, self._encoder, self._pooler) as stored:
            yield Replay(self.model, self.problem, parts, stored)

    def _all_parts(self) -> list[Features]:
        if self._parts is None and self._replays:
            self._parts = self._computed()
        if self._parts is None:
            self._replays = False
            self._parts = [
                Features(rows, None, None, self.encoded.batch(rows))
                for rows in batches_by_length(self.encoded.lengths, WHOLE_BATCH)
            ]
        return self._parts

    @torch.no_grad()
    def _computed(self) -> list[Features] | None:
        """The features of all rows; None if the stored output does not lead to the same logits."""
        device = next(self.model.parameters()).device
        parts: list[Features] = []
        done = 0
        for rows in batches_by_length(self.encoded.lengths, None):
            batch = on_device(self.encoded.batch(rows), device)
            logits, output, pooled = self._run(batch)
            part = Features(rows, output, pooled, batch)
            if not parts:
                if not torch.allclose(self._logits(part), logits, rtol=1e-4, atol=1e-5):
                    return None
                self._first_only = torch.equal(self._logits(_first_token(part)), logits)
            parts.append(_first_token(part) if self._first_only else part)
            done += len(rows)
            self.report.step(done, len(self), "rows")
        return parts

    def _run(self, batch: Batch) -> tuple[Tensor, Any, Tensor | None]:
        """The logits, the encoder's output in the form that the model requests, and its pooled."""
        outputs: list[Any] = []
        pooled: list[Tensor] = []
        hooks = [self._encoder.register_forward_hook(lambda *passed: outputs.append(passed[-1]))]
        if self._pooler is not None:
            hooks.append(
                self._pooler.register_forward_pre_hook(lambda _, given: pooled.append(given[0]))
            )
        try:
            logits = self.model(**model_inputs(self.model, batch)).logits
        finally:
            for hook in hooks:
                hook.remove()
        [output] = outputs
        return logits, _each_tensor(output, lambda tensor: tensor), pooled[0] if pooled else None

    def _logits(self, part: Features) -> Tensor:
        with _replaying(self.model, self._encoder, self._pooler) as stored:
            return Replay(self.model, self.problem, [part], stored).logits(part)


def _each_tensor(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The output of an encoder with each tensor changed and everything else left out."""
    return type(output)(
        {key: change(value) for key, value in output.items() if isinstance(value, Tensor)}
    )


def _first_token(part: Features) -> Features:
    def cut(value: Tensor) -> Tensor:
        return value[:, :1].clone() if value.dim() == 3 else value

    pooled = None if part.pooled is None else cut(part.pooled)
    return replace(part, output=_each_tensor(part.output, cut), pooled=pooled)


def _of_rows(rows: Tensor, count: int, tensor: Tensor) -> Tensor:
    """The given ones of ``count`` rows; the encoder saw each choice of a row as its own row."""
    return tensor.reshape(count, -1, *tensor.shape[1:])[rows].flatten(0, 1)
