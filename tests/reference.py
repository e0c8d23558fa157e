"""The slow, obvious twins: what the engine must equal, written for reading."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def squared_gradients(
    model: nn.Module,
    batches: Sequence[dict[str, Tensor]],
    *,
    regression: bool = False,
    within: str = "",
) -> list[dict[str, Tensor]]:
    """For each sample, by itself and without padding: parameter name → squared gradient.

    Of the parameters whose name holds ``within`` only.
    """
    model.eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(within in name)
    found = []
    for batch in batches:
        for row in range(len(batch["labels"])):
            length = int(batch["attention_mask"][row].sum())
            inputs = {
                name: tensor[row : row + 1, :length]
                for name, tensor in batch.items()
                if name != "labels"
            }
            label = batch["labels"][row]
            logits = model(**inputs).logits[0]
            if regression:
                log_likelihood = -0.5 * (label.to(logits.dtype) - logits[0]) ** 2
            else:
                log_likelihood = F.log_softmax(logits, dim=-1)[label]
            model.zero_grad()
            log_likelihood.backward()
            found.append(
                {
                    name: parameter.grad.detach().clone() ** 2
                    for name, parameter in model.named_parameters()
                    if parameter.grad is not None
                }
            )
    return found


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


def train_head(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    groups: Sequence[dict[str, Tensor]],
    *,
    epochs: int,
    seed: int,
    regression: bool = False,
) -> float:
    """Warm-up with the encoder run every time: AdamW over pieces of 16 rows of one group."""
    model.eval()
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    generator = torch.Generator().manual_seed(seed)
    losses: list[Tensor] = []
    for _ in range(epochs):
        pieces = [
            {name: tensor[rows] for name, tensor in group.items()}
            for group in groups
            for rows in torch.randperm(len(group["labels"]), generator=generator).split(16)
        ]
        losses = []
        for index in torch.randperm(len(pieces), generator=generator).tolist():
            inputs = dict(pieces[index])
            labels = inputs.pop("labels")
            logits = model(**inputs).logits
            if regression:
                loss = 0.5 * (logits[:, 0] - labels) ** 2
            else:
                loss = F.cross_entropy(logits, labels, reduction="none")
            model.zero_grad()
            loss.mean().backward()
            optimizer.step()
            losses.append(loss.detach())
    return float(torch.cat(losses).mean())
