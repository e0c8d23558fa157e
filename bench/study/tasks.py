"""The study's tasks: presets of GLUE and SuperGLUE, and two tasks that are made here.

`agreement` is the demo's generated task. `prepositions` is a task of many classes: which of twenty
prepositions was taken out of a sentence of MNLI; its classes are as large as each other where MNLI
has enough sentences.
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
AGREEMENT, PREPOSITIONS = "agreement", "prepositions"
# From the shortest texts to the longest, so that a study cut short has whole tasks.
TASKS = (
    *(AGREEMENT, "glue/cola", "glue/sst2", "super_glue/wic", PREPOSITIONS, "glue/stsb"),
    *("glue/qnli", "glue/mrpc", "glue/rte", "super_glue/boolq", "super_glue/multirc"),
)
ANSWERS = (
    *("of", "in", "to", "for", "with", "on", "at", "from", "by", "about", "as", "into", "like"),
    *("through", "after", "over", "between", "without", "under", "before"),
)
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
    if task == PREPOSITIONS:
        return _made(task, sources, lambda folder: write_prepositions(folder, sources))
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


def write_prepositions(folder: Path, sources: Sources) -> tuple[Path, Path]:
    """Write train and validation as CSV files; no sentence is in both."""
    data = open_task("glue/mnli", sources)
    paths = []
    for split, rows in (("train", data.train), ("validation", data.validation)):
        paths.append(folder / f"{split}.csv")
        with paths[-1].open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            texts = [*rows["text"], *rows["text_pair"]]
            writer.writerows(cloze(texts, PER_CLASS[split]))
    return paths[0], paths[1]


def cloze(sentences: Iterable[str], per_class: int) -> list[tuple[str, str]]:
    """Sentences with a gap and the word that stood there, at most ``per_class`` for each word.

    A sentence is used once. The word that the fewest sentences hold chooses first.
    """
    usable = [text for text in dict.fromkeys(sentences) if 30 <= len(text) <= 160]
    places = {word: _places(word, usable) for word in ANSWERS}
    found: dict[str, tuple[str, str]] = {}
    for word in sorted(ANSWERS, key=lambda each: len(places[each])):
        free = [text for text in places[word] if text not in found][:per_class]
        for text in free:
            start, end = places[word][text]
            found[text] = (f"{text[:start]}{GAP}{text[end:]}", word)
    pairs = list(found.values())
    random.Random(0).shuffle(pairs)
    return pairs


def _places(word: str, sentences: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Where the word first stands in each sentence that holds it."""
    found = ((text, re.search(rf"\b{word}\b", text)) for text in sentences)
    return {text: place.span() for text, place in found if place}
