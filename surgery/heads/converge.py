"""Fit a head until it has converged, on stored features, with a ridge by cross-validation.

What is fitted is the layer that gives the logits. Hidden layers of a head (a new pooler, RoBERTa's
dense layer) stay as they are: random ones pass on nearly all that they read, while a few hundred
rows fitted through them as well are learnt by heart, which leaves no residuals to score. So every
fit is convex, and its one solution depends on nothing but the rows and the hidden layers.

The objective is the mean over rows of −log p(y | x) plus (λ/2) ‖W‖², with W the weight of that
layer; its bias is not penalised. λ is one of `RIDGES` times Σ x² / N, where x are the centred
inputs of the layer, summed over the inputs of N rows, and the mean is over features, so that it
does not depend on their unit. `surgery.heads.linear` has the computation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from surgery.data.tokens.dataset import Encoded
from surgery.heads.features import HeadFeatures, Relabel
from surgery.heads.layers import last_layer, task_of
from surgery.heads.linear import LinearTask, solve
from surgery.io.reporter import Quiet, Reporter
from surgery.models.distributed import Share, broadcast_weights, present_share
from surgery.models.loading import LoadedModel
from surgery.schemas.enums import Problem


@dataclass(frozen=True)
class HeadFit:
    """How a head was fitted.

    ``loss`` is the mean of −log p(y | x) over ``rows`` rows, without the ridge, and
    ``baseline_loss`` that of the best constant prediction. The gradient's norms are those of the
    objective with the ridge, before and after. ``unique``: the head is that one layer, so that any
    other head would have ended as the same.
    """

    kind: Literal["closed_form", "lbfgs"]
    rows: int
    loss: float
    baseline_loss: float
    gradient_start: float
    gradient_end: float
    iterations: int
    ridge: float
    unique: bool


def fit_head(
    loaded: LoadedModel,
    encoded: Encoded,
    problem: Problem,
    *,
    seed: int,
    report: Reporter | None = None,
    share: Share | None = None,
) -> HeadFit:
    """Fit the head of a loaded model to some training rows until it has converged, in place.

    The encoder runs over the rows once. ``seed`` draws the folds of the cross-validation. In a
    group of processes all do the same and then take the first one's head; ``share`` is the group,
    the present one by default. Raises ModelUnsupported if the head does not end in a linear layer,
    and Stopped if the reporter asks for it.
    """
    parameters = list(loaded.head.values())
    features = HeadFeatures(loaded.model, parameters, encoded, problem, report or Quiet())
    fit = converge(features, seed=seed)
    broadcast_weights(loaded.model, share or present_share())
    return fit


def converge(
    features: HeadFeatures,
    *,
    seed: int,
    ridge: float | None = None,
    relabel: Relabel | None = None,
) -> HeadFit:
    """Fit the present head to the rows of ``features``, in place.

    ``seed`` draws the folds by which the ridge is chosen, unless ``ridge`` is given. ``relabel``
    replaces the labels of the rows for this fit alone.
    """
    with features.replayed(relabel) as replay:
        layer = last_layer(replay, features.parameters)
        task = task_of(replay, layer)
    bias = None if layer.bias is None else layer.bias.detach().double()
    solution = solve(task, (layer.weight.detach().double(), bias), ridge, seed)
    with torch.no_grad():
        layer.weight.copy_(solution.layer[0])
        if solution.layer[1] is not None:
            layer.bias.copy_(solution.layer[1])
    own = sum(parameter.numel() for parameter in layer.parameters())
    return HeadFit(
        kind="closed_form" if task.problem is Problem.REGRESSION else "lbfgs",
        rows=task.rows,
        loss=float(task.losses(task.logits(solution.layer)).mean()),
        baseline_loss=baseline_loss(task),
        gradient_start=solution.gradients[0],
        gradient_end=solution.gradients[1],
        iterations=solution.iterations,
        ridge=solution.ridge,
        unique=own == sum(parameter.numel() for parameter in features.parameters),
    )


def baseline_loss(task: LinearTask) -> float:
    """The mean loss of the best prediction that is the same for every row.

    Half the variance of the labels for a regression, the entropy of the labels' frequencies for
    classes (of a row's tokens together, for tags), the sum of the entropies of having each label
    or not, and that of equal choices for multiple choice.
    """
    if task.problem is Problem.REGRESSION:
        return float(0.5 * task.labels.var(correction=0))
    if task.problem is Problem.MULTIPLE_CHOICE:
        return math.log(len(task.inputs) / task.rows)
    if task.problem is Problem.MULTI_LABEL:
        present = task.labels.mean(0)
        return float(torch.special.entr(torch.stack([present, 1 - present])).sum())
    counts = task.labels.bincount().double()
    shares = counts[counts > 0] / counts.sum()
    return -float((shares * shares.log()).sum() * counts.sum()) / task.rows
