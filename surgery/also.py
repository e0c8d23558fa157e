"""Measure a model on other presets than the one it is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from surgery.data import EvaluationSet, open_data
from surgery.evaluation import evaluate
from surgery.evaluation_sets import output_order
from surgery.references import DatasetSource, materialise
from surgery.sources import Sources
from surgery.token_cache import encode_split

Measured = dict[str, dict[str, float | None]]


def open_evaluation_sets(
    found: Sequence[DatasetSource], labels: Sequence[str], tokenizer: Any, max_length: int,
    sources: Sources,
) -> tuple[EvaluationSet, ...]:  # fmt: skip
    """Load the measured splits for a model trained on ``labels``.

    Raises DatasetInvalid where a preset has other labels, or a row of it is wrong.
    """
    opened = []
    for source in found:
        outputs = output_order(source, labels)
        folder, report = materialise(source, sources)
        data = open_data(folder, report, source.metrics, sources.tokens)
        encoded = encode_split(data, "validation", tokenizer, max_length)
        opened.append(EvaluationSet(source.id, data, encoded, outputs))
    return tuple(opened)


def evaluate_also(
    model: nn.Module, sets: Sequence[EvaluationSet], device: torch.device
) -> Measured:
    """The official metrics of a model on each of the presets; None where one is undefined."""
    return {own.name: evaluate(model, own.encoded, own.data, device, own.outputs) for own in sets}
