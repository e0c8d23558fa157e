"""Forward and backward passes of one batch: by the batched formulas, or one sample at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from surgery.data.tokens.dataset import Batch, has_tags
from surgery.gradients.accumulators import Accumulator
from surgery.gradients.hooks import GradientHooks
from surgery.gradients.likelihood import directions, draw_noise
from surgery.models.blocks import model_inputs
from surgery.schemas.enums import Fisher, Problem


@dataclass(frozen=True)
class Objective:
    """The function whose gradients are squared: the problem's log-likelihood, at certain labels.

    ``scale`` multiplies every gradient, so that small ones do not underflow in half precision;
    scores are divided by its square.
    """

    problem: Problem
    fisher: Fisher = Fisher.EMPIRICAL
    draws: int = 1
    seed: int = 0
    scale: float = 1.0

    @property
    def grams(self) -> bool:
        """Whether Gram matrices are precise enough, which they are not for multiple choice."""
        return self.problem is not Problem.MULTIPLE_CHOICE

    def directions(self, logits: Tensor, batch: Batch, samples: Sequence[int]) -> Iterator[Tensor]:
        """The gradients of the outputs, one tensor for each backward pass."""
        labels = batch["labels"]
        noise = None
        if self.fisher is Fisher.SAMPLED:
            tokens = labels.shape[1] if labels.dim() == 2 else 1
            noise = draw_noise(list(samples), self.draws, self.seed, self.problem, tokens)
        for direction in directions(logits, labels, self.problem, self.fisher, noise):
            yield direction * self.scale


def score_batch(
    model: nn.Module,
    accumulator: Accumulator,
    batch: Batch,
    samples: Sequence[int],
    objective: Objective,
    once: Collection[str] = (),
) -> set[str]:
    """Add every row of a batch to an accumulator by the batched formulas. Freezes the model.

    ``once``: see ``GradientHooks``. Returns the names of the weights that this batch used once.
    """
    model.requires_grad_(False)
    texts = batch["input_ids"].shape[1] if batch["input_ids"].dim() == 3 else 1
    with GradientHooks(model, accumulator, len(samples), texts, once) as hooks:
        logits = model(**model_inputs(model, batch)).logits
        hooks.expect_all_used()
        seen_once = hooks.used_once()
        waiting: Tensor | None = None
        for direction in objective.directions(logits, batch, samples):
            if waiting is not None:
                hooks.backward(logits, waiting, last=False)
            waiting = direction
        if waiting is not None:
            hooks.backward(logits, waiting, last=True)
    return seen_once


def score_one_by_one(
    model: nn.Module,
    accumulator: Accumulator,
    batch: Batch,
    samples: Sequence[int],
    objective: Objective,
) -> None:
    """The same by one forward pass for each sample. Freezes all parameters but the scored ones."""
    model.requires_grad_(False)
    scored = [parameter.requires_grad_(True) for parameter in accumulator.scored.values()]
    for row, sample in enumerate(samples):
        single = without_padding(batch, row)
        logits = model(**model_inputs(model, single)).logits
        for direction in objective.directions(logits, single, [sample]):
            gradients = torch.autograd.grad(
                logits, scored, direction, retain_graph=True, allow_unused=True
            )
            # A parameter that this input does not use has no gradient.
            found = zip(accumulator.scored, gradients, strict=True)
            for name, gradient in ((n, g) for n, g in found if g is not None):
                accumulator.add_gradient(name, row, gradient)


def without_padding(batch: Batch, row: int) -> Batch:
    """One row of a batch, without its padding on either side."""
    mask = batch["attention_mask"][row]
    used = mask.reshape(-1, mask.shape[-1]).any(0).nonzero().flatten()
    start, end = int(used[0]), int(used[-1]) + 1
    width, tagged = mask.shape[-1], has_tags(batch)
    return {
        name: tensor[row : row + 1, ..., start:end]
        if tensor.dim() > 1 and tensor.shape[-1] == width and (name != "labels" or tagged)
        else tensor[row : row + 1]
        for name, tensor in batch.items()
    }


@contextmanager
def scoring_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode; every module's mode and every ``requires_grad`` are restored at the end."""
    modes = [(module, module.training) for module in model.modules()]
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in trainable:
            parameter.requires_grad_(requires_grad)
