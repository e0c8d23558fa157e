"""The training loss, AdamW with a learning rate for each layer, and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import get_scheduler

from surgery.data.tokens.dataset import Encoded
from surgery.data.tokens.sequences import IGNORED
from surgery.errors import Fault, TrainingInvalid
from surgery.evaluation.evaluate import Predictions
from surgery.models.blocks import Unit, block_of_parameter, groups_of
from surgery.models.loading import LoadedModel
from surgery.schemas.enums import Problem
from surgery.schemas.options.training import TrainingSpec, warmup_steps


@dataclass(frozen=True)
class Loss:
    """Cross-entropy or squared error; a step's loss is Σ ``total`` / Σ ``weight`` of its batches.

    For one batch this equals the losses of torch and transformers, with class weights and label
    smoothing; for several batches, it equals their loss on all rows at once. ``weights`` has one
    entry for each class, or is None. Several labels a row have one binary cross-entropy each, of
    which the loss is the mean; ``weights`` then multiply the rows that have the label (torch's
    ``pos_weight``), and ε of smoothing moves a target from 0 or 1 to ε/2 or 1 − ε/2.
    """

    problem: Problem
    smoothing: float = 0.0
    weights: Tensor | None = None

    def total(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The weighted sum of the losses of a batch's rows or tagged tokens, float32 or wider."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.problem is Problem.REGRESSION:
            return F.mse_loss(logits.squeeze(-1), labels.to(logits.dtype), reduction="sum")
        if self.problem is Problem.MULTI_LABEL:
            return self._of_labels(logits, labels.to(logits.dtype))
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

    def _of_labels(self, logits: Tensor, marks: Tensor) -> Tensor:
        targets = marks * (1 - self.smoothing) + self.smoothing / 2
        weights = None if self.weights is None else self.weights.to(logits)
        return F.binary_cross_entropy_with_logits(
            logits, targets, pos_weight=weights, reduction="sum"
        )

    def weight(self, labels: Tensor) -> float:
        """What ``total`` is divided by: the sum of the weights of the labels' rows or tokens.

        With several labels a row, their number, whatever the weights.
        """
        if self.problem is Problem.MULTI_LABEL:
            return float(labels.numel())
        known = labels[labels != IGNORED] if self.problem is not Problem.REGRESSION else labels
        if self.weights is None:
            return float(known.numel())
        return float(self.weights[known].double().sum())


def mean_loss(loss: Loss, predictions: Predictions) -> float:
    """The mean loss of a model's predictions, of which each has its own row of logits."""
    # Tags are without padding there, (M, C), so that each is a row.
    tagged = loss.problem is Problem.TOKEN_CLASSIFICATION
    flat = replace(loss, problem=Problem.CLASSIFICATION) if tagged else loss
    logits, targets = torch.from_numpy(predictions.logits), torch.from_numpy(predictions.targets)
    return float(flat.total(logits, targets)) / (flat.weight(targets) or 1.0)


def constant_loss(loss: Loss, encoded: Encoded, classes: int) -> float:
    """The lowest loss on these rows of outputs that are the same for every row.

    The mean has it for a regression, and logits of the labels' frequencies for ``classes`` classes,
    with the weights and the smoothing of the loss. Multiple choice scores every choice by the same
    function, so that a constant is the same score for each.
    """
    targets = torch.tensor(encoded.targets)  # a copy: those of a cached split are read-only
    if loss.problem is Problem.REGRESSION:
        return float(targets.double().var(correction=0))
    if loss.problem is Problem.MULTIPLE_CHOICE:
        return math.log(encoded.choices)
    if loss.problem is Problem.MULTI_LABEL:
        return _constant_label_loss(loss, targets.double())
    # A loss without smoothing is linear in the counts: one row of each class tells it.
    flat, present = replace(loss, problem=Problem.CLASSIFICATION), torch.arange(classes)
    counts = targets.bincount(minlength=classes).double()
    weights = torch.ones(classes) if loss.weights is None else loss.weights
    own = weights.double() * counts
    mass = (1 - loss.smoothing) * own + loss.smoothing * weights.double() * counts.sum() / classes
    logits = mass.clamp_min(torch.finfo(torch.float64).tiny).log()
    each = [float(flat.total(logits[None], label[None])) for label in present]
    return float(counts @ torch.tensor(each, dtype=torch.float64) / own.sum())


def _constant_label_loss(loss: Loss, marks: Tensor) -> float:
    """`constant_loss` of several labels a row, from marks (N, C)."""
    targets = marks * (1 - loss.smoothing) + loss.smoothing / 2
    weights = 1.0 if loss.weights is None else loss.weights.double()
    has, lacks = weights * targets.sum(0), (1 - targets).sum(0)
    tiny = torch.finfo(torch.float64).tiny
    logits = has.clamp_min(tiny).log() - lacks.clamp_min(tiny).log()
    return float(loss.total(logits.expand_as(marks), marks)) / loss.weight(marks)


def loss_for(training: TrainingSpec, problem: Problem, classes: int, encoded: Encoded) -> Loss:
    """The loss that a request asks for; balanced class weights come from the training rows."""
    weights = training.class_weights
    if weights == "balanced" and problem is Problem.MULTI_LABEL:
        weights = balanced_presence(encoded.targets)
    elif weights == "balanced":
        weights = balanced_weights(encoded.targets, classes)
    tensor = None if weights is None else torch.tensor(weights, dtype=torch.float32)
    return Loss(problem, training.label_smoothing, tensor)


def balanced_weights(targets: np.ndarray[Any, Any], classes: int) -> list[float]:
    """The weight n / (C · n_c) of each class, as in scikit-learn; 1 for a class without rows."""
    counts = np.bincount(targets, minlength=classes)
    weights = np.where(counts > 0, len(targets) / (classes * np.maximum(counts, 1)), 1.0)
    return [float(weight) for weight in weights]


def balanced_presence(marks: np.ndarray[Any, Any]) -> list[float]:
    """Rows without each label over rows with it, of marks (N, C); 1 for a label of no or all rows.

    So both weigh alike in the label's loss, in the ratio that scikit-learn's balanced weights of
    the two classes "without" and "with" have.
    """
    present = marks.sum(axis=0, dtype=np.int64)
    absent = len(marks) - present
    known = (present > 0) & (absent > 0)
    return [float(a / p) if k else 1.0 for a, p, k in zip(absent, present, known, strict=True)]


def rate_factors(
    loaded: LoadedModel,
    trained: Mapping[str, nn.Parameter],
    units: Sequence[Unit],
    training: TrainingSpec,
    scores: Mapping[str, float] | None,
) -> dict[str, float]:
    """Trained tensor → the factor of its learning rate.

    With ``layer_learning_rate_decay`` δ, the factor of block l of L is δ^(L−1−l), and that of the
    embeddings δ^L (Howard and Ruder, ACL 2018; Clark et al., ICLR 2020). With
    ``layer_learning_rates`` fisher, it is the score of the tensor's unit over the highest score of
    a trained unit (as Lee et al., ICLR 2023, do with relative gradient norms). ``units`` are those
    that train, and ``scores`` has their scores by name. Raises TrainingInvalid if no trained unit
    has a score above zero.
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
    above = {name: top - 1 - block for name, block in owner.items()} | dict.fromkeys(below, top)
    return {name: decay ** above.get(name, 0) for name in trained}


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
            "no trained layer has a score above zero, so layer_learning_rates cannot be computed",
            [Fault("leave it out", pointer="/training/layer_learning_rates")],
        )
    return {name: max(0.0, own.get(name, highest)) / highest for name in trained}


def make_optimizer(
    trained: Mapping[str, nn.Parameter], training: TrainingSpec, factors: Mapping[str, float]
) -> torch.optim.AdamW:
    """AdamW without weight decay for biases and norms; one group for each rate and decay."""

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
    """The learning rate over the run's optimizer steps: a warmup, then the chosen schedule."""
    schedule = get_scheduler(
        "constant_with_warmup" if training.schedule == "constant" else training.schedule,
        optimizer,
        num_warmup_steps=warmup_steps(training, steps),
        num_training_steps=steps,
    )
    assert isinstance(schedule, torch.optim.lr_scheduler.LambdaLR)
    return schedule
