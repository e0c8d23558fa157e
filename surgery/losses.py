"""The training loss, as a sum over rows: batches of any size add up to the same gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from surgery.data import Encoded
from surgery.likelihood import IGNORED
from surgery.terms import Problem
from surgery.training_spec import TrainingSpec


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
            logits, labels, weights, ignore_index=IGNORED, reduction="sum",
            label_smoothing=self.smoothing,
        )  # fmt: skip

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
