"""Fine-tuning the slow, obvious way: one row at a time, torch's plain AdamW, rates by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.data.tokens.dataset import Encoded
from surgery.models.blocks import model_inputs
from surgery.schemas.options.training import TrainingSpec
from surgery.training.step import epoch_steps


def rate_at(step: int, steps: int, warmup: int, schedule: str) -> float:
    """The share of the learning rate at a step counted from 0."""
    if step < warmup:
        return step / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[
        schedule
    ]


def train(
    model: nn.Module,
    trained: Mapping[str, nn.Parameter],
    encoded: Encoded,
    training: TrainingSpec,
    *,
    warmup: int,
    factors: Mapping[str, float],
    weights: Tensor | None = None,
    active: Callable[[int], Collection[str]] | None = None,
    renewed: Callable[[int], Collection[str]] = lambda _: (),
) -> list[float]:
    """Train in place; the loss of each step. For classification, without dropout.

    ``active`` names the tensors that train in a step, and ``renewed`` those for which AdamW begins
    anew before it.
    """
    plan = [
        [row for batch in step for row in batch]
        for epoch in range(training.epochs)
        for step in epoch_steps(encoded.lengths, training, epoch)
    ]
    rates = {name: training.learning_rate * factors[name] for name in trained}
    optimizers = {name: _adamw(p, training) for name, p in trained.items()}
    losses = []
    for number, rows in enumerate(plan):
        share = rate_at(number, len(plan), warmup, training.schedule)
        optimizers |= {name: _adamw(trained[name], training) for name in renewed(number)}
        names = list(trained) if active is None else [n for n in trained if n in active(number)]
        model.zero_grad()
        loss = step_loss(model, encoded, rows, training.label_smoothing, weights)
        loss.backward()
        _clip([trained[name] for name in names], training.max_grad_norm)
        for name in names:
            optimizers[name].param_groups[0]["lr"] = rates[name] * share
            optimizers[name].step()
        losses.append(float(loss.detach()))
    return losses


def _adamw(parameter: nn.Parameter, training: TrainingSpec) -> torch.optim.AdamW:
    decay = training.weight_decay if parameter.dim() > 1 else 0.0
    return torch.optim.AdamW([parameter], weight_decay=decay, foreach=False, fused=False)


def step_loss(
    model: nn.Module, encoded: Encoded, rows: list[int], smoothing: float, weights: Tensor | None
) -> Tensor:
    """−Σ w_y Σ_c q_c log p_c / Σ w_y, q the smoothed target, each class's term at its weight."""
    total: Tensor | float = 0.0
    weight = 0.0
    for row in rows:
        batch = encoded.batch([row])
        logs = F.log_softmax(model(**model_inputs(model, batch)).logits[0], -1)
        label, classes = int(batch["labels"][0]), len(logs)
        own = torch.ones(classes, dtype=logs.dtype) if weights is None else weights.to(logs.dtype)
        total = total - (1 - smoothing) * own[label] * logs[label]
        total = total - smoothing / classes * (own * logs).sum()
        weight += float(own[label])
    return torch.as_tensor(total) / weight


def _clip(parameters: list[nn.Parameter], largest: float) -> None:
    norm = math.sqrt(sum(float((p.grad**2).sum()) for p in parameters if p.grad is not None))
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad *= min(1.0, largest / (norm + 1e-6))
