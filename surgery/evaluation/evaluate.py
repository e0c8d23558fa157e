"""Run a model over held-out rows: its metrics, their standard errors, and other presets beside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn

from surgery.data.ingest.ingest import REPORT
from surgery.data.references import DatasetSource, materialise
from surgery.data.tokens.cache import encode_split
from surgery.data.tokens.dataset import (
    IGNORED,
    Encoded,
    EvaluationSet,
    TaskData,
    batches_by_length,
    on_device,
    open_data,
)
from surgery.errors import TrainingDiverged
from surgery.evaluation.evaluation_sets import output_order
from surgery.evaluation.metrics import measure
from surgery.io.sources import Sources
from surgery.models.blocks import model_inputs
from surgery.models.distributed import Share, gather_rows, present_share
from surgery.schemas.dataset import DatasetReport
from surgery.schemas.enums import Problem

Replay = Callable[[Sequence[int]], AbstractContextManager[None]]
"""What a forward pass of some rows is run in."""

Array = np.ndarray[Any, Any]
RESAMPLES = 200  # the standard error is then known to some 5 %


def run_whole(_rows: Sequence[int]) -> AbstractContextManager[None]:
    """Replay nothing."""
    return nullcontext()


@dataclass(frozen=True, eq=False)
class Predictions:
    """A model's outputs beside what is true, as ``measure`` of the metrics takes them."""

    logits: Array
    targets: Array
    problem: Problem
    tags: tuple[str, ...] = ()
    offsets: Array | None = None
    groups: Array | None = None
    earnings: Mapping[str, Array] | None = None

    def metrics(self, names: Sequence[str]) -> dict[str, float | None]:
        """By name; None where one is undefined."""
        return measure(
            self.logits, self.targets, self.problem, names, tags=self.tags, offsets=self.offsets,
            groups=self.groups, earnings=self.earnings or {},
        )  # fmt: skip

    def noise(self, name: str) -> float | None:
        """Standard error of a metric, from a seeded bootstrap over what was drawn together.

        Rows of one group, and the words of one row, stay together. None where the metric is not
        defined on most of the resamples (Efron & Tibshirani, 1993, chapter 6).
        """
        source = np.random.default_rng(0)
        units = self._units()
        count = len(self.targets) if units is None else len(units)
        found = [
            self._drawn(source.integers(0, count, count), units).metrics([name])[name]
            for _ in range(RESAMPLES)
        ]
        known = [value for value in found if value is not None]
        return float(np.std(known, ddof=1)) if 2 * len(known) > RESAMPLES else None

    def _units(self) -> list[Array] | None:
        """The places of what belongs together; None where each row is on its own."""
        if self.groups is not None:
            order = np.argsort(self.groups, kind="stable")
            starts = np.unique(self.groups[order], return_index=True)[1]
            return np.split(order, starts[1:])
        if self.offsets is not None:
            return np.split(np.arange(len(self.targets)), self.offsets[1:-1])
        return None

    def _drawn(self, drawn: Array, units: list[Array] | None) -> Predictions:
        rows, offsets, groups = drawn, None, None
        if units is not None:
            parts = [units[place] for place in drawn]
            sizes = [len(part) for part in parts]
            rows = np.concatenate(parts)
            offsets = np.concatenate([[0], np.cumsum(sizes)])
            groups = np.repeat(np.arange(len(parts)), sizes)
        return Predictions(
            self.logits[rows], self.targets[rows], self.problem, self.tags,
            offsets if self.offsets is not None else None,
            groups if self.groups is not None else None,
            {name: earned[rows] for name, earned in (self.earnings or {}).items()},
        )  # fmt: skip


def evaluate(
    model: nn.Module, encoded: Encoded, data: TaskData, device: torch.device,
    outputs: Sequence[int] | None = None,
) -> dict[str, float | None]:  # fmt: skip
    """The dataset's metrics of a model on its validation rows; None where one is undefined.

    Takes and raises what ``predict_validation`` does.
    """
    return predict_validation(model, encoded, data, device, outputs).metrics(data.metrics)


def predict_validation(
    model: nn.Module, encoded: Encoded, data: TaskData, device: torch.device,
    outputs: Sequence[int] | None = None, replay: Replay = run_whole,
) -> Predictions:  # fmt: skip
    """What a model says of the validation rows, beside what is true.

    ``encoded`` is ``data.validation``, whole. ``outputs`` says which of the model's outputs is each
    of the dataset's labels, where their order is another. Raises TrainingDiverged where the model's
    outputs are not finite.
    """
    logits = predict(model, encoded, device, replay)
    if not np.isfinite(logits).all():
        raise TrainingDiverged("the model's outputs are not finite; lower training.learning_rate")
    if outputs is not None:
        logits = logits[:, list(outputs)]
    groups, earnings = _groups(data.validation, data.metrics)
    offsets = encoded.tag_offsets if encoded.tagged else None
    return Predictions(
        logits, encoded.targets, data.problem, tuple(data.labels), offsets, groups, earnings
    )


def _groups(
    table: Dataset, metrics: Sequence[str]
) -> tuple[np.ndarray[Any, Any] | None, dict[str, np.ndarray[Any, Any]]]:
    """The group of each row and what choosing it earns, where a table holds them."""
    if "group" not in table.column_names:
        return None, {}
    earned = [name for name in metrics if name in table.column_names]
    return np.asarray(table["group"]), {name: np.asarray(table[name]) for name in earned}


@torch.no_grad()
def predict(
    model: nn.Module, encoded: Encoded, device: torch.device, replay: Replay = run_whole
) -> np.ndarray[Any, Any]:
    """Logits of every row in order, (N, C), in eval mode; compare them with ``encoded.targets``.

    ``replay`` is what the forward pass of some rows is run in.

    Of tagged rows, those of the tagged tokens, (M, C): row i's are
    ``encoded.tag_offsets[i]`` to ``encoded.tag_offsets[i + 1]``. In a group of processes each runs
    a part and all get the whole.
    """
    training = model.training
    model.eval()
    offsets = encoded.tag_offsets if encoded.tagged else np.arange(len(encoded) + 1)
    places: list[np.ndarray[Any, Any]] = []
    parts: list[Tensor] = []
    groups = list(batches_by_length(encoded.lengths, None))
    share = present_share()
    if len(groups) < share.world:
        share = Share()  # every process does all
    for rows in share.own(groups):
        batch = on_device(encoded.batch(rows), device)
        with replay(rows):
            logits = model(**model_inputs(model, batch)).logits
        parts.append(
            (logits[batch["labels"] != IGNORED] if encoded.tagged else logits).float().cpu()
        )
        places += [np.arange(offsets[row], offsets[row + 1]) for row in rows]
    model.train(training)
    numbers = np.concatenate(places).tolist()
    return gather_rows(torch.cat(parts), numbers, len(encoded.targets), share).numpy()


PresetMetrics = dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class MeasuredSet:
    """The measured split of a preset in its stored form: a folder, and what its labels are."""

    id: str
    folder: Path
    metrics: tuple[str, ...]
    labels: tuple[str, ...] | None

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


def evaluate_sets(
    model: nn.Module, sets: Sequence[EvaluationSet], device: torch.device
) -> PresetMetrics:
    """The official metrics of a model on each of the presets; None where one is undefined."""
    return {own.name: evaluate(model, own.encoded, own.data, device, own.outputs) for own in sets}
