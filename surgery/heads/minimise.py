"""Minimise a smooth function until its gradient is small."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

HISTORY = 50  # pairs of steps and gradients that L-BFGS keeps
ROUND = 10  # iterations between two looks at the norm of the gradient


def minimise(
    evaluate: Callable[[], Tensor],
    parameters: Sequence[nn.Parameter],
    *,
    until: float,
    most: int,
) -> int:
    """Change the parameters by L-BFGS with a strong Wolfe line search; the number of iterations.

    ``evaluate`` returns the value, a scalar, and leaves the gradient in the parameters. It ends
    once the Euclidean norm of the gradient is at most ``until``, after ``most`` iterations, or when
    no step changes the value any more.
    Source: Liu and Nocedal, "On the limited memory BFGS method", Mathematical Programming 1989.
    """
    numbers = sum(parameter.numel() for parameter in parameters)
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=ROUND,
        max_eval=5 * ROUND,
        tolerance_grad=until / math.sqrt(numbers),  # of the largest entry, so that none is missed
        tolerance_change=1e-16,
        history_size=HISTORY,
        line_search_fn="strong_wolfe",
    )
    state = optimizer.state[parameters[0]]
    done = 0
    while done < most:
        optimizer.step(lambda: float(evaluate()))
        evaluate()
        steps, done = state["n_iter"] - done, state["n_iter"]
        if steps < ROUND or gradient_norm(parameters) <= until:
            break
    return done


def gradient_norm(parameters: Sequence[nn.Parameter]) -> float:
    """The Euclidean norm of the gradient over all parameters; those without one count as zero."""
    squares = [p.grad.double().square().sum() for p in parameters if p.grad is not None]
    return math.sqrt(float(torch.stack(squares).sum())) if squares else 0.0
