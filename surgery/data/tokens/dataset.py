"""A dataset as jobs use it, and its tokenised rows as padded batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from surgery.data.tokens.sequences import IGNORED
from surgery.schemas.data.dataset import Columns, DatasetReport
from surgery.schemas.enums import NAMED, Problem

Batch = dict[str, Tensor]
BATCH_TOKENS = 4096  # padded tokens in a batch: enough for two cores, and fits into 8 GiB


@dataclass(frozen=True)
class TaskData:
    """A dataset as jobs use it: two memory-mapped tables and what their labels mean.

    ``tokens`` is a folder that caches tokenised splits under the dataset's ``fingerprint``; without
    either, rows are tokenised in memory when they are needed. ``also`` are further datasets on
    which the model is evaluated beside ``validation``. ``columns`` are those that the rows were
    read from.
    """

    train: Dataset
    validation: Dataset
    problem: Problem
    labels: list[str]
    metrics: tuple[str, ...]
    fingerprint: str | None = None
    tokens: Path | None = None
    also: tuple[EvaluationSet, ...] = ()
    columns: Columns = field(default_factory=Columns)

    @property
    def outputs(self) -> int:
        """How many numbers the head outputs for a text or a token: one for each class, or one."""
        return len(self.labels) if self.problem in NAMED else 1


def has_tags(batch: Batch) -> bool:
    """Whether a batch has labels (N, T), one for each token.

    Those are whole numbers; the marks of several labels a row (N, C) are fractions.
    """
    labels = batch["labels"]
    return labels.dim() == 2 and not labels.is_floating_point()


def sample_numbers(batch: Batch, seen: int) -> list[int]:
    """The sample numbers of a batch: its ``sample``, or else those following the ``seen`` before.

    ``sample`` must lie on the CPU, since reading it from the device would mean waiting for it.
    """
    numbers = batch.get("sample")
    rows = len(batch["labels"])
    return list(range(seen, seen + rows)) if numbers is None else numbers.tolist()


def on_device(batch: Batch, device: torch.device) -> Batch:
    """A batch's tensors on the model's device.

    They are copied to a GPU from pinned memory, so that the copy runs beside the GPU's earlier work
    and the process need not wait for it.
    """
    if device.type != "cuda":
        return {name: tensor.to(device) for name, tensor in batch.items()}
    return {
        name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in batch.items()
    }


def open_data(
    folder: Path, report: DatasetReport, metrics: Sequence[str], tokens: Path | None = None
) -> TaskData:
    """Memory-map the two splits of an ingested dataset; ``tokens`` is the cache for its tokens."""
    return TaskData(
        train=Dataset.from_file(str(folder / "train.arrow")),
        validation=Dataset.from_file(str(folder / "validation.arrow")),
        problem=report.problem,
        labels=report.labels,
        metrics=tuple(metrics),
        fingerprint=report.fingerprint,
        tokens=tokens,
        columns=report.columns,
    )


@dataclass(frozen=True, kw_only=True)
class RowForm:
    """What a row consists of, and how it is padded.

    A row is one sequence, or ``choices`` sequences one after the other; ``tagged`` rows have a
    label for each token. ``pad_id`` and ``pad_type`` are the token and token type of the padding,
    and ``pad_left`` says on which side it is. ``pad_to`` is for a model that takes no mask: all its
    rows are padded to that many tokens, and the padding counts as tokens of the row.
    """

    pad_id: int
    pad_type: int = 0
    pad_left: bool = False
    pad_to: int | None = None
    choices: int = 1
    tagged: bool = False


@dataclass(frozen=True, kw_only=True)
class Encoded(RowForm):
    """Tokenised rows as flat arrays: sequence i is ``ids[offsets[i]:offsets[i + 1]]``.

    ``labels`` has one entry for each row: a number, or C zeros and ones (int8) where a row may have
    several labels. If the rows are tagged, it has one for each token: the tag at the first token of
    each word, and IGNORED at all others. ``whole`` is the number of tokens that each sequence has
    before truncation.
    """

    ids: np.ndarray[Any, np.dtype[np.int32]]
    types: np.ndarray[Any, np.dtype[np.int8]] | None
    offsets: np.ndarray[Any, np.dtype[np.int64]]
    labels: np.ndarray[Any, Any]
    whole: np.ndarray[Any, np.dtype[np.int32]]

    def __len__(self) -> int:
        return (len(self.offsets) - 1) // self.choices

    @property
    def lengths(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Tokens that the model reads of each row, with its choices padded alike, shape (N,)."""
        if self.pad_to is not None:
            return np.full(len(self), self.pad_to * self.choices, dtype=np.int64)
        longest = np.diff(self.offsets).reshape(-1, self.choices).max(1)
        return np.asarray(longest * self.choices, dtype=np.int64)

    @property
    def targets(self) -> np.ndarray[Any, Any]:
        """What predictions are compared with: labels (N,) or (N, C), or tags of all rows, (M,)."""
        return self.labels[self.labels != IGNORED] if self.tagged else self.labels

    @property
    def tag_offsets(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Where each row's tags begin and end in ``targets``, shape (N + 1,)."""
        before = np.concatenate([[0], np.cumsum(self.labels != IGNORED)])
        return np.asarray(before[self.offsets], dtype=np.int64)

    def select(self, rows: Sequence[int]) -> Encoded:
        """A copy of some rows, in that order."""
        sequences = self._sequences(rows)
        spans = [slice(self.offsets[at], self.offsets[at + 1]) for at in sequences]
        lengths = [int(span.stop - span.start) for span in spans]

        def take(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            return np.concatenate([array[span] for span in spans])

        return replace(
            self,
            ids=take(self.ids),
            types=None if self.types is None else take(self.types),
            offsets=np.concatenate([[0], np.cumsum(lengths)]),
            labels=take(self.labels) if self.tagged else self.labels[list(rows)],
            whole=self.whole[sequences],
        )

    def _sequences(self, rows: Sequence[int]) -> list[int]:
        choices = self.choices
        return [row * choices + own for row in rows for own in range(choices)]

    def labels_of(self, rows: Sequence[int]) -> Tensor:
        """The labels of some rows, (N,) or (N, C), or the tags of all their tokens in one."""
        if not self.tagged:
            return torch.from_numpy(self.labels[list(rows)])
        spans = [slice(self.offsets[at], self.offsets[at + 1]) for at in self._sequences(rows)]
        return torch.from_numpy(np.concatenate([self.labels[span] for span in spans]))

    def batch(self, rows: Sequence[int]) -> Batch:
        """Rows as tensors (N, T), padded to the longest of them or to ``pad_to``; labels (N,).

        Tagged rows have labels (N, T), and rows of several labels (N, C), in float32 (`has_tags`).
        Rows of C choices are tensors (N, C, T).
        """
        sequences = self._sequences(rows)
        spans = [(int(self.offsets[at]), int(self.offsets[at + 1])) for at in sequences]
        longest = self.pad_to or max(end - start for start, end in spans)
        shape = (len(sequences), longest)
        ids = np.full(shape, self.pad_id, dtype=np.int64)
        mask = np.full(shape, self.pad_to is not None, dtype=np.int64)
        types = np.full(shape, self.pad_type, dtype=np.int64)
        tags = np.full(shape, IGNORED, dtype=np.int64)
        for place, (start, end) in enumerate(spans):
            own = slice(longest - (end - start), None) if self.pad_left else slice(end - start)
            ids[place, own] = self.ids[start:end]
            mask[place, own] = 1
            if self.types is not None:
                types[place, own] = self.types[start:end]
            if self.tagged:
                tags[place, own] = self.labels[start:end]
        arrays: dict[str, np.ndarray[Any, Any]] = {"input_ids": ids, "attention_mask": mask}
        if self.types is not None:
            arrays["token_type_ids"] = types
        if self.choices > 1:
            arrays = {k: v.reshape(len(rows), self.choices, longest) for k, v in arrays.items()}
        own_labels = tags if self.tagged else self.labels[list(rows)]
        several = self.labels.ndim == 2
        arrays["labels"] = own_labels.astype(np.float32) if several else own_labels
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


@dataclass(frozen=True)
class EvaluationSet:
    """Tokenised validation rows of another dataset, whose labels may be in another order.

    ``outputs`` gives the index of the model's output for each of ``data.labels``; it is None if the
    outputs do not stand for labels.
    """

    name: str
    data: TaskData
    encoded: Encoded
    outputs: list[int] | None


def choose_rows(count: int, samples: int, seed: int) -> list[int]:
    """``samples`` distinct rows of ``count``, drawn with a seed; all rows if there are no more."""
    if samples >= count:
        return list(range(count))
    return sorted(np.random.default_rng(seed).choice(count, samples, replace=False).tolist())


def batches_by_length(
    lengths: np.ndarray[Any, Any],
    batch_size: int | None,
    tokens: int = BATCH_TOKENS,
    most: int | None = None,
) -> Iterator[list[int]]:
    """Batches of rows, longest first, so that there is little padding and memory peaks first.

    A batch has ``batch_size`` rows, or else as many as keep its padded size within ``tokens``, and
    never more than ``most``.
    """
    order = np.argsort(-lengths, kind="stable").tolist()
    start = 0
    while start < len(order):
        size = batch_size or max(1, tokens // max(1, int(lengths[order[start]])))
        size = min(size, most or size)
        yield order[start : start + size]
        start += size
