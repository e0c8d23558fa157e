"""How far a ranking can be trusted: resamples, halves of the samples, agreement of two orders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from surgery.results import Stability
from surgery.scores import Matrix, Scores

CERTAIN = 0.95  # a top-k set that recurs in fewer resamples is called ambiguous
BOOTSTRAP_CELLS = 20_000_000  # weights drawn at once: 160 MB


def resampled(scores: Scores, resamples: int, seed: int) -> Matrix | None:
    """Scores of samples drawn with replacement, (B, U); None where no sample has a score."""
    if resamples == 0 or scores.per_sample is None:
        return None
    means = bootstrap_means(scores.per_sample, resamples, seed)
    if scores.weights is None:
        return means
    # The same seed draws the same samples: numerator and denominator belong together.
    return means / bootstrap_means(scores.weights[:, None], resamples, seed)


def bootstrap_means(matrix: Matrix, resamples: int, seed: int) -> Matrix:
    """Column means over rows drawn with replacement, (B, U)."""
    samples = len(matrix)
    generator = np.random.default_rng(seed)
    chunk = max(1, BOOTSTRAP_CELLS // samples)
    parts = []
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        weights = generator.multinomial(samples, np.full(samples, 1 / samples), size=size)
        parts.append(weights @ matrix / samples)
    return np.concatenate(parts)


def order_of(values: Matrix) -> Matrix:
    """Places from the highest score down; of equal ones the first comes first."""
    return np.argsort(-values, axis=-1, kind="stable")


def top_k_probabilities(resamples: Matrix) -> Matrix:
    """P(unit among the top k), (U, U): row k − 1, column unit."""
    ranks = np.argsort(order_of(resamples), axis=1)
    return np.stack([(ranks < k).mean(0) for k in range(1, resamples.shape[1] + 1)])


def top_k_set_probability(values: Matrix, resamples: Matrix, k: int) -> float:
    """How often exactly the top k of ``values`` are the top k of a resample."""
    mine = np.sort(order_of(values)[:k])
    theirs = np.sort(order_of(resamples)[:, :k], axis=1)
    return float((theirs == mine).all(1).mean())


def stability_of(scores: Scores, resamples: Matrix | None, seed: int) -> Stability:
    """What resamples and halves tell of the order."""
    tau = split_half_tau(scores, seed)
    if resamples is None:
        return Stability(split_half_kendall_tau=tau, rank_confidence=None, ambiguous_k=None)
    order = order_of(scores.values)
    shares = {
        k: top_k_set_probability(scores.values, resamples, k) for k in range(1, len(order))
    }
    return Stability(
        split_half_kendall_tau=tau,
        rank_confidence=float((order_of(resamples) == order).all(1).mean()),
        ambiguous_k=[k for k, share in shares.items() if share < CERTAIN],
    )


def split_half_tau(scores: Scores, seed: int) -> float | None:
    """Kendall's τ-b between the rankings by two random halves of the samples."""
    if scores.per_sample is None:
        return scores.halves and kendall_tau(*scores.halves)
    samples = len(scores.per_sample)
    order = np.random.default_rng(seed).permutation(samples)
    middle = samples // 2
    if middle == 0:  # one sample: there is no second half
        return None
    weights = np.ones(samples) if scores.weights is None else scores.weights
    first, second = (
        scores.per_sample[half].mean(0) / weights[half].mean()
        for half in (order[:middle], order[middle:])
    )
    return kendall_tau(first, second)


def kendall_tau(first: Any, second: Any) -> float | None:
    """τ-b of two score vectors; None where one is constant or they are too short."""
    if len(first) < 2 or len(set(np.asarray(first).tolist())) == 1:
        return None
    tau = float(kendalltau(first, second).statistic)
    return None if np.isnan(tau) else round(tau, 12)  # 1, not 0.9999999999999999


def top_k_overlap(first: Matrix, second: Matrix) -> dict[str, float]:
    """For each k, the share of the top k that two score vectors have in common."""
    ours, theirs = order_of(first), order_of(second)
    return {
        str(k): len(set(ours[:k].tolist()) & set(theirs[:k].tolist())) / k
        for k in range(1, len(ours) + 1)
    }


def recommended(shares: Sequence[float]) -> int | None:
    """The smallest k whose units, best first, hold half of the total; None if all are zero."""
    held = np.cumsum(shares)
    enough = np.nonzero(held >= 0.5 - 1e-12)[0]
    return int(enough[0]) + 1 if len(enough) and held[-1] > 0 else None
