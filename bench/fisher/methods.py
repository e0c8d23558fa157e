"""The yardsticks: ordinary training, its limit, one sample at a time, and the paper's own code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.fisher import engine
from bench.fisher.cases import Case, loss_of, require_gradients_of_blocks, row_gradients
from surgery.gradients.plan import Plan

LOOP_ROWS = 3  # scored one at a time; the time is scaled up to all rows
Run = Callable[[], Any]


class Gives(StrEnum):
    """What a method computes, and so what it is compared with."""

    NOTHING = "-"
    TRACE = "trace"
    """Squared gradient norms of each sample: (N, L), or a vector (N,) for each parameter."""
    DIAGONAL = "diagonal"
    """Mean squared gradient of each parameter, elementwise."""
    EXACT = "exact"
    """Σ_c p_c ‖∂ log p_c‖² of each sample and layer, (N, L)."""


@dataclass(frozen=True)
class Method:
    """A method to time. ``prepare`` is not timed and returns the call to time.

    It may copy the model and add hooks to it.
    """

    name: str
    gives: Gives
    prepare: Callable[[Case], Run]
    package: str = ""  # that must be importable
    timed_rows: int | None = None  # the time is scaled up from so many rows
    estimate: bool = False  # not meant to be exact
    documented: bool = True  # a library's own way, not one that takes knowing its inside

    @property
    def is_library(self) -> bool:
        """Whether a library provides the method."""
        return bool(self.package)

    @property
    def may_be_slow(self) -> bool:
        """Whether later rounds may leave it out, because no target depends on it."""
        return self.is_library or self.timed_rows is not None


def plain(case: Case) -> None:
    """Forward and backward with the gradient of every block parameter."""
    parameters = require_gradients_of_blocks(case)
    for batch in case.batches:
        loss_of(case.model, batch).backward()
        for parameter in parameters:
            parameter.grad = None


def limit(case: Case) -> None:
    """Forward and backward through the blocks' activations alone.

    What any method pays that needs the gradient of each activation.
    """
    case.model.requires_grad_(False)
    handle = watch_first_block(case, [])
    for batch in case.batches:
        loss_of(case.model, batch).backward()
    handle.remove()


def watch_first_block(case: Case, seen: list[Tensor]) -> Any:
    """Make the lowest block's input require gradients, and note it."""

    def before(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen.append(args[0].requires_grad_(True))
        return args

    return case.blocks[0].register_forward_pre_hook(before)


def one_by_one(case: Case) -> list[Tensor]:
    """The obvious loop: one backward pass for each sample, without padding."""
    return [
        torch.stack([gradient.square().sum() for gradient in gradients.values()])
        for gradients in row_gradients(case, case.places(LOOP_ROWS))
    ]


def authors(case: Case) -> list[float]:
    """As the paper's released code scores: Frobenius norms of each layer.

    One sample at a time, padded to the model's maximum and without a mask; the squared gradient of
    the label's raw logit, of every parameter. Each pass is counted as a sample of its own.
    """
    model = case.model.requires_grad_(True)
    fisher = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for row in case.places(LOOP_ROWS):
        single = case.single(row)
        ids = single["input_ids"]
        pad = (0, int(model.config.max_position_embeddings) - ids.shape[1])
        padded = nn.functional.pad(ids, pad, value=model.config.pad_token_id or 0)
        model.zero_grad()
        model(padded).logits[0, single["labels"][0]].backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                fisher[name] += parameter.grad * parameter.grad
    model.zero_grad()
    layers = [0.0] * len(case.blocks)
    for name, index in case.owner.items():
        layers[index] += fisher[name].norm().item()
    return layers


def _ready(function: Callable[[Case], Any]) -> Callable[[Case], Run]:
    """A method that has nothing to prepare."""
    return partial(partial, function)


def _planned(function: Callable[[Case, Plan], Any]) -> Callable[[Case], Run]:
    """A method of the engine. Its self-check is not timed: a job runs it only once."""
    return lambda case: partial(function, case, engine.plan(case))


YARDSTICKS = [
    Method("plain", Gives.NOTHING, _ready(plain)),
    Method("limit", Gives.NOTHING, _ready(limit)),
    Method("one by one", Gives.NOTHING, _ready(one_by_one), timed_rows=LOOP_ROWS),
]
OURS = [
    Method("trace", Gives.TRACE, _planned(engine.trace)),
    Method("frobenius", Gives.DIAGONAL, _planned(engine.frobenius)),
    Method("exact", Gives.EXACT, _planned(engine.exact)),
]
AUTHORS = Method("authors", Gives.NOTHING, _ready(authors), timed_rows=LOOP_ROWS)
