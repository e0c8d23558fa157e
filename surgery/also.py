"""Measure a model on other presets than the one it is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from surgery.data import EvaluationSet, open_data
from surgery.evaluation import evaluate
from surgery.evaluation_sets import output_order
from surgery.ingest import REPORT
from surgery.references import DatasetSource, materialise
from surgery.schema import DatasetReport
from surgery.sources import Sources
from surgery.token_cache import encode_split

Measured = dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class MeasuredSet:
    """The measured split of a preset in its stored form: a folder, and what its labels are."""

    id: str
    folder: Path
    metrics: tuple[str, ...]
    labels: tuple[str, ...] | None

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> MeasuredSet:
        """From its fields as JSON has them."""
        labels = entry["labels"]
        return cls(
            id=entry["id"], folder=Path(entry["folder"]), metrics=tuple(entry["metrics"]),
            labels=None if labels is None else tuple(labels),
        )  # fmt: skip

    @classmethod
    def fetched(cls, source: DatasetSource, sources: Sources) -> MeasuredSet:
        """A preset that was resolved, loaded. Raises DatasetInvalid where a row of it is wrong."""
        folder, _ = materialise(source, sources)
        return cls(source.id, folder, source.metrics, source.labels)


def open_evaluation_sets(
    found: Sequence[MeasuredSet], labels: Sequence[str], tokenizer: Any, max_length: int,
    sources: Sources,
) -> tuple[EvaluationSet, ...]:  # fmt: skip
    """Open the measured splits for a model trained on ``labels``.

    Raises DatasetInvalid where a preset has other labels.
    """
    opened = []
    for source in found:
        report = DatasetReport.model_validate_json((source.folder / REPORT).read_text())
        outputs = output_order(source.id, report.problem, source.labels, labels)
        data = open_data(source.folder, report, source.metrics, sources.tokens)
        encoded = encode_split(data, "validation", tokenizer, max_length)
        opened.append(EvaluationSet(source.id, data, encoded, outputs))
    return tuple(opened)


def evaluate_also(
    model: nn.Module, sets: Sequence[EvaluationSet], device: torch.device
) -> Measured:
    """The official metrics of a model on each of the presets; None where one is undefined."""
    return {own.name: evaluate(model, own.encoded, own.data, device, own.outputs) for own in sets}
