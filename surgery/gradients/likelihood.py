"""The log-likelihood of each problem, and the output directions whose gradients are squared.

With J_i the Jacobian of sample i's outputs z_i with respect to the parameters, every squared
gradient here is Σ_v (J_iᵀ v)² over a few directions v of the outputs:

- empirical: v = ∂ log p(y_i | x_i) / ∂z, one direction;
- sampled: the same at labels drawn from the model, each divided by the root of their number;
- exact: Σ_v v vᵀ = diag(p) − p pᵀ, the covariance of a draw. Its rank is C − 1, so C − 1 directions
  suffice (for two classes the one is √(p_0 p_1) (e_1 − e_0)); a regression has one, v = 1.

With several labels a row, each output z_c is one Bernoulli variable with p_c = σ(z_c), independent
of the others given the text, and log p(y | x) = Σ_c y_c log p_c + (1 − y_c) log(1 − p_c). Its slope
in z is y − p, in every component for itself. As Var(y_c) = p_c (1 − p_c) and Cov(y_c, y_d) = 0 for
c ≠ d, the expectation of the squared gradient over y is

    E (J_iᵀ (y − p))² = Σ_c Σ_d Cov(y_c, y_d) (∂z_c)(∂z_d) = Σ_c p_c (1 − p_c) (∂z_c)²,

so that the exact directions are √(p_c (1 − p_c)) e_c, one for each of the C labels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from surgery.data.tokens.sequences import IGNORED
from surgery.schemas.enums import Fisher, Problem


def log_likelihood(logits: Tensor, labels: Tensor, problem: Problem) -> Tensor:
    """log p(y | x) of each row, shape (N,).

    Classification and multiple choice: logits (N, C), labels (N,). Regression: logits (N, 1), a
    Gaussian of unit variance. Token classification: logits (N, T, C), labels (N, T); it is the sum
    over the tokens that have a label. Several labels a row: logits (N, C), labels (N, C) of zeros
    and ones; it is the sum over the labels.
    """
    if problem is Problem.REGRESSION:
        return -0.5 * (logits.squeeze(-1) - labels.to(logits.dtype)).square()
    if problem is Problem.TOKEN_CLASSIFICATION:
        losses = F.cross_entropy(logits.mT, labels, reduction="none", ignore_index=IGNORED)
        return -losses.sum(1)
    if problem is Problem.MULTI_LABEL:
        targets = labels.to(logits.dtype)
        return -F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1)
    return -F.cross_entropy(logits, labels, reduction="none")


def directions(
    logits: Tensor,
    labels: Tensor,
    problem: Problem,
    fisher: Fisher,
    noise: Tensor | None = None,
) -> Iterator[Tensor]:
    """Yield the directions v of all rows, each as a tensor of the logits' shape.

    ``noise`` determines the draws of ``sampled``, see ``draw_noise``.
    """
    logits = logits.detach()
    if fisher is Fisher.SAMPLED:
        assert noise is not None
        yield from _sampled(logits, labels, problem, noise.to(logits.device))
    elif fisher is Fisher.EXACT:
        yield from _exact(logits, labels, problem)
    else:
        yield likelihood_slope(logits, labels, problem)


def likelihood_slope(logits: Tensor, labels: Tensor, problem: Problem) -> Tensor:
    """∂ log p(y | x) / ∂z in closed form: y − f, onehot(y) − p, or y − p for several labels."""
    if problem is Problem.REGRESSION:
        return labels.to(logits.dtype).unsqueeze(-1) - logits
    if problem is Problem.MULTI_LABEL:
        wide = _wide(logits)
        return (labels.to(wide.dtype) - wide.sigmoid()).to(logits.dtype)
    labelled = labels != IGNORED
    slope = F.one_hot(labels.clamp_min(0), logits.shape[-1]) - _probabilities(logits)
    return (slope * labelled.unsqueeze(-1)).to(logits.dtype)


def _probabilities(logits: Tensor) -> Tensor:
    """The softmax in float32 or wider."""
    return torch.softmax(_wide(logits), dim=-1)


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def draw_noise(rows: list[int], draws: int, seed: int, problem: Problem, tokens: int = 1) -> Tensor:
    """The random numbers behind each draw, (N, draws, tokens), uniform or for regression normal.

    They depend on seed and row alone, so that neither batches nor processes change a draw. With
    several labels a row, ``tokens`` is the number of labels, each of which is drawn for itself.
    """
    found = torch.empty(len(rows), draws, tokens)
    for place, row in enumerate(rows):
        generator = np.random.default_rng((seed, row))
        if problem is Problem.REGRESSION:
            values = generator.standard_normal((tokens, draws))
        else:
            values = generator.random((tokens, draws))
        found[place] = torch.from_numpy(values.T.copy())
    return found


def _sampled(logits: Tensor, labels: Tensor, problem: Problem, noise: Tensor) -> Iterator[Tensor]:
    scale = noise.shape[1] ** -0.5
    if problem is Problem.REGRESSION:
        for drawn in noise.unbind(1):
            yield drawn.to(logits.dtype) * scale
        return
    if problem is Problem.MULTI_LABEL:
        present = _wide(logits).sigmoid()
        for drawn in noise.unbind(1):
            yield likelihood_slope(logits, drawn < present, problem) * scale
        return
    cumulative = _probabilities(logits).cumsum(-1)
    last = logits.shape[-1] - 1
    labelled = labels != IGNORED
    for drawn in noise.unbind(1):
        places = drawn[:, 0]
        if problem is Problem.TOKEN_CLASSIFICATION:
            # Draws go by a token's number among the labelled ones, which padding does not change.
            places = drawn.gather(1, (labelled.cumsum(1) - 1).clamp_min(0))
        chosen = (cumulative < places.unsqueeze(-1)).sum(-1).clamp_max(last)
        chosen = torch.where(labelled, chosen, labels)
        yield likelihood_slope(logits, chosen, problem) * scale


def _exact(logits: Tensor, labels: Tensor, problem: Problem) -> Iterator[Tensor]:
    if problem is Problem.REGRESSION:
        yield torch.ones_like(logits)
        return
    if problem is Problem.MULTI_LABEL:
        wide = _wide(logits)
        deviations = (wide.sigmoid() * (-wide).sigmoid()).sqrt().to(logits.dtype)
        yield from torch.diag_embed(deviations).unbind(-1)
        return
    factor = covariance_factor(_probabilities(logits)).to(logits.dtype)
    if problem is not Problem.TOKEN_CLASSIFICATION:
        yield from factor.unbind(-1)
        return
    # Given the text, tokens are independent: the covariance has one block for each of them. The
    # n-th labelled tokens of all rows share a direction.
    labelled = labels != IGNORED
    order = labelled.cumsum(1) * labelled
    for number in range(1, int(order.max()) + 1):
        here = (order == number).unsqueeze(-1)
        for column in factor.unbind(-1):
            yield column * here


def covariance_factor(probabilities: Tensor) -> Tensor:
    """S (…, C, C − 1) with S Sᵀ = diag(p) − p pᵀ, for p (…, C) that sum to one.

    In closed form, by removing the classes one after the other: with q_k the probability left after
    the first k, column k is √(p_k q_k / q_{k−1}) at k and −p_j √(p_k / (q_{k−1} q_k)) at each later
    j. The least probable class is removed first, so that q_k is never small: q_k ≥ 1/C.
    """
    ordered, places = probabilities.sort(dim=-1)
    left = ordered.flip(-1).cumsum(-1).flip(-1)  # q_{k−1}: what is left before class k
    before, after = left[..., :-1], left[..., 1:]
    here = ordered[..., :-1]
    own = (here * after / before).sqrt()
    below = (here / (before * after)).sqrt()
    classes = probabilities.shape[-1]
    later = torch.ones(classes, classes - 1, device=ordered.device).tril(-1).to(ordered.dtype)
    factor = -ordered.unsqueeze(-1) * below.unsqueeze(-2) * later
    factor.diagonal(dim1=-2, dim2=-1).copy_(own)
    index = places.argsort(-1).unsqueeze(-1).expand(factor.shape)
    return factor.gather(-2, index)
