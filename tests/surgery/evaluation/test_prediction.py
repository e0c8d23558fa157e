"""Predictions of tiny models, beside one forward pass a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from surgery.data.tokens.dataset import TaskData
from surgery.errors import ScoresNotFinite
from surgery.evaluation.prediction import Answers, given_data, predict_rows
from surgery.io.reporter import Quiet, Stopped
from surgery.models.loading import LoadedModel
from surgery.schemas.enums import Problem
from surgery.schemas.jobs.prediction import PredictionResult
from tests.support.models.checkpoints import LABELS, SECONDS, TEXTS, loaded_from, write_checkpoint

WORDS = [text.split() for text in TEXTS]


def columns_of(problem: Problem) -> dict[str, list[Any]]:
    if problem is Problem.TOKEN_CLASSIFICATION:
        return {"tokens": WORDS}
    if problem is Problem.MULTIPLE_CHOICE:
        return {"text": TEXTS, "choices": [[second, second[:3], "a"] for second in SECONDS]}
    return {"text": TEXTS}


def opened(folder: Path, problem: Problem, kind: str = "bert") -> tuple[LoadedModel, TaskData]:
    data = given_data(problem, LABELS[problem], columns_of(problem))
    return loaded_from(write_checkpoint(folder / kind, kind), data), data


def predicted(loaded: LoadedModel, data: TaskData, **more: Any) -> PredictionResult:
    answers = Answers(more.get("thresholds"), more.get("top", 5))
    return predict_rows(loaded, data, more.get("length", 32), answers, more.get("report", Quiet()))


@torch.no_grad()
def logits_of(loaded: LoadedModel, *texts: str) -> torch.Tensor:
    model: Any = loaded.model
    return model(**loaded.tokenizer(*texts, return_tensors="pt")).logits[0].double()


@pytest.mark.parametrize("kind", ["bert", "xlnet"])  # which pads on the left
def test_labels_are_those_of_single_passes(tmp_path: Path, kind: str) -> None:
    loaded, data = opened(tmp_path, Problem.CLASSIFICATION, kind)
    found: Any = predicted(loaded, data, top=1).predictions
    for text, entry in zip(TEXTS, found, strict=True):
        scores = logits_of(loaded, text).softmax(0)
        assert entry.label == data.labels[int(scores.argmax())]
        [first] = entry.probabilities
        assert (first.label, first.probability) == (
            entry.label, pytest.approx(float(scores.max()), abs=1e-6),
        )  # fmt: skip


def test_values_and_label_sets(tmp_path: Path) -> None:
    loaded, data = opened(tmp_path / "value", Problem.REGRESSION)
    values = [entry.value for entry in predicted(loaded, data).predictions]  # type: ignore[union-attr]
    expected = [float(logits_of(loaded, text)[0]) for text in TEXTS]
    assert values == pytest.approx(expected, abs=1e-6)
    loaded, data = opened(tmp_path / "several", Problem.MULTI_LABEL)
    limits = {"red": 0.0, "green": 1.0}
    result: Any = predicted(loaded, data, thresholds=limits, top=3)
    assert result.thresholds == {**limits, "blue": 0.5}
    for text, entry in zip(TEXTS, result.predictions, strict=True):
        scores = dict(zip(data.labels, logits_of(loaded, text).sigmoid().tolist(), strict=True))
        known = {each.label: each.probability for each in entry.probabilities}
        assert known == pytest.approx(scores, abs=1e-6)
        assert list(known) == sorted(known, key=lambda name: -known[name])
        assert entry.labels == ["red", *(["blue"] if scores["blue"] >= 0.5 else [])]


def test_choices_are_named_by_their_index(tmp_path: Path) -> None:
    loaded, data = opened(tmp_path, Problem.MULTIPLE_CHOICE)
    result: Any = predicted(loaded, data)
    assert result.labels == ["0", "1", "2"]
    for entry in result.predictions:
        assert entry.label == entry.probabilities[0].label
        assert sum(each.probability for each in entry.probabilities) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_words_that_were_not_read_have_no_label(tmp_path: Path, kind: str) -> None:
    loaded, data = opened(tmp_path, Problem.TOKEN_CLASSIFICATION, kind)
    whole: Any = predicted(loaded, data)
    assert [len(entry.words) for entry in whole.predictions] == [len(words) for words in WORDS]
    assert whole.truncated == 0
    assert {word.label for entry in whole.predictions for word in entry.words} <= set(data.labels)
    cut: Any = predicted(loaded, data, length=5)  # two of them are special
    read = [sum(word.label is not None for word in entry.words) for entry in cut.predictions]
    assert read == [min(3, len(words)) for words in WORDS]
    assert cut.truncated == sum(len(words) > 3 for words in WORDS)
    assert all(word.label is None for word in cut.predictions[0].words[3:])


class Stopping(Quiet):
    """Stops after the first rows."""

    def step(self, done: int, total: int | None, unit: str) -> None:
        assert (done > 0, total, unit) == (True, len(TEXTS), "rows")
        raise Stopped(resumable=False)


def test_it_stops_between_batches_and_refuses_what_is_not_finite(tmp_path: Path) -> None:
    loaded, data = opened(tmp_path, Problem.CLASSIFICATION)
    with pytest.raises(Stopped):
        predicted(loaded, data, report=Stopping())
    with torch.no_grad():
        next(iter(loaded.head.values())).fill_(torch.inf)
    with pytest.raises(ScoresNotFinite, match="not finite"):
        predicted(loaded, data)
