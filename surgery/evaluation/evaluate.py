"""Evaluate a model: its metrics and their standard errors, on the dataset and on other presets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
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
    Encoded,
    EvaluationSet,
    TaskData,
    batches_by_length,
    on_device,
    open_data,
)
from surgery.data.tokens.sequences import IGNORED
from surgery.errors import TrainingDiverged
from surgery.evaluation.evaluation_sets import output_order
from surgery.evaluation.metrics import measure, measure_label_sets
from surgery.evaluation.thresholds import cross_fitted
from surgery.io.sources import Sources
from surgery.models.blocks import model_inputs
from surgery.models.distributed import Share, gather_rows, present_share
from surgery.schemas.data.dataset import DatasetReport
from surgery.schemas.enums import Problem

Replay = Callable[[Sequence[int]], AbstractContextManager[None]]
"""Maps rows to a context in which the forward pass of these rows runs."""

Array = np.ndarray[Any, Any]
ORDERS = 20  # their mean has a standard error of a quarter of that of one metric
RESAMPLES = 200  # with these the standard error is known to about 5 %


def run_whole(_rows: Sequence[int]) -> AbstractContextManager[None]:
    """The replay that does nothing: the whole model runs."""
    return nullcontext()


@dataclass(frozen=True, eq=False)
class Predictions:
    """A model's outputs and the labels; for the fields, see the functions of ``metrics``.

    ``thresholds`` are those of each label, (C,), or of each row and label, (N, C).
    """

    logits: Array
    targets: Array
    problem: Problem
    tags: tuple[str, ...] = ()
    offsets: Array | None = None
    groups: Array | None = None
    earnings: Mapping[str, Array] | None = None
    thresholds: Array | None = None

    def metrics(self, names: Sequence[str]) -> dict[str, float | None]:
        """The metrics of these names; None for one that is undefined."""
        if self.problem is Problem.MULTI_LABEL:
            return measure_label_sets(self.logits, self.targets, self.thresholds, names)
        return measure(
            self.logits,
            self.targets,
            self.problem,
            names,
            tags=self.tags,
            offsets=self.offsets,
            groups=self.groups,
            earnings=self.earnings or {},
        )

    def cross_decided(self) -> Predictions:
        """With thresholds of several labels fitted on half of the other rows, see `thresholds`."""
        if self.problem is not Problem.MULTI_LABEL:
            return self
        return replace(self, thresholds=cross_fitted(self.logits, self.targets))

    def noise(self, name: str) -> float | None:
        """The standard error of a metric, from a seeded bootstrap.

        The rows of one group and the words of one row are always drawn together. None if the metric
        is undefined on half of the resamples or more (Efron & Tibshirani, 1993, chapter 6).
        """
        found = self.resampled(name, RESAMPLES)
        known = found[~np.isnan(found)]
        return float(np.std(known, ddof=1)) if 2 * len(known) > RESAMPLES else None

    def resampled(self, name: str, draws: int) -> Array:
        """A metric on seeded resamples of the rows, (``draws``,); NaN where it is undefined.

        Predictions for the same rows are resampled alike, so that their differences are paired.
        """
        source = np.random.default_rng(0)
        units = self._units()
        count = len(self.targets) if units is None else len(units)
        found = [
            self._drawn(source.integers(0, count, count), units).metrics([name])[name]
            for _ in range(draws)
        ]
        return np.array(found, dtype=np.float64)

    def unrelated(self, name: str) -> float | None:
        """The mean of a metric over seeded random orders of the outputs; None if undefined.

        That is what predictions reach which are as frequent as the model's and say nothing of their
        rows.
        """
        source, found = np.random.default_rng(0), []
        for _ in range(ORDERS):
            mixed = replace(self, logits=source.permutation(self.logits))
            found.append(mixed.metrics([name])[name])
        known = [value for value in found if value is not None]
        return float(np.mean(known)) if known else None

    def _units(self) -> list[Array] | None:
        """The indices that are drawn together; None if each row is drawn independently."""
        if self.groups is not None:
            order = np.argsort(self.groups, kind="stable")
            starts = np.unique(self.groups[order], return_index=True)[1]
            return np.split(order, starts[1:])
        if self.offsets is not None:
            return np.split(np.arange(len(self.targets)), self.offsets[1:-1])
        return None

    def _drawn(self, drawn: Array, units: list[Array] | None) -> Predictions:
        rows, offsets, groups, thresholds = drawn, None, None, self.thresholds
        if units is not None:
            parts = [units[place] for place in drawn]
            sizes = [len(part) for part in parts]
            rows = np.concatenate(parts)
            offsets = np.concatenate([[0], np.cumsum(sizes)])
            groups = np.repeat(np.arange(len(parts)), sizes)
        if thresholds is not None and thresholds.ndim == 2:
            thresholds = thresholds[rows]
        return Predictions(
            self.logits[rows],
            self.targets[rows],
            self.problem,
            self.tags,
            offsets if self.offsets is not None else None,
            groups if self.groups is not None else None,
            {name: earned[rows] for name, earned in (self.earnings or {}).items()},
            thresholds,
        )


def evaluate(
    model: nn.Module,
    encoded: Encoded,
    data: TaskData,
    device: torch.device,
    outputs: Sequence[int] | None = None,
) -> dict[str, float | None]:
    """The dataset's metrics of a model on its validation rows; None for one that is undefined.

    Arguments and errors are those of ``predict_validation``.
    """
    return predict_validation(model, encoded, data, device, outputs).metrics(data.metrics)


def predict_validation(
    model: nn.Module,
    encoded: Encoded,
    data: TaskData,
    device: torch.device,
    outputs: Sequence[int] | None = None,
    replay: Replay = run_whole,
) -> Predictions:
    """The model's outputs for the validation rows, with the labels.

    ``encoded`` holds all rows of ``data.validation``. ``outputs`` gives the index of the model's
    output for each of the dataset's labels, if their orders differ. Raises TrainingDiverged if an
    output is not finite.
    """
    logits = finite_logits(model, encoded, device, replay)
    if outputs is not None:
        logits = logits[:, list(outputs)]
    return predictions_for(logits, encoded, data)


def predictions_for(logits: Array, encoded: Encoded, data: TaskData) -> Predictions:
    """Outputs that a model gave for the validation rows, with what their metrics need."""
    groups, earnings = _groups(data.validation, data.metrics)
    offsets = encoded.tag_offsets if encoded.tagged else None
    return Predictions(
        logits,
        encoded.targets,
        data.problem,
        tuple(data.labels),
        offsets,
        groups,
        earnings,
    )


def finite_logits(
    model: nn.Module, encoded: Encoded, device: torch.device, replay: Replay = run_whole
) -> Array:
    """As ``predict``. Raises TrainingDiverged if an output is not finite."""
    logits = predict(model, encoded, device, replay)
    if not np.isfinite(logits).all():
        raise TrainingDiverged("the model's outputs are not finite; lower training.learning_rate")
    return logits


def _groups(
    table: Dataset, metrics: Sequence[str]
) -> tuple[np.ndarray[Any, Any] | None, dict[str, np.ndarray[Any, Any]]]:
    """The group of each row and what choosing the row earns, if the table has these columns."""
    if "group" not in table.column_names:
        return None, {}
    earned = [name for name in metrics if name in table.column_names]
    return np.asarray(table["group"]), {name: np.asarray(table[name]) for name in earned}


@torch.no_grad()
def predict(
    model: nn.Module, encoded: Encoded, device: torch.device, replay: Replay = run_whole
) -> np.ndarray[Any, Any]:
    """The logits of every row in order, (N, C), in eval mode; ``encoded.targets`` are their labels.

    For tagged rows these are the logits of the tagged tokens, (M, C): those of row i are
    ``encoded.tag_offsets[i]`` to ``encoded.tag_offsets[i + 1]``. Each forward pass runs within the
    context that ``replay`` gives for its rows. In a group of processes each one runs a part of the
    rows, and all get the whole result.
    """
    training = model.training
    model.eval()
    offsets = encoded.tag_offsets if encoded.tagged else np.arange(len(encoded) + 1)
    places: list[np.ndarray[Any, Any]] = []
    parts: list[Tensor] = []
    groups = list(batches_by_length(encoded.lengths, None))
    share = present_share()
    if len(groups) < share.world:
        share = Share()  # every process runs all rows
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
    """The split of a preset that is measured, as a stored folder with its metrics and labels."""

    id: str
    folder: Path
    metrics: tuple[str, ...]
    labels: tuple[str, ...] | None

    @classmethod
    def fetched(cls, source: DatasetSource, sources: Sources) -> MeasuredSet:
        """Fetch and store a resolved preset. Raises DatasetInvalid if one of its rows is."""
        folder, _ = materialise(source, sources)
        return cls(source.id, folder, source.metrics, source.labels)


def open_evaluation_sets(
    found: Sequence[MeasuredSet],
    labels: Sequence[str],
    tokenizer: Any,
    max_length: int,
    sources: Sources,
) -> tuple[EvaluationSet, ...]:
    """Open and tokenise the measured splits, for a model that is trained on ``labels``.

    Raises DatasetInvalid if a preset has other labels.
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
    """The official metrics of a model on each preset; None for one that is undefined."""
    return {own.name: evaluate(model, own.encoded, own.data, device, own.outputs) for own in sets}
