"""From stored rows to padded batches: tokenise once, batch by length, mask the padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from surgery.schema import DatasetReport
from surgery.spec import Problem

Batch = dict[str, Tensor]
TOKENIZE_ROWS = 1000  # rows handed to the fast tokenizer at once
BATCH_TOKENS = 4096  # padded tokens a batch: large enough for two cores, small enough for 8 GiB


@dataclass(frozen=True)
class TaskData:
    """A dataset as jobs use it: two memory-mapped tables and what their labels mean."""

    train: Dataset
    validation: Dataset
    problem: Problem
    labels: list[str]
    metrics: tuple[str, ...]

    @property
    def outputs(self) -> int:
        """How many numbers the head puts out: one a class, or one."""
        return len(self.labels) if self.problem is Problem.CLASSIFICATION else 1


def open_data(folder: Path, report: DatasetReport, metrics: Sequence[str]) -> TaskData:
    """Memory-map the two splits of an ingested dataset."""
    return TaskData(
        train=Dataset.from_file(str(folder / "train.arrow")),
        validation=Dataset.from_file(str(folder / "validation.arrow")),
        problem=report.problem,
        labels=report.labels,
        metrics=tuple(metrics),
    )


@dataclass(frozen=True)
class Encoded:
    """Tokenised rows, flat: row i is ``ids[offsets[i]:offsets[i + 1]]``.

    ``pad_*`` is how the model's tokenizer fills a row: with which token and token type, and on
    which side. ``pad_to`` is for a model that takes no mask: its rows are all filled up to that
    many tokens, and the padding counts as tokens of the row.
    """

    ids: np.ndarray[Any, np.dtype[np.int32]]
    types: np.ndarray[Any, np.dtype[np.int8]] | None
    offsets: np.ndarray[Any, np.dtype[np.int64]]
    labels: np.ndarray[Any, Any]
    pad_id: int
    pad_type: int = 0
    pad_left: bool = False
    pad_to: int | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Tokens of each row that the model takes in, shape (N,)."""
        if self.pad_to is not None:
            return np.full(len(self), self.pad_to, dtype=np.int64)
        return np.diff(self.offsets)

    def batch(self, rows: Sequence[int]) -> Batch:
        """Rows as tensors (N, T), padded to their own longest or to ``pad_to``; labels (N,)."""
        longest = int(self.lengths[list(rows)].max())
        ids = np.full((len(rows), longest), self.pad_id, dtype=np.int64)
        mask = np.full((len(rows), longest), self.pad_to is not None, dtype=np.int64)
        types = np.full((len(rows), longest), self.pad_type, dtype=np.int64)
        for place, row in enumerate(rows):
            start, end = self.offsets[row], self.offsets[row + 1]
            own = slice(longest - (end - start), None) if self.pad_left else slice(end - start)
            ids[place, own] = self.ids[start:end]
            mask[place, own] = 1
            if self.types is not None:
                types[place, own] = self.types[start:end]
        batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        if self.types is not None:
            batch["token_type_ids"] = torch.from_numpy(types)
        batch["labels"] = torch.from_numpy(self.labels[list(rows)])
        return batch


def encode(
    table: Dataset, tokenizer: Any, max_length: int, rows: Sequence[int] | None = None
) -> Encoded:
    """Tokenise rows of a table with the model's own tokenizer, cut at ``max_length`` tokens."""
    chosen = table if rows is None else table.select(rows)
    paired = "text_pair" in chosen.column_names
    ids: list[np.ndarray[Any, Any]] = []
    types: list[np.ndarray[Any, Any]] = []
    lengths: list[int] = []
    for chunk in chosen.iter(batch_size=TOKENIZE_ROWS):
        texts = (chunk["text"], chunk["text_pair"]) if paired else (chunk["text"],)
        tokens = tokenizer(*texts, truncation=True, max_length=max_length)
        lengths += [len(row) for row in tokens["input_ids"]]
        ids += [np.asarray(row, dtype=np.int32) for row in tokens["input_ids"]]
        types += [np.asarray(row, dtype=np.int8) for row in tokens.get("token_type_ids", [])]
    return Encoded(
        ids=np.concatenate(ids),
        types=np.concatenate(types) if types else None,
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        labels=np.asarray(chosen["label"]),
        pad_id=tokenizer.pad_token_id,
        pad_type=tokenizer.pad_token_type_id,
        pad_left=tokenizer.padding_side == "left",
        pad_to=_pad_to(tokenizer, max_length),
    )


def _pad_to(tokenizer: Any, max_length: int) -> int | None:
    """A model without a mask (FNet) sees padding: it gets as much in every batch."""
    if "attention_mask" in tokenizer.model_input_names:
        return None
    return min(max_length, int(tokenizer.model_max_length))


def choose_rows(count: int, samples: int, seed: int) -> list[int]:
    """``samples`` distinct rows of ``count``, seeded; all of them, once each, when fewer."""
    if samples >= count:
        return list(range(count))
    return sorted(np.random.default_rng(seed).choice(count, samples, replace=False).tolist())


def batches_by_length(
    lengths: np.ndarray[Any, Any], batch_size: int | None, tokens: int = BATCH_TOKENS
) -> Iterator[list[int]]:
    """Rows in order of length, longest first, so padding is small and memory peaks at once.

    A batch holds ``batch_size`` rows, or else as many as keep its padded size within ``tokens``.
    """
    order = np.argsort(-lengths, kind="stable").tolist()
    start = 0
    while start < len(order):
        size = batch_size or max(1, tokens // max(1, int(lengths[order[start]])))
        yield order[start : start + size]
        start += size
