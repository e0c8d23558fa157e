"""Checkpoints of tiny encoders as users bring them, and small tasks to load them for."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset

from surgery.data.tokens.dataset import TaskData
from surgery.io.sources import Sources
from surgery.models.blocks import encoder_of
from surgery.models.loading import LoadedModel, load_model
from surgery.models.source.resolve import local_model
from surgery.schemas.enums import Problem
from tests.support.models.encoders import tiny
from tests.support.models.tokenizers import tokenizer_of

_FOLDERS = TemporaryDirectory(prefix="surgeon-checkpoints-")  # gone with the process
TEXTS = ["a b c d e f g h", "a", "b d f h", "o n m l k j", "c a", "e e e"]
SECONDS = ["b c", "d e f g", "h", "a a a", "k l m n o", "f"]
LABELS = {
    Problem.CLASSIFICATION: ["no", "yes"],
    Problem.MULTI_LABEL: ["red", "green", "blue"],
    Problem.REGRESSION: [],
    Problem.MULTIPLE_CHOICE: [],
    Problem.TOKEN_CLASSIFICATION: ["O", "B", "I"],
}


PROBLEM_TYPES = {
    Problem.CLASSIFICATION: "single_label_classification",
    Problem.MULTI_LABEL: "multi_label_classification",
}


def task(problem: Problem = Problem.CLASSIFICATION, *, pairs: bool = False) -> TaskData:
    """Six rows of one to eight words."""
    columns: dict[str, Any] = {"text": TEXTS, "label": [0, 1, 0, 1, 1, 0]}
    if pairs:
        columns["text_pair"] = SECONDS
    if problem is Problem.REGRESSION:
        columns["label"] = [0.5, -1.0, 2.0, 0.0, 1.5, -0.5]
    if problem is Problem.MULTI_LABEL:
        columns["label"] = [[len(text) % n < 2 for n in (2, 3, 5)] for text in TEXTS]
    if problem is Problem.MULTIPLE_CHOICE:
        columns["choices"] = [[second, second[:3]] for second in SECONDS]
    if problem is Problem.TOKEN_CLASSIFICATION:
        words = [text.split() for text in TEXTS]
        columns = {"tokens": words, "label": [[len(w) % 3 for w in row] for row in words]}
    table = Dataset.from_dict(columns)
    return TaskData(
        train=table, validation=table, problem=problem, labels=LABELS[problem], metrics=()
    )


def write_checkpoint(folder: Path, kind: str, head: Problem | None = None, labels: int = 2) -> Path:
    """The encoder alone with its tokenizer, or under the head of a problem; the folder."""
    shutil.copytree(_written(kind, head, labels), folder, dirs_exist_ok=True)
    return folder


@cache
def _written(kind: str, head: Problem | None, labels: int) -> Path:
    """Made once a process, and copied: saving takes ten times as long."""
    folder = Path(_FOLDERS.name) / f"{kind} {head} {labels}"
    problem = head or Problem.CLASSIFICATION
    model: Any = tiny(kind, dtype=torch.float32, problem=problem, labels=labels)
    if len(LABELS[problem]) == labels:  # a head says which label is which
        model.config.id2label = dict(enumerate(LABELS[problem]))
        model.config.label2id = {label: index for index, label in enumerate(LABELS[problem])}
        model.config.problem_type = PROBLEM_TYPES.get(problem)
    (model if head else encoder_of(model)).save_pretrained(folder)
    tokenizer_of(kind).save_pretrained(folder)
    return folder


def loaded_from(folder: Path, data: TaskData, seed: int = 0, head: str = "auto") -> LoadedModel:
    """The checkpoint in ``folder``, loaded for a task the way jobs load it."""
    return load_model(local_model(folder), offline(folder), data, seed=seed, head=head)


def offline(folder: Path) -> Sources:
    """No mirror and no Hub; the vetted copy goes next to the folder."""
    return Sources(mirrors=(), cache=folder.parent / "cache", offline=True)
