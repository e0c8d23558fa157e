"""Measure how fast a run was, in the floating-point operations that estimates count."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import numpy as np
import torch

from surgery.data.tokens.dataset import Encoded
from surgery.models.blocks import part_of
from surgery.models.loading import LoadedModel
from surgery.models.memory import resident_bytes
from surgery.models.shape import EncoderShape, runs_of
from surgery.schemas.enums import TrainingPrecision
from surgery.schemas.jobs.finetune import PrefixReport, Throughput
from surgery.training.costs.flops import RowLength, TrainedSizes, forward_work, suffix_work
from surgery.training.state import Progress

STORED = ("memory", "disk")  # the modes of the prefix cache in which no step computes the prefix


class Meter:
    """Measures a run; it is made right after the model is loaded, to know the memory without it."""

    def __init__(self, loaded: LoadedModel, precision: TrainingPrecision) -> None:
        self._loaded, self._precision = loaded, precision
        self._device = next(loaded.model.parameters()).device
        weights = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
        resident = resident_bytes(self._device)
        self._process = None if resident is None else max(0, resident - weights)

    def measured(
        self, encoded: Encoded, progress: Progress, prefix: PrefixReport
    ) -> Throughput | None:
        """The operations of a run's steps and how long they took.

        The steps compute the prefix unless its states are stored. None if no step was taken, or if
        the model's config does not contain its width.
        """
        shape = shape_of(self._loaded)
        if shape.hidden is None or not progress.train_seconds:
            return None
        trained, row = _trained(self._loaded), row_length(encoded)
        work = suffix_work(shape, row, trained)
        if prefix.mode not in STORED:
            work += forward_work(shape, row, 0, trained.lowest(shape))
        return Throughput(
            device=device_name(self._device),
            precision=self._precision,
            operations=work * progress.rows,
            seconds=round(progress.train_seconds, 3),
            mean_tokens=row.tokens,
            mean_squares=row.squares,
            process_bytes=self._process,
        )


def row_length(encoded: Encoded) -> RowLength:
    """The mean lengths of tokenised rows, as the model reads them."""
    lengths = encoded.lengths.astype(np.float64)
    squares = (lengths / encoded.choices) ** 2 * encoded.choices
    return RowLength(float(lengths.mean()), float(squares.mean()))


def shape_of(loaded: LoadedModel) -> EncoderShape:
    """The sizes of a loaded model's blocks, as estimates count with them."""
    blocks = tuple(block.parameters for block in loaded.blocks)
    config = loaded.source.config
    return EncoderShape(config, blocks, sum(blocks), 0, 0, runs_of(config))


def _trained(loaded: LoadedModel) -> TrainedSizes:
    """The parameters that train, by their ``requires_grad``."""
    blocks = {
        block.index: sum(p.numel() for p in block.module.parameters() if p.requires_grad)
        for block in loaded.blocks
    }
    inside = {id(p) for block in loaded.blocks for p in block.module.parameters()}
    above = {id(p) for p in loaded.head.values()}
    pooler = part_of(loaded.model, "pooler")
    if pooler is not None:  # it may train too, and is above the blocks like the head
        above |= {id(p) for p in pooler.parameters()}
    beside = [p for p in loaded.model.parameters() if p.requires_grad and id(p) not in inside]
    below = any(id(p) not in above for p in beside)
    return TrainedSizes(blocks, sum(p.numel() for p in beside), below=below)


def device_name(device: torch.device) -> str:
    """The device that a measured rate holds for: the GPU, or the CPU with its number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        match = None
    name = match[1].strip() if match else platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"
