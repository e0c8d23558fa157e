"""Tasks and models small enough to be ranked in milliseconds, in float64."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from surgeon.demo.agreement import LABELS, Example, generate
from surgery.data.presets.tasks import metrics_for
from surgery.data.tokens.dataset import TaskData
from surgery.models.blocks import find_blocks, head_parameters
from surgery.models.loading import LoadedModel
from surgery.models.source.resolve import ModelSource
from surgery.ranking.ranking import rank_layers
from surgery.schemas.enums import Problem
from surgery.schemas.jobs.ranking import LayerScore, RankingOptions, RankingResult, Stability
from tests.support.models.encoders import tiny
from tests.support.models.tokenizers import LETTERS, tokenizer_of

SOURCE = ModelSource("toy", "mirror", None, "sha256:0", {"model_type": "bert"}, ())
QUICK: dict[str, Any] = {"model_prior": False, "bootstrap": 200}
NAMES = {
    Problem.CLASSIFICATION: ["no", "yes"],
    Problem.MULTI_LABEL: ["a", "e", "o"],
    Problem.TOKEN_CLASSIFICATION: ["O", "B", "I"],
}


def toy_data(
    rows: int = 40, validation: int = 12, problem: Problem = Problem.CLASSIFICATION, seed: int = 0
) -> TaskData:
    """Rows of 1 to 12 letters, no two alike; the label is whether there is an ``a``."""
    texts = _texts(rows + validation, random.Random(seed))
    labels = NAMES.get(problem, [])
    return TaskData(
        train=_table(texts[:rows], problem),
        validation=_table(texts[rows:], problem),
        problem=problem,
        labels=labels,
        metrics=tuple(metrics_for(problem, labels)),
    )


def _texts(count: int, chance: random.Random) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        found[" ".join(chance.choices(LETTERS, k=chance.randint(1, 12)))] = None
    return list(found)


def _table(texts: list[str], problem: Problem) -> Dataset:
    if problem is Problem.TOKEN_CLASSIFICATION:
        words = [text.split() for text in texts]
        return Dataset.from_dict(
            {"tokens": words, "label": [[LETTERS.index(w) % 3 for w in row] for row in words]}
        )
    labels: list[Any] = [int("a" in text) for text in texts]
    if problem is Problem.MULTIPLE_CHOICE:
        choices = [["b", "a"] for _ in texts]  # which one does the text hold?
        return Dataset.from_dict({"text": texts, "choices": choices, "label": labels})
    if problem is Problem.REGRESSION:
        labels = [len(text) / 10 for text in texts]
    if problem is Problem.MULTI_LABEL:
        labels = [[int(letter in text) for letter in NAMES[problem]] for text in texts]
    return Dataset.from_dict({"text": texts, "label": labels})


def toy_model(
    kind: str = "bert",
    *,
    new: bool = False,
    problem: Problem = Problem.CLASSIFICATION,
    dtype: torch.dtype = torch.float64,
) -> LoadedModel:
    """A random encoder with a head; ``new`` says that the checkpoint did not hold the head."""
    labels = len(NAMES.get(problem, [""]))
    model = tiny(kind, labels=labels, problem=problem, dtype=dtype)
    drawn = sorted(head_parameters(model)) if new else []
    return LoadedModel(
        SOURCE, model, tokenizer_of(kind), find_blocks(model), drawn, Path("nowhere")
    )


def rank(loaded: LoadedModel | None = None, rows: int = 40, **given: Any) -> RankingResult:
    """A quick ranking of a toy on all rows, unless told otherwise."""
    options = RankingOptions(**{**QUICK, "samples": rows, **given})
    return rank_layers(loaded or toy_model(), toy_data(rows), options)


def by_index(result: RankingResult) -> list[float]:
    """Scores from the lowest layer up."""
    return [layer.score for layer in sorted(result.layers, key=lambda layer: layer.index)]


def everything_is_finite(layers: list[LayerScore], stability: Stability) -> bool:
    """Whether no number of a result is NaN or infinite."""
    numbers = [number for layer in layers for number in (layer.score, layer.share)]
    numbers += [bound for layer in layers for bound in layer.ci or ()]
    numbers += [share for layer in layers for share in (layer.p_top_k or {}).values()]
    numbers += [stability.split_half_kendall_tau or 0.0, stability.rank_confidence or 0.0]
    return bool(np.isfinite(numbers).all())


def sentences(rows: int, seed: int = 0) -> TaskData:
    """Generated English: does the verb agree with its subject? A sixth is held out."""
    train, validation = generate(rows, seed)
    return TaskData(
        train=_sentence_table(train),
        validation=_sentence_table(validation),
        problem=Problem.CLASSIFICATION,
        labels=list(LABELS),
        metrics=("accuracy",),
    )


def _sentence_table(examples: list[Example]) -> Dataset:
    return Dataset.from_dict({
        "text": [example.sentence for example in examples],
        "label": [LABELS.index(example.label) for example in examples],
    })  # fmt: skip
