"""The slow, obvious twins: what the engine must equal, written for reading."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.schemas.enums import Fisher, Problem


def squared_gradients(
    model: nn.Module,
    batches: Sequence[dict[str, Tensor]],
    problem: Problem = Problem.CLASSIFICATION,
    fisher: Fisher = Fisher.EMPIRICAL,
    *,
    draws: int = 1,
    seed: int = 0,
    within: str = "",
) -> list[dict[str, Tensor]]:
    """For each sample, by itself and without padding: parameter name → squared gradient.

    Of the parameters whose name holds ``within`` only. The expectation over labels is a sum over
    all of them; for token classification over all sequences of them.
    """
    model.eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(within in name)
    scored = {n: p for n, p in model.named_parameters() if p.requires_grad}
    singles = [alone(batch, row) for batch in batches for row in range(len(batch["labels"]))]
    found = []
    for number, single in enumerate(singles):
        labels = single.pop("labels")[0]
        taken = inspect.signature(model.forward).parameters
        logits = model(**{n: t for n, t in single.items() if n in taken}).logits[0]
        draw = np.random.default_rng((seed, number))
        squares = {name: torch.zeros_like(p) for name, p in scored.items()}
        for weight, value in likelihoods(logits, labels, problem, fisher, draws, draw):
            gradients = torch.autograd.grad(
                value, list(scored.values()), retain_graph=True, allow_unused=True
            )
            for name, gradient in zip(scored, gradients, strict=True):
                squares[name] += 0 if gradient is None else weight * gradient**2
        found.append(squares)
    return found


def alone(batch: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """One row, with the columns of which its mask has none cut away."""
    mask = batch["attention_mask"][row]
    kept = (mask.reshape(-1, mask.shape[-1]).sum(0) > 0).nonzero()[:, 0]
    return {
        name: tensor[row : row + 1]
        if tensor.dim() == 1 or tensor.shape[-1] != mask.shape[-1] or tensor.is_floating_point()
        else tensor[row : row + 1][..., kept]
        for name, tensor in batch.items()
    }


def likelihoods(
    logits: Tensor,
    labels: Tensor,
    problem: Problem,
    fisher: Fisher,
    draws: int,
    draw: np.random.Generator,
) -> list[tuple[float, Tensor]]:
    """Pairs (weight, log-likelihood of some labels) whose weighted squared gradients are summed."""
    if problem is Problem.REGRESSION:
        return _of_number(logits[0], labels, fisher, draws, draw)
    if problem is Problem.MULTI_LABEL:
        return _of_labels(logits, labels, fisher, draws, draw)
    if problem is not Problem.TOKEN_CLASSIFICATION:
        logits, labels = logits[None], labels[None]
    tagged = labels != -100
    logs, labels = F.log_softmax(logits[tagged], dim=-1), labels[tagged]
    tokens, classes = logs.shape
    if fisher is Fisher.EMPIRICAL:
        return [(1.0, sum_of(logs, labels.tolist()))]
    if fisher is Fisher.EXACT:
        sequences = itertools.product(range(classes), repeat=tokens)
        values = [sum_of(logs, sequence) for sequence in sequences]
        return [(float(value.detach().exp()), value) for value in values]
    width = len(tagged) if problem is Problem.TOKEN_CLASSIFICATION else 1
    uniform = draw.random((width, draws))
    bounds = logs.detach().exp().cumsum(-1).numpy()
    return [
        (1 / draws, sum_of(logs, [
            min(int(np.searchsorted(bounds[token], uniform[token, number])), classes - 1)
            for token in range(tokens)
        ]))
        for number in range(draws)
    ]  # fmt: skip


def _of_labels(
    logits: Tensor, labels: Tensor, fisher: Fisher, draws: int, draw: np.random.Generator
) -> list[tuple[float, Tensor]]:
    """Each label is present or not; the expectation is over all 2^C sets of labels."""
    present = F.logsigmoid(logits)
    absent = F.logsigmoid(-logits)

    def likelihood(marks: Sequence[float]) -> Tensor:
        return torch.stack(
            [p if m else a for p, a, m in zip(present, absent, marks, strict=True)]
        ).sum()

    if fisher is Fisher.EMPIRICAL:
        return [(1.0, likelihood(labels.tolist()))]
    if fisher is Fisher.EXACT:
        values = [likelihood(marks) for marks in itertools.product((0, 1), repeat=len(logits))]
        return [(float(value.detach().exp()), value) for value in values]
    uniform = draw.random((len(logits), draws))
    drawn = uniform < present.detach().exp().numpy()[:, None]
    return [(1 / draws, likelihood(marks)) for marks in drawn.T.tolist()]


def sum_of(logs: Tensor, labels: Sequence[int]) -> Tensor:
    """log p of one label a token."""
    return torch.stack([logs[token, label] for token, label in enumerate(labels)]).sum()


def _of_number(
    output: Tensor, label: Tensor, fisher: Fisher, draws: int, draw: np.random.Generator
) -> list[tuple[float, Tensor]]:
    if fisher is Fisher.EXACT:  # E (y − f)² = 1
        return [(1.0, output)]
    if fisher is Fisher.EMPIRICAL:
        return [(1.0, -0.5 * (label.to(output.dtype) - output) ** 2)]
    noise = torch.from_numpy(draw.standard_normal((1, draws))[0]).float()
    targets = output.detach() + noise.to(output.dtype)
    return [(1 / draws, -0.5 * (target - output) ** 2) for target in targets]


def layer_traces(
    squares: list[dict[str, Tensor]], blocks: Sequence[tuple[str, nn.Module]], model: nn.Module
) -> Tensor:
    """Squared gradient norm of each sample and block, (N, L)."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return torch.stack(
        [
            torch.stack(
                [
                    sum(
                        (
                            sample[names[id(p)]].sum()
                            for p in module.parameters()
                            if names[id(p)] in sample
                        ),
                        torch.zeros((), dtype=torch.float64),
                    )
                    for _, module in blocks
                ]
            )
            for sample in squares
        ]
    ).double()


def mean_squares(squares: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """D_p = (1/N) Σ_i g_{i,p}²."""
    return {name: torch.stack([sample[name] for sample in squares]).mean(0) for name in squares[0]}


def frobenius_scores(
    diagonal: dict[str, Tensor], blocks: Sequence[tuple[str, nn.Module]], model: nn.Module
) -> list[float]:
    """Σ_p ‖D_p‖_F of each block."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [
        float(sum(diagonal[names[id(p)]].norm() for p in module.parameters()))
        for _, module in blocks
    ]
