"""The slow, obvious twins of the methods beside the Fisher score, written for reading."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Row = dict[str, Tensor]


def single_rows(batches: Sequence[Row]) -> list[Row]:
    """Each sample by itself; without padding unless its texts are of several lengths."""
    rows = []
    for batch in batches:
        for place in range(len(batch["labels"])):
            row = {name: tensor[place : place + 1] for name, tensor in batch.items()}
            if row["input_ids"].dim() == 2:
                own = row["attention_mask"][0].bool()
                row["input_ids"] = row["input_ids"][:, own]
                row["attention_mask"] = row["attention_mask"][:, own]
            rows.append(row)
    return rows


def logits_of(model: nn.Module, row: Row, *, masked: bool = True) -> Tensor:
    """Shape (C,)."""
    inputs = {name: row[name] for name in ("input_ids", "attention_mask")[: 1 + masked]}
    return model(**inputs).logits[0]


def mean_gradient(
    model: nn.Module, batches: Sequence[Row], *, regression: bool = False
) -> dict[str, Tensor]:
    """Parameter name → gradient of the mean log-likelihood."""
    model.eval().requires_grad_(True)
    model.zero_grad()
    rows = single_rows(batches)
    for row in rows:
        logits = logits_of(model, row)
        if regression:
            likelihood = -0.5 * (row["labels"][0] - logits[0]) ** 2
        else:
            likelihood = F.log_softmax(logits, dim=-1)[row["labels"][0]]
        (likelihood / len(rows)).backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def spectrum_ratio(matrix: np.ndarray) -> float:
    """Signal over noise with sorting and loops."""
    values = sorted(np.linalg.svd(matrix, compute_uv=False))
    sigma = (np.percentile(values, 75) - np.percentile(values, 25)) / 1.349
    edge = sigma * (1 + np.sqrt(min(matrix.shape) / max(matrix.shape)))
    signal, noise = 0.0, values[0]
    for value in values[1:]:
        if value > edge:
            signal += value
        else:
            noise += value
    return signal / noise


def turned_states(
    model: nn.Module,
    blocks: Sequence[nn.Module],
    text: Row,
    *,
    token: int,
    tokens_first: bool,
    masked: bool,
) -> list[float]:
    """1 − cosine of one token's state before and after each block, for one text.

    Written into the blocks' own forward functions.
    """
    seen: list[list[float]] = [[] for _ in blocks]
    originals = [block.forward for block in blocks]

    def recorder(place: int):
        def forward(*args, **named):
            before = (args[0] if args else named["hidden_states"]).detach().clone()
            output = originals[place](*args, **named)
            after = output[0] if isinstance(output, tuple) else output
            pair = [(s[:, 0] if tokens_first else s[0])[token].detach() for s in (before, after)]
            one, two = (state.numpy() for state in pair)
            cosine = one @ two / np.sqrt((one @ one) * (two @ two))
            seen[place].append(1 - float(cosine))
            return output

        return forward

    for place, block in enumerate(blocks):
        block.forward = recorder(place)  # type: ignore[method-assign]
    try:
        logits_of(model, text, masked=masked)
    finally:
        for block in blocks:
            del block.forward
    return [sum(uses) / len(uses) for uses in seen]


def output_jacobian(
    model: nn.Module, row: Row, names: Sequence[str], *, masked: bool = True
) -> list[dict[str, Tensor]]:
    """For each output: parameter name → its whole gradient."""
    parameters = dict(model.named_parameters())
    model.eval().requires_grad_(True)
    logits = logits_of(model, row, masked=masked).flatten()
    found = []
    for output in logits:
        gradients = torch.autograd.grad(
            output, [parameters[n] for n in names], retain_graph=True, allow_unused=True
        )
        found.append({n: g for n, g in zip(names, gradients, strict=True) if g is not None})
    return found


def jacobian_kernel(jacobians: Sequence[list[dict[str, Tensor]]], names: Sequence[str]) -> Tensor:
    """K_ij = (1/C) Σ_c ⟨J_i^c, J_j^c⟩ over the parameters named."""
    kernel = torch.zeros(len(jacobians), len(jacobians), dtype=torch.float64)
    for i, one in enumerate(jacobians):
        for j, two in enumerate(jacobians):
            products = [
                (first[name] * second[name]).sum()
                for first, second in zip(one, two, strict=True)
                for name in set(names) & set(first) & set(second)
            ]
            kernel[i, j] = sum(products, torch.zeros(())) / len(one)
    return kernel


def ridge_scores(
    kernels: Sequence[np.ndarray], residuals: np.ndarray, folds: Sequence[np.ndarray]
) -> list[float]:
    """Cross-validated R² of kernel ridge regression, with one λ for all kernels."""
    count, outputs = residuals.shape
    ridge = np.mean([np.trace(kernel) / count for kernel in kernels])
    scores = []
    for kernel in kernels:
        predicted = np.zeros_like(residuals)
        for held in folds:
            kept = [i for i in range(count) if i not in set(held.tolist())]
            inner = np.array([[kernel[i, j] for j in kept] for i in kept])
            weights = np.linalg.solve(inner + ridge * np.eye(len(kept)), residuals[kept])
            for i in held:
                predicted[i] = sum(kernel[i, j] * weights[n] for n, j in enumerate(kept))
        left = sum(
            (residuals[i, c] - predicted[i, c]) ** 2 for i in range(count) for c in range(outputs)
        )
        total = sum(residuals[i, c] ** 2 for i in range(count) for c in range(outputs))
        scores.append(1 - left / total)
    return scores
