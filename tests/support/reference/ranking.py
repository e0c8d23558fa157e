"""The slow, obvious twins of what lies between per-sample scores and a ranking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

Matrix = np.ndarray[Any, Any]


def drawn_rows(samples: int, resamples: int, seed: int) -> list[list[int]]:
    """The rows of each resample, with repeats."""
    generator = np.random.default_rng(seed)
    shares = np.full(samples, 1 / samples)
    return [
        [
            row
            for row, count in enumerate(generator.multinomial(samples, shares))
            for _ in range(count)
        ]
        for _ in range(resamples)
    ]


def mean_and_error(values: Matrix) -> tuple[Matrix, Matrix]:
    """Mean of rows and its standard error, with the plain (not the corrected) deviation."""
    return values.mean(0), values.std(0) / np.sqrt(len(values))


def ratio_and_error(values: Matrix, weights: Matrix) -> tuple[Matrix, Matrix]:
    """Σ values / Σ weights, and its standard error by the delta method."""
    ratio = values.sum(0) / weights.sum()
    left = values - weights[:, None] * ratio
    return ratio, np.sqrt((left**2).mean(0) / len(values)) / weights.mean()


def t_interval(values: Matrix, resamples: int, seed: int) -> tuple[float, float]:
    """The 95 % bootstrap-t interval of the mean of some numbers, one resample at a time."""
    mean, error = mean_and_error(values)
    steps = []
    for rows in drawn_rows(len(values), resamples, seed):
        other, its_error = mean_and_error(values[rows])
        steps.append((other - mean) / its_error)
    steps.sort()
    low, high = (steps[int(np.ceil(share * resamples)) - 1] for share in (0.025, 0.975))
    return mean - high * error, mean - low * error


def released_scores(
    model: nn.Module,
    blocks: Sequence[nn.Module],
    tokenizer: Any,
    rows: Sequence[dict[str, Any]],
    length: int,
) -> list[float]:
    """What the paper's released code computes, one row and one backward pass at a time.

    Padded to ``length`` without a mask; the gradient of the label's raw logit (of the output, for a
    model of one), squared and averaged over rows; Frobenius norms summed over a block's tensors.
    """
    model.eval().requires_grad_(True)
    parameters = [parameter for block in blocks for parameter in block.parameters()]
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    for row in rows:
        texts = [row[name] for name in ("text", "text_pair") if name in row]
        tokens = tokenizer(
            *texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        logits = model(input_ids=tokens["input_ids"]).logits
        model.zero_grad()
        logits[0, int(row["label"]) if logits.shape[1] > 1 else 0].backward()
        for place, parameter in enumerate(parameters):
            if parameter.grad is not None:
                sums[place] += parameter.grad**2
    norms = {id(p): float((s / len(rows)).norm()) for p, s in zip(parameters, sums, strict=True)}
    model.zero_grad()
    return [sum(norms[id(p)] for p in block.parameters()) for block in blocks]


def row_by_row(
    model: nn.Module,
    blocks: Sequence[nn.Module],
    tokenizer: Any,
    rows: Sequence[dict[str, Any]],
    max_length: int,
) -> Matrix:
    """‖∂ log p(label) / ∂θ‖² of each row and block of a classifier, (N, L): text by text."""
    model.eval().requires_grad_(True)
    found = []
    for row in rows:
        tokens = tokenizer(row["text"], truncation=True, max_length=max_length, return_tensors="pt")
        model.zero_grad()
        model(**tokens).logits[0].log_softmax(-1)[row["label"]].backward()
        found.append([
            sum(float((p.grad**2).sum()) for p in block.parameters() if p.grad is not None)
            for block in blocks
        ])  # fmt: skip
    model.zero_grad()
    return np.array(found)
