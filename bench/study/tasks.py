"""The study's tasks: presets of GLUE and SuperGLUE, and two tasks that are made here.

`agreement` is the demo's generated task. `question words` is a task of many classes: with which of
ten words a question of QNLI begins, which is taken out of it; its classes are as large as each
other where QNLI has enough questions.
"""

from __future__ import annotations

import csv
import os
import random
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from surgeon.demo.agreement import write_csv
from surgery.data.files.source import format_of
from surgery.data.ingest.ingest import ingest
from surgery.data.presets.tasks import metrics_for
from surgery.data.references import materialise, resolve_dataset
from surgery.data.tokens.dataset import TaskData, choose_rows, open_data
from surgery.io.sources import Sources

Writer = Callable[[Path], tuple[Path, Path]]
AGREEMENT, QUESTION_WORDS = "agreement", "question words"
# From the shortest texts to the longest, so that a study cut short has whole tasks.
TASKS = (
    *(AGREEMENT, "glue/cola", QUESTION_WORDS, "glue/sst2", "super_glue/wic", "glue/stsb"),
    *("glue/qnli", "glue/mrpc", "glue/rte", "super_glue/boolq", "super_glue/multirc"),
)
WORDS = (
    "how long", "how many", "how much", "how", "what", "when", "where", "which", "who", "why",
)  # fmt: skip
BEGINS = re.compile(rf"({'|'.join(WORDS)})\b", re.IGNORECASE)  # the longest are tried first
GAP = "___"
PER_CLASS = {"train": 100, "validation": 25}


def mirrors_named() -> tuple[Path, ...]:
    """The folders that SURGEON_MIRROR_DIR names."""
    named = os.environ.get("SURGEON_MIRROR_DIR", "").split(os.pathsep)
    return tuple(Path(part) for part in named if part)


def open_task(task: str, sources: Sources) -> TaskData:
    """All rows of a task, as a dataset of the library."""
    if task == AGREEMENT:
        return _made(task, sources, write_csv)
    if task == QUESTION_WORDS:
        return _made(task, sources, lambda folder: write_question_words(folder, sources))
    source = resolve_dataset(task, sources)
    folder, report = materialise(source, sources)
    return open_data(folder, report, source.metrics)


def with_rows(data: TaskData, rows: int, validation: int, seed: int) -> TaskData:
    """A task with at most so many rows: those of train drawn by the seed, those of validation not.

    The rows of validation are the same for every seed.
    """
    drawn = np.random.default_rng(seed).permutation(len(data.train))[:rows]
    held = choose_rows(len(data.validation), validation, 0)
    train, rest = data.train.select(drawn), data.validation.select(held)
    return replace(data, train=train, validation=rest, fingerprint=None)


def _made(task: str, sources: Sources, write: Writer) -> TaskData:
    """Write a task's two files, and ingest them as an upload would be."""
    with tempfile.TemporaryDirectory(dir=sources.cache) as scratch:
        train, validation = write(Path(scratch))
        folder = Path(scratch) / "data"
        report = ingest(
            train,
            validation,
            folder,
            train_format=format_of(train.name),
            train_name=train.name,
            validation_format=format_of(validation.name),
            validation_name=validation.name,
        )
        target = sources.cache / task / report.fingerprint.removeprefix("sha256:")
        if not target.is_dir():
            target.parent.mkdir(exist_ok=True)
            shutil.move(folder, target)
    return open_data(target, report, metrics_for(report.problem, report.labels))


def write_question_words(folder: Path, sources: Sources) -> tuple[Path, Path]:
    """Write train and validation as CSV files; no question is in both."""
    data = open_task("glue/qnli", sources)
    paths = []
    seen: set[str] = set()
    for split, rows in (("validation", data.validation), ("train", data.train)):
        questions = [text for text in dict.fromkeys(rows["text"]) if text not in seen]
        seen |= set(questions)
        paths.append(folder / f"{split}.csv")
        with paths[-1].open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows(without_first_word(questions, PER_CLASS[split]))
    return paths[1], paths[0]


def without_first_word(questions: Iterable[str], per_class: int) -> list[tuple[str, str]]:
    """Questions with a gap for their first word, and the word: the first of each, then shuffled."""
    found: dict[str, list[str]] = {word: [] for word in WORDS}
    for question in questions:
        begins = BEGINS.match(question)
        if begins and len(found[begins[1].lower()]) < per_class:
            found[begins[1].lower()].append(f"{GAP}{question[begins.end() :]}")
    pairs = [(text, word) for word, texts in found.items() for text in texts]
    random.Random(0).shuffle(pairs)
    return pairs
