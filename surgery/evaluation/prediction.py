"""Predict with a fine-tuned model: labels, values or words' labels, as evaluations decide them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from surgery.data.tokens.dataset import Encoded, TaskData
from surgery.data.tokens.tokenize import encode
from surgery.errors import ScoresNotFinite
from surgery.evaluation.evaluate import Replay, predict
from surgery.evaluation.thresholds import DEFAULT, decided
from surgery.evaluation.thresholds import probabilities as sigmoid
from surgery.io.reporter import Reporter
from surgery.models.loading import LoadedModel
from surgery.schemas.enums import Problem
from surgery.schemas.jobs.prediction import (
    LabelProbability,
    PredictedLabel,
    PredictedLabels,
    PredictedRow,
    PredictedValue,
    PredictedWord,
    PredictedWords,
    PredictionResult,
)

Array = np.ndarray[Any, Any]
DIGITS = 8  # of a probability
UNREAD = PredictedWord(label=None, probability=None)


def given_data(
    problem: Problem, labels: Sequence[str], columns: Mapping[str, list[Any]]
) -> TaskData:
    """Rows without labels as a dataset. The tag of each word is its index in the row.

    ``labels`` are those of the model; of multiple choice, the labels become the rows' choices.
    """
    rows = len(next(iter(columns.values())))
    blank: list[Any] = [0] * rows
    if problem is Problem.MULTIPLE_CHOICE:
        labels = [str(place) for place in range(len(columns["choices"][0]))]
    elif problem is Problem.REGRESSION:
        blank = [0.0] * rows
    elif problem is Problem.MULTI_LABEL:
        blank = [[0] * len(labels)] * rows
    elif problem is Problem.TOKEN_CLASSIFICATION:
        blank = [list(range(len(words))) for words in columns["tokens"]]
    table = Dataset.from_dict({**columns, "label": blank})
    return TaskData(table, table, problem, list(labels), ())


@dataclass(frozen=True)
class Answers:
    """How outputs are answered: by which thresholds, and with how many of the labels listed."""

    thresholds: Mapping[str, float] | None
    top: int


def predict_rows(
    loaded: LoadedModel, data: TaskData, max_length: int, answers: Answers, report: Reporter
) -> PredictionResult:
    """The model's predictions for the rows of ``given_data``, in their order.

    Raises Stopped between two batches, and ScoresNotFinite if an output is not finite.
    """
    began = time.perf_counter()
    report.phase("predict")
    encoded = encode(data.validation, loaded.tokenizer, max_length)
    device = next(loaded.model.parameters()).device
    logits = predict(loaded.model, encoded, device, _counting(len(encoded), report))
    if not np.isfinite(logits).all():
        raise ScoresNotFinite("the model's outputs for these rows are not finite numbers")
    return PredictionResult(
        problem=data.problem,
        labels=data.labels,
        thresholds=_thresholds(data, answers),
        predictions=_answered(logits, encoded, data, answers),
        max_length=max_length,
        truncated=_truncated(encoded),
        seconds={"predict": round(time.perf_counter() - began, 3)},
    )


def _counting(rows: int, report: Reporter) -> Replay:
    """Reports the rows of each forward pass after it."""
    done = 0

    @contextmanager
    def counted(batch: Sequence[int]) -> Iterator[None]:
        nonlocal done
        yield
        done += len(batch)
        report.step(done, rows, "rows")

    return counted


def _truncated(encoded: Encoded) -> int:
    """How many rows have a sequence that was cut."""
    cut = encoded.whole > np.diff(encoded.offsets)
    return int(cut.reshape(-1, encoded.choices).any(1).sum())


def _thresholds(data: TaskData, answers: Answers) -> dict[str, float] | None:
    if data.problem is not Problem.MULTI_LABEL:
        return None
    given = answers.thresholds or {}
    return {label: given.get(label, DEFAULT) for label in data.labels}


def _answered(
    logits: Array, encoded: Encoded, data: TaskData, answers: Answers
) -> list[PredictedRow]:
    if data.problem is Problem.REGRESSION:
        return [PredictedValue(value=float(value)) for value in logits[:, 0]]
    if data.problem is Problem.TOKEN_CLASSIFICATION:
        return _words(softmax(logits), encoded, data)
    if data.problem is Problem.MULTI_LABEL:
        thresholds = np.array(list((_thresholds(data, answers) or {}).values()))
        marks, scores = decided(logits, thresholds), sigmoid(logits)
        return [
            PredictedLabels(
                labels=[data.labels[place] for place in np.flatnonzero(own)],
                probabilities=_listed(row, data.labels, answers.top),
            )
            for own, row in zip(marks, scores, strict=True)
        ]
    return [
        PredictedLabel(
            label=data.labels[int(own.argmax())],
            probabilities=_listed(row, data.labels, answers.top),
        )
        for own, row in zip(logits, softmax(logits), strict=True)
    ]


def softmax(logits: Array) -> Array:
    """exp(z) / Σ exp(z) over the last axis, in float64."""
    shifted = logits.astype(np.float64)
    shifted = np.exp(shifted - shifted.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True))


def _listed(scores: Array, labels: Sequence[str], top: int) -> list[LabelProbability]:
    """The most probable labels; of equally probable ones the first comes first."""
    order = np.argsort(-scores, kind="stable")[:top]
    return [
        LabelProbability(label=labels[place], probability=round(float(scores[place]), DIGITS))
        for place in order
    ]


def _words(scores: Array, encoded: Encoded, data: TaskData) -> list[PredictedRow]:
    """The most probable tag of each word, from the probabilities at its first token."""
    words = encoded.targets  # the index in its row of each word that was read
    offsets = encoded.tag_offsets
    found: list[PredictedRow] = []
    for row, tokens in enumerate(data.validation["tokens"]):
        own = [UNREAD] * len(tokens)
        for place in range(*offsets[row : row + 2]):
            best = int(scores[place].argmax())
            probability = round(float(scores[place][best]), DIGITS)
            own[words[place]] = PredictedWord(label=data.labels[best], probability=probability)
        found.append(PredictedWords(words=own))
    return found
