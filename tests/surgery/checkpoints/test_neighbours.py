"""Full checkpoints in the packages that users take them to, which say what a prediction says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import CrossEncoder, SentenceTransformer

from surgery.checkpoints.checkpoint import write_checkpoint
from surgery.checkpoints.record import CheckpointRecord
from surgery.data.tokens.dataset import TaskData
from surgery.evaluation.prediction import Answers, given_data, predict_rows
from surgery.io.reporter import Quiet
from surgery.models.blocks import encoder_of
from surgery.models.loading import LoadedModel
from surgery.schemas.enums import Problem
from tests.support.models.checkpoints import LABELS, SECONDS, TEXTS, loaded_from
from tests.support.models.checkpoints import write_checkpoint as write_base

WORDS = [text.split() for text in TEXTS]
PAIRS = {"text": TEXTS, "text_pair": SECONDS}


def kept(folder: Path, problem: Problem, columns: dict[str, list[Any]]) -> tuple[Path, list[Any]]:
    """A full checkpoint with a head of its own, and what it predicts for the rows."""
    data = given_data(problem, LABELS[problem], columns)
    loaded = loaded_from(write_base(folder / "base", "bert"), data)
    with torch.no_grad():
        for parameter in loaded.head.values():
            parameter.mul_(20)  # so that rows differ
    _write(folder / "full", loaded, data)
    found: Any = predict_rows(loaded, data, 32, Answers(None, 3), Quiet()).predictions
    return folder / "full", found


def _write(folder: Path, loaded: LoadedModel, data: TaskData) -> None:
    record = CheckpointRecord(
        layers=[], included=[], problem=data.problem.value, labels=data.labels, metrics={},
        epoch=1, step=1,
    )  # fmt: skip
    write_checkpoint(folder, loaded, list(loaded.head), "full", record)


def scores_of(entries: list[Any]) -> list[dict[str, float]]:
    return [{each.label: each.probability for each in row.probabilities} for row in entries]


@pytest.mark.parametrize("problem", [Problem.CLASSIFICATION, Problem.MULTI_LABEL])
def test_a_pipeline_gives_the_same_probabilities(tmp_path: Path, problem: Problem) -> None:
    folder, predicted = kept(tmp_path, problem, {"text": TEXTS})
    pipeline = transformers.pipeline("text-classification", str(folder), top_k=None, device="cpu")
    for said, scores in zip(pipeline(TEXTS), scores_of(predicted), strict=True):
        assert {each["label"]: each["score"] for each in said} == pytest.approx(scores, abs=1e-6)


def test_a_pipeline_gives_the_same_values(tmp_path: Path) -> None:
    folder, predicted = kept(tmp_path, Problem.REGRESSION, {"text": TEXTS})
    pipeline = transformers.pipeline("text-classification", str(folder), device="cpu")
    values = [entry.value for entry in predicted]
    assert len(set(values)) == len(values)
    said = [each["score"] for each in pipeline(TEXTS, function_to_apply="none")]
    assert said == pytest.approx(values, abs=1e-6)


def test_a_pipeline_gives_words_the_same_labels(tmp_path: Path) -> None:
    folder, predicted = kept(tmp_path, Problem.TOKEN_CLASSIFICATION, {"tokens": WORDS})
    tagger = transformers.pipeline(
        "token-classification", str(folder), ignore_labels=[], device="cpu"
    )
    for said, entry in zip(tagger(TEXTS), predicted, strict=True):  # a token for each word
        assert [each["entity"] for each in said] == [word.label for word in entry.words]
        scores = [word.probability for word in entry.words]
        assert [float(each["score"]) for each in said] == pytest.approx(scores, abs=1e-6)


def test_a_cross_encoder_scores_pairs_alike(tmp_path: Path) -> None:
    folder, predicted = kept(tmp_path, Problem.CLASSIFICATION, PAIRS)
    encoder = CrossEncoder(str(folder), device="cpu")
    pairs = list(zip(TEXTS, SECONDS, strict=True))
    said = encoder.predict(pairs, apply_softmax=True, show_progress_bar=False)
    labels = LABELS[Problem.CLASSIFICATION]
    expected = [[scores[label] for label in labels] for scores in scores_of(predicted)]
    assert np.asarray(said) == pytest.approx(np.array(expected), abs=1e-6)


def test_a_sentence_transformer_embeds_with_the_tuned_encoder(tmp_path: Path) -> None:
    folder, _ = kept(tmp_path, Problem.CLASSIFICATION, {"text": TEXTS})
    embedder = SentenceTransformer(str(folder), device="cpu")
    said = embedder.encode(TEXTS, show_progress_bar=False)
    model: Any = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = encoder_of(model)(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    expected = (states * mask).sum(1) / mask.sum(1)
    assert said == pytest.approx(expected.numpy(), abs=1e-5)
