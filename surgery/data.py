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

from surgery.likelihood import IGNORED
from surgery.schema import DatasetReport
from surgery.terms import Problem

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
        """How many numbers the head puts out for a text or a token: one a class, or one."""
        named = {Problem.CLASSIFICATION, Problem.TOKEN_CLASSIFICATION}
        return len(self.labels) if self.problem in named else 1


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
    """Tokenised rows, flat: sequence i is ``ids[offsets[i]:offsets[i + 1]]``.

    A row is one sequence, or ``choices`` sequences one after the other. ``labels`` has one entry a
    row; where the rows are ``tagged``, one a token: a tag at the first token of each word, IGNORED
    at all others.

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
    choices: int = 1
    tagged: bool = False

    def __len__(self) -> int:
        return (len(self.offsets) - 1) // self.choices

    @property
    def lengths(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Tokens of each row that the model takes in, its choices padded alike, shape (N,)."""
        if self.pad_to is not None:
            return np.full(len(self), self.pad_to * self.choices, dtype=np.int64)
        longest = np.diff(self.offsets).reshape(-1, self.choices).max(1)
        return np.asarray(longest * self.choices, dtype=np.int64)

    @property
    def targets(self) -> np.ndarray[Any, Any]:
        """What `predict` is measured against: labels (N,), or the tags of all rows, (M,)."""
        return self.labels[self.labels != IGNORED] if self.tagged else self.labels

    @property
    def tag_offsets(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Where each row's tags begin and end in ``targets``, shape (N + 1,)."""
        before = np.concatenate([[0], np.cumsum(self.labels != IGNORED)])
        return np.asarray(before[self.offsets], dtype=np.int64)

    def batch(self, rows: Sequence[int]) -> Batch:
        """Rows as tensors (N, T), padded to their own longest or to ``pad_to``; labels (N,).

        Tagged rows have labels (N, T); rows of C choices are tensors (N, C, T).
        """
        sequences = [row * self.choices + own for row in rows for own in range(self.choices)]
        longest = int(self.lengths[list(rows)].max()) // self.choices
        shape = (len(sequences), longest)
        ids = np.full(shape, self.pad_id, dtype=np.int64)
        mask = np.full(shape, self.pad_to is not None, dtype=np.int64)
        types = np.full(shape, self.pad_type, dtype=np.int64)
        tags = np.full(shape, IGNORED, dtype=np.int64)
        for place, sequence in enumerate(sequences):
            start, end = self.offsets[sequence], self.offsets[sequence + 1]
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
        arrays["labels"] = tags if self.tagged else self.labels[list(rows)]
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def encode(
    table: Dataset, tokenizer: Any, max_length: int, rows: Sequence[int] | None = None
) -> Encoded:
    """Tokenise rows of a table with the model's own tokenizer, cut at ``max_length`` tokens.

    A choice is the pair of the text and the choice, which follows the question where there is one:
    the form of the SuperGLUE baselines and of SWAG.
    """
    chosen = table if rows is None else table.select(rows)
    tagged = "tokens" in chosen.column_names
    choices = len(chosen[0]["choices"]) if "choices" in chosen.column_names else 1
    spaced = tagged and _loses_spaces(tokenizer)
    ids: list[np.ndarray[Any, Any]] = []
    types: list[np.ndarray[Any, Any]] = []
    tags: list[np.ndarray[Any, Any]] = []
    lengths: list[int] = []
    for chunk in chosen.iter(batch_size=max(1, TOKENIZE_ROWS // choices)):
        tokens = tokenizer(
            *_texts(chunk, spaced=spaced),
            truncation=True, max_length=max_length, is_split_into_words=tagged,
        )  # fmt: skip
        lengths += [len(row) for row in tokens["input_ids"]]
        ids += [np.asarray(row, dtype=np.int32) for row in tokens["input_ids"]]
        types += [np.asarray(row, dtype=np.int8) for row in tokens.get("token_type_ids", [])]
        if tagged:
            words = map(tokens.word_ids, range(len(chunk["label"])))
            tags += map(_at_first_tokens, words, chunk["label"])
    return Encoded(
        ids=np.concatenate(ids),
        types=np.concatenate(types) if types else None,
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        labels=np.concatenate(tags) if tagged else np.asarray(chosen["label"]),
        choices=choices,
        tagged=tagged,
        pad_id=tokenizer.pad_token_id,
        pad_type=tokenizer.pad_token_type_id,
        pad_left=tokenizer.padding_side == "left",
        pad_to=_pad_to(tokenizer, max_length),
    )


def _texts(chunk: dict[str, list[Any]], *, spaced: bool) -> list[list[Any]]:
    """What the tokenizer is given: texts, or first and second texts."""
    if "tokens" in chunk:
        if not spaced:
            return [chunk["tokens"]]
        return [[[row[0], *(f" {word}" for word in row[1:])] for row in chunk["tokens"]]]
    if "choices" not in chunk:
        return [chunk[name] for name in ("text", "text_pair") if name in chunk]
    questions = chunk.get("text_pair", [""] * len(chunk["choices"]))
    seconds = [
        f"{question} {choice}" if question else choice
        for question, choices in zip(questions, chunk["choices"], strict=True)
        for choice in choices
    ]
    if "text" not in chunk:
        return [seconds]
    each = len(chunk["choices"][0])
    return [[text for text in chunk["text"] for _ in range(each)], seconds]


def _loses_spaces(tokenizer: Any) -> bool:
    """Whether words must carry the space before them to be read as in a text.

    So it is with byte-level tokenizers (RoBERTa, ModernBERT), which take a list of words for the
    pieces of one.
    """
    text = tokenizer("a b")["input_ids"]
    words, spaced = (
        tokenizer(split, is_split_into_words=True)["input_ids"]
        for split in (["a", "b"], ["a", " b"])
    )
    return bool(words != text and spaced == text)


def _at_first_tokens(words: list[int | None], tags: list[int]) -> np.ndarray[Any, Any]:
    """The tag of each word at its first token, IGNORED at every other place, shape (T,)."""
    found = np.full(len(words), IGNORED, dtype=np.int64)
    before = None
    for place, word in enumerate(words):
        if word is not None and word != before:
            found[place] = tags[word]
        before = word
    return found


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
    lengths: np.ndarray[Any, Any],
    batch_size: int | None,
    tokens: int = BATCH_TOKENS,
    most: int | None = None,
) -> Iterator[list[int]]:
    """Rows in order of length, longest first, so padding is small and memory peaks at once.

    A batch holds ``batch_size`` rows, or else as many as keep its padded size within ``tokens``;
    never more than ``most``.
    """
    order = np.argsort(-lengths, kind="stable").tolist()
    start = 0
    while start < len(order):
        size = batch_size or max(1, tokens // max(1, int(lengths[order[start]])))
        size = min(size, most or size)
        yield order[start : start + size]
        start += size
