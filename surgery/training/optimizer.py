"""The training loss, AdamW with a learning rate for each layer, and the schedule of rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import get_scheduler

from surgery.data.tokens.dataset import IGNORED, Encoded
from surgery.errors import Fault, TrainingInvalid
from surgery.models.blocks import Unit, block_of_parameter, groups_of
from surgery.models.loading import LoadedModel
from surgery.schemas.enums import Problem
from surgery.schemas.training import TrainingSpec, warmup_steps


@dataclass(frozen=True)
class Loss:
    """Cross-entropy or squared error; a step's loss is Σ ``total`` / Σ ``weight`` of its batches.

    That is what torch's and transformers' own losses give for a batch, class weights and label
    smoothing included; for a step of several batches, theirs on all rows at once.
    ``weights`` has one entry a class, or is None.
    """

    problem: Problem
    smoothing: float = 0.0
    weights: Tensor | None = None

    def total(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The weighted sum of the losses of a batch's rows (or tagged tokens), float32 or wider."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.problem is Problem.REGRESSION:
            return F.mse_loss(logits.squeeze(-1), labels.to(logits.dtype), reduction="sum")
        if self.problem is Problem.TOKEN_CLASSIFICATION:
            logits = logits.mT
        weights = None if self.weights is None else self.weights.to(logits)
        return F.cross_entropy(
            logits,
            labels,
            weights,
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=self.smoothing,
        )

    def weight(self, labels: Tensor) -> float:
        """What ``total`` of these labels is divided by: rows or tokens, each at its weight."""
        known = labels[labels != IGNORED] if self.problem is not Problem.REGRESSION else labels
        if self.weights is None:
            return float(known.numel())
        return float(self.weights[known].double().sum())


def loss_for(training: TrainingSpec, problem: Problem, classes: int, encoded: Encoded) -> Loss:
    """The loss a request asks for, its class weights from the training rows where balanced."""
    asked = training.class_weights
    weights = balanced_weights(encoded.targets, classes) if asked == "balanced" else asked
    given = None if weights is None else torch.tensor(weights, dtype=torch.float32)
    return Loss(problem, training.label_smoothing, given)


def balanced_weights(targets: np.ndarray[Any, Any], classes: int) -> list[float]:
    """n / (C · n_c) of each class, as scikit-learn has it; 1 for a class that never occurs."""
    counts = np.bincount(targets, minlength=classes)
    weights = np.where(counts > 0, len(targets) / (classes * np.maximum(counts, 1)), 1.0)
    return [float(weight) for weight in weights]


def rate_factors(
    loaded: LoadedModel,
    trained: Mapping[str, nn.Parameter],
    units: Sequence[Unit],
    training: TrainingSpec,
    scores: Mapping[str, float] | None,
) -> dict[str, float]:
    """Trained tensor → its share of the learning rate.

    With ``layer_learning_rate_decay`` δ a tensor of block l of L learns at δ^(L−1−l), and the
    embeddings at δ^L (Howard and Ruder, ACL 2018; Clark et al., ICLR 2020). With
    ``layer_learning_rates`` fisher it learns at its unit's score over the highest of the trained
    ones (as Lee et al., ICLR 2023, do with relative gradient norms). ``units`` are those
    that train, ``scores`` are by their names. Raises TrainingInvalid where no trained unit has a
    score above zero.
    """
    if training.layer_learning_rates == "fisher":
        return _by_score(trained, units, scores or {})
    decay = training.layer_learning_rate_decay
    if decay is None:
        return dict.fromkeys(trained, 1.0)
    owner = block_of_parameter(loaded.model, loaded.blocks)
    top = len(loaded.blocks)
    groups = groups_of(loaded.model, loaded.blocks)
    below = {name for group in groups if group.name == "embeddings" for name in group.members}
    layers_above = {name: top - 1 - block for name, block in owner.items()} | dict.fromkeys(
        below, top
    )
    return {name: decay ** layers_above.get(name, 0) for name in trained}


def _by_score(
    trained: Mapping[str, nn.Parameter], units: Sequence[Unit], scores: Mapping[str, float]
) -> dict[str, float]:
    own = {
        member: scores[unit.name]
        for unit in units
        if unit.name in scores
        for member in unit.members
    }
    highest = max(own.values(), default=0.0)
    if highest <= 0:
        raise TrainingInvalid(
            "no trained layer has a score above zero, so layer_learning_rates has nothing to go by",
            [Fault("leave it out", pointer="/training/layer_learning_rates")],
        )
    return {name: max(0.0, own.get(name, highest)) / highest for name in trained}


def make_optimizer(
    trained: Mapping[str, nn.Parameter], training: TrainingSpec, factors: Mapping[str, float]
) -> torch.optim.AdamW:
    """AdamW; biases and norms are not decayed. Tensors of one rate and decay are one group."""

    def kind(name: str) -> tuple[float, bool]:
        return factors[name], trained[name].dim() > 1

    groups = [
        {
            "params": [trained[name] for name in names],
            "lr": training.learning_rate * factor,
            "weight_decay": training.weight_decay if decayed else 0.0,
        }
        for (factor, decayed), names in groupby(sorted(trained, key=kind, reverse=True), kind)
    ]
    return torch.optim.AdamW(groups, lr=training.learning_rate, fused=True)


def make_schedule(
    optimizer: torch.optim.Optimizer, training: TrainingSpec, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """The rate over the run's optimizer steps: a rise, then the asked decay."""
    schedule = get_scheduler(
        "constant_with_warmup" if training.schedule == "constant" else training.schedule,
        optimizer,
        num_warmup_steps=warmup_steps(training, steps),
        num_training_steps=steps,
    )
    assert isinstance(schedule, torch.optim.lr_scheduler.LambdaLR)
    return schedule
