"""Warm up a head: a number of passes of AdamW over stored features, from where the head is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from surgery.heads.features import Features, HeadFeatures, Relabel

WARMUP_RATE = 1e-3  # suits AdamW on a linear head over fixed features
WARMUP_BATCH = 16


def warm_up(
    features: HeadFeatures, *, epochs: int, seed: int, relabel: Relabel | None = None
) -> float | None:
    """Train the present head, and return the mean loss of the last epoch; None without one.

    ``relabel`` replaces the labels of the rows for this run alone.
    """
    mean: float | None = None
    with features.replayed(relabel) as replay:
        optimizer = torch.optim.AdamW(features.parameters, lr=WARMUP_RATE)
        generator = torch.Generator().manual_seed(seed)
        for epoch in range(epochs):
            total = torch.zeros((), dtype=torch.float64)
            count = 0
            for part, rows in _shuffled(replay.parts, generator):
                loss = replay.losses(part, rows).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.detach().double().cpu() * len(rows)
                count += len(rows)
            mean = float(total) / count
            features.report.step(epoch + 1, epochs, "epochs")
        optimizer.zero_grad()  # else a later fine-tune would add its first gradient to these
    return mean


def _shuffled(
    features: Sequence[Features], generator: torch.Generator
) -> Iterator[tuple[Features, Tensor]]:
    """Small batches in random order, each with rows of a single group of equal padding."""
    pieces = [
        (part, rows)
        for part in features
        for rows in torch.randperm(len(part), generator=generator).split(WARMUP_BATCH)
    ]
    for index in torch.randperm(len(pieces), generator=generator).tolist():
        yield pieces[index]
