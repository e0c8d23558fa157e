"""Which rows each optimizer step takes: a function of seed and epoch alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from surgery.training_spec import TrainingSpec

LENGTH_GROUP = 50  # batches whose rows are sorted by length together, as transformers groups them

Rows = list[int]


def epoch_batches(lengths: np.ndarray[Any, Any], training: TrainingSpec, epoch: int) -> list[Rows]:
    """All rows once, in an order of seed and epoch alone, rows of like length together."""
    generator = torch.Generator().manual_seed(training.seed * 1_000_003 + epoch)
    order = torch.randperm(len(lengths), generator=generator).numpy()
    size = training.batch_size
    batches = []
    for start in range(0, len(order), size * LENGTH_GROUP):
        group = order[start : start + size * LENGTH_GROUP]
        group = group[np.argsort(-lengths[group], kind="stable")]
        batches += [group[at : at + size].tolist() for at in range(0, len(group), size)]
    shuffled = torch.randperm(len(batches), generator=generator).tolist()
    return [batches[index] for index in shuffled]


def epoch_steps(
    lengths: np.ndarray[Any, Any], training: TrainingSpec, epoch: int, processes: int = 1
) -> list[list[Rows]]:
    """The batches of each optimizer step of an epoch, those of all processes together."""
    batches = epoch_batches(lengths, training, epoch)
    each = training.gradient_accumulation_steps * processes
    return [batches[at : at + each] for at in range(0, len(batches), each)]


def split(batches: Sequence[Rows], size: int) -> list[Rows]:
    """The same rows in batches of at most ``size``."""
    return [rows[at : at + size] for rows in batches for at in range(0, len(rows), size)]
