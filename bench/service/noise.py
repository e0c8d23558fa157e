"""How far a validation metric would vary with other rows of the same kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

from surgery.checkpoints.checkpoint import load
from surgery.data.presets.tasks import Task
from surgery.data.references import materialise, resolve_dataset
from surgery.data.tokens.cache import encode_split
from surgery.data.tokens.dataset import open_data
from surgery.evaluation.evaluate import predict
from surgery.evaluation.metrics import Array, measure
from surgery.io.sources import Sources

RESAMPLES = 200
Values = dict[str, float | None]


@dataclass(frozen=True)
class Outcome:
    """What a model says of a preset's validation rows, and what is true of them.

    ``logits`` (N, C) and ``labels`` (N,). ``groups`` (N,) and ``earnings`` are those of
    `surgery.evaluation.metrics.measure`.
    """

    task: Task
    logits: Array
    labels: Array
    groups: Array | None
    earnings: dict[str, Array]

    def metrics(self) -> Values:
        """The metrics of the preset."""
        return measure(
            self.logits,
            self.labels,
            self.task.problem,
            self.task.metrics,
            groups=self.groups,
            earnings=self.earnings,
        )

    def standard_errors(self, resamples: int = RESAMPLES, seed: int = 0) -> Values:
        """Standard deviation of each metric over bootstrap resamples of the rows.

        Rows of one question are drawn together. Tells nothing about other seeds of training.
        None where a metric is undefined in every resample.
        """
        draw = np.random.default_rng(seed)
        groups = np.arange(len(self.labels)) if self.groups is None else self.groups
        order = np.argsort(groups, kind="stable")
        units = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
        found = [
            self._of([units[unit] for unit in draw.integers(len(units), size=len(units))]).metrics()
            for _ in range(resamples)
        ]
        spread: Values = {}
        for name in self.task.metrics:
            values = [value for entry in found if (value := entry[name]) is not None]
            spread[name] = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return spread

    def _of(self, units: list[Array]) -> Outcome:
        """The outcome on these questions. A question that is drawn twice counts as two groups."""
        rows = np.concatenate(units)
        groups = np.repeat(np.arange(len(units)), [len(unit) for unit in units])
        earnings = {name: earned[rows] for name, earned in self.earnings.items()}
        grouped = None if self.groups is None else groups
        return Outcome(self.task, self.logits[rows], self.labels[rows], grouped, earnings)


def outcome_of(
    task: Task, base: Path, checkpoint: Path, sources: Sources, max_length: int
) -> Outcome:
    """Have a downloaded checkpoint predict the validation rows of its preset."""
    source = resolve_dataset(task.name, sources)
    folder, report = materialise(source, sources)
    data = open_data(folder, report, source.metrics, sources.tokens)
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    encoded = encode_split(data, "validation", tokenizer, max_length)
    logits = predict(load(base, checkpoint), encoded, torch.device("cpu"))
    stored = {
        name: np.asarray(data.validation[name])
        for name in ("group", *task.metrics)
        if name in data.validation.column_names
    }
    return Outcome(task, logits, encoded.targets, stored.pop("group", None), stored)
