"""Fit a head that is one linear layer: a convex problem, with one solution for each ridge.

With x the input of the layer, W its weight and b its bias, it minimises

    (1/N) Σ_i −log p(y_i | W x_i + b) + (λ/2) ‖W‖²

over N rows. The bias is not penalised. A regression has a closed form; everything else is solved by
L-BFGS in coordinates in which the curvature is at most one in every direction, from the bound
H ≤ ½ Σ x xᵀ / N (Böhning, "Multinomial logistic regression algorithm", Annals of the Institute of
Statistical Mathematics 1992), so that a few iterations suffice. All of it is in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.heads.minimise import gradient_norm, minimise
from surgery.schemas.enums import Problem

CURVATURE = 0.5  # the largest curvature of a softmax in its logits; of a sigmoid it is half that
RIDGES = tuple(10.0 ** (exponent / 2) for exponent in range(3, -9, -1))  # strongest first
FOLDS = 5
LOOSE, TIGHT = 1e-2, 1e-6  # gradient beside its start: while the ridge is chosen, and in the end
MOST = 500  # iterations; tens are usual

Layer = tuple[Tensor, Tensor | None]  # weight (C, d) and bias (C,)


@dataclass(frozen=True)
class LinearTask:
    """The inputs of the layer and the labels of N rows.

    ``inputs`` (R, d) in float64: one a row; one a choice, those of a row together; or one a
    labelled token. ``labels`` are (N,), (R,) for tokens, or (N, C) in float64 where a row may have
    several; ``owner`` (R,) is each input's row.
    """

    inputs: Tensor
    labels: Tensor
    owner: Tensor
    rows: int
    problem: Problem

    def logits(self, layer: Layer) -> Tensor:
        """The output of a layer, (R, C)."""
        return F.linear(self.inputs, *layer)

    def losses(self, logits: Tensor) -> Tensor:
        """−log p(y | x) of each row, (N,), at the logits (R, C)."""
        if self.problem is Problem.REGRESSION:
            return 0.5 * (logits[:, 0] - self.labels).square()
        if self.problem is Problem.MULTIPLE_CHOICE:
            return F.cross_entropy(logits.view(self.rows, -1), self.labels, reduction="none")
        if self.problem is Problem.MULTI_LABEL:
            losses = F.binary_cross_entropy_with_logits(logits, self.labels, reduction="none")
            return losses.sum(1)
        losses = F.cross_entropy(logits, self.labels, reduction="none")
        if self.problem is Problem.TOKEN_CLASSIFICATION:
            return losses.new_zeros(self.rows).index_add(0, self.owner, losses)
        return losses


@dataclass(frozen=True)
class Solution:
    """The layer that minimises the objective at a ridge, and the way to it.

    ``gradients`` are the norms of the objective's gradient before and after.
    """

    layer: Layer
    ridge: float
    gradients: tuple[float, float]
    iterations: int


@dataclass(frozen=True)
class _Turned:
    """The task with its inputs centred, if there is a bias, and turned to their principal axes.

    A weight turned in the same way has the same norm. ``spread`` (d,) is Σ x² / N along each axis.
    """

    task: LinearTask
    axes: Tensor
    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, task: LinearTask, *, centred: bool) -> _Turned:
        mean = task.inputs.mean(0) if centred else torch.zeros_like(task.inputs[0])
        inputs = task.inputs - mean
        spread, axes = torch.linalg.eigh(inputs.T @ inputs / task.rows)
        return cls(replace(task, inputs=inputs @ axes), axes, mean, spread.clamp_min(0))

    def turn(self, layer: Layer) -> Layer:
        weight, bias = layer
        return weight @ self.axes, None if bias is None else bias + weight @ self.mean

    def back(self, layer: Layer) -> Layer:
        weight = layer[0] @ self.axes.T
        return weight, None if layer[1] is None else layer[1] - weight @ self.mean


def ridge_scale(inputs: Tensor, rows: int) -> float:
    """What ridges are relative to: Σ x² / N of centred inputs (R, d), the mean over features."""
    return float((inputs - inputs.mean(0)).square().sum() / (rows * inputs.shape[1])) or 1.0


def solve(task: LinearTask, layer: Layer, ridge: float | None, seed: int) -> Solution:
    """The layer that minimises the objective, found from a layer to begin with.

    ``ridge`` None: the one of `RIDGES`, times `ridge_scale`, with the smallest loss in
    cross-validation: for a regression each row is left out in turn, exactly (Allen, "The
    relationship between variable selection and data augmentation", Technometrics 1974); otherwise
    five folds drawn by ``seed`` are, from the strongest ridge down until the loss rises.
    """
    regression = task.problem is Problem.REGRESSION
    turned = _Turned.of(task, centred=layer[1] is not None)
    begun = turned.turn(layer)
    if ridge is None:
        scale = ridge_scale(task.inputs, task.rows)
        ridges = [each * scale for each in RIDGES]
        errors = (
            _left_out(turned, begun, ridges)
            if regression
            else _held_out(turned, begun, ridges, seed)
        )
        ridge = min(errors, key=errors.__getitem__)
    if regression:
        found, iterations = _closed_form(turned, ridge, centred=layer[1] is not None), 0
    else:
        found, iterations = _descend(turned, begun, ridge, task.inputs.new_ones(task.rows), TIGHT)
    ended = turned.back(found)
    gradients = (_gradient_norm(task, layer, ridge), _gradient_norm(task, ended, ridge))
    return Solution(ended, ridge, gradients, iterations)


def _gradient_norm(task: LinearTask, layer: Layer, ridge: float) -> float:
    """The norm of the objective's gradient in weight and bias."""
    given = [each.detach().clone().requires_grad_(True) for each in layer if each is not None]
    objective = task.losses(F.linear(task.inputs, *given)).mean()
    objective = objective + 0.5 * ridge * given[0].square().sum()
    found = torch.autograd.grad(objective, given)
    return float(torch.cat([each.flatten() for each in found]).norm())


def _closed_form(turned: _Turned, ridge: float, *, centred: bool) -> Layer:
    task = turned.task
    middle = task.labels.mean() if centred else torch.zeros_like(task.labels[0])
    weight = task.inputs.T @ (task.labels - middle) / task.rows / (turned.spread + ridge)
    return weight.unsqueeze(0), middle.unsqueeze(0) if centred else None


def _descend(
    turned: _Turned, begun: Layer, ridge: float, rows: Tensor, relative: float
) -> tuple[Layer, int]:
    """The layer that minimises the objective over rows of weights (N,), and the iterations."""
    task = turned.task
    scale = (CURVATURE * turned.spread + ridge).rsqrt()
    weight = nn.Parameter(begun[0] / scale)
    bias = None if begun[1] is None else nn.Parameter(begun[1].clone())
    parameters = [weight] if bias is None else [weight, bias]

    def objective() -> Tensor:
        scaled = weight * scale
        losses = task.losses(F.linear(task.inputs, scaled, bias))
        value = (losses * rows).sum() / rows.sum() + 0.5 * ridge * scaled.square().sum()
        for parameter in parameters:
            parameter.grad = None
        value.backward()
        return value.detach()

    objective()
    until = relative * gradient_norm(parameters)
    iterations = minimise(objective, parameters, until=until, most=MOST)
    found = (weight * scale).detach()
    return (found, None if bias is None else bias.detach()), iterations


def _left_out(turned: _Turned, begun: Layer, ridges: Sequence[float]) -> dict[float, float]:
    """By ridge: the mean squared error when each row in turn is left out."""
    task, centred = turned.task, begun[1] is not None
    errors = {}
    for ridge in ridges:
        weight, bias = _closed_form(turned, ridge, centred=centred)
        residuals = task.labels - task.logits((weight, bias))[:, 0]
        leverage = (task.inputs.square() / (turned.spread + ridge)).sum(1) + float(centred)
        kept = (1 - leverage / task.rows).clamp_min(1e-9)  # zero for a row that is its own fit
        errors[ridge] = float((residuals / kept).square().mean())
    return errors


def _held_out(
    turned: _Turned, begun: Layer, ridges: Sequence[float], seed: int
) -> dict[float, float]:
    """By ridge: the loss on the rows of each fold, of a layer that was fitted on the others."""
    task = turned.task
    masks = fold_masks(task.rows, FOLDS, seed, task.inputs)
    layers = [begun] * len(masks)
    losses: dict[float, float] = {}
    for ridge in ridges:
        losses[ridge] = 0.0
        for fold, mask in enumerate(masks):
            layers[fold], _ = _descend(turned, layers[fold], ridge, 1 - mask, LOOSE)
            held = task.losses(task.logits(layers[fold])) * mask
            losses[ridge] += float(held.sum())
        if losses[ridge] > min(losses.values()):
            break
    return losses


def fold_masks(rows: int, folds: int, seed: int, like: Tensor) -> list[Tensor]:
    """For each fold a vector (N,), one at the rows that it holds out; no fold for a single row."""
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed)) % folds
    count = min(folds, rows) if rows > 1 else 0
    return [(order == fold).to(like) for fold in range(count)]
