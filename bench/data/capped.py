"""A mirror with fewer training rows: a seeded subset, the validation rows whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from bench.fisher.cases import ROWS_OF, sentences, source_of
from surgery.data.files.read import count_rows, read_rows
from surgery.data.files.source import format_of
from surgery.data.presets.tasks import TASKS
from surgery.data.references import resolve_dataset
from surgery.data.tokens.dataset import choose_rows
from surgery.errors import DatasetNotFound
from surgery.io.sources import Sources


def held_presets(sources: Sources) -> list[str]:
    """The presets to train on whose files the mirrors hold."""
    trained = [task.name for task in TASKS.values() if task.train_on is None]
    return [name for name in trained if _held(name, sources)]


def _held(name: str, sources: Sources) -> bool:
    try:
        resolve_dataset(name, sources)
    except DatasetNotFound:
        return False
    return True


def write_capped(name: str, sources: Sources, mirror: Path, rows: int, seed: int) -> None:
    """Write a preset's two files into ``mirror``, of train only ``rows`` rows (0: all).

    The rows are the benchmark's raw ones: a query of ReCoRD is one.
    """
    task = TASKS[name]
    files = resolve_dataset(name, sources).files
    folder = mirror / "datasets" / task.hub / task.config
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(files["validation"], folder / files["validation"].name)
    train, kind = files["train"], format_of(files["train"].name)
    if not rows:
        shutil.copyfile(train, folder / train.name)
        return
    kept = set(choose_rows(count_rows(train, kind), rows, seed))
    with (folder / f"{task.train}.jsonl").open("w", encoding="utf-8") as file:
        for place, (_, row) in enumerate(read_rows(train, kind)):
            if place in kept:
                file.write(json.dumps(row) + "\n")


def mirrors_held(cache: Path) -> Sources:
    """The mirrors that SURGEON_MIRROR_DIR names, and no Hub."""
    named = os.environ.get("SURGEON_MIRROR_DIR", "").split(os.pathsep)
    return Sources(tuple(Path(part) for part in named if part), cache, offline=True)


def write_cola(mirror: Path, sources: Sources, rows: int, validation: int) -> str:
    """A mirror of CoLA's first rows where ``sources`` hold it, else of made-up ones; says which."""
    task = TASKS["glue/cola"]
    folder = mirror / "datasets" / task.hub / task.config
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {task.train: rows, task.validation: validation}
    if _held(task.name, sources):
        files = resolve_dataset(task.name, sources).files
        for split, path in zip(sizes, (files["train"], files["validation"]), strict=True):
            read = (row for _, row in read_rows(path, format_of(path.name)))
            _write(folder / f"{split}.jsonl", islice(read, sizes[split]))
        return _tell(mirror, source_of(files["train"].parents[4]))
    source, table = sentences(rows + validation)
    made = [{task.text: row["text"], task.label: row["label"]} for row in table]
    _write(folder / f"{task.train}.jsonl", made[:rows])
    _write(folder / f"{task.validation}.jsonl", made[rows:])
    return _tell(mirror, source)


def _tell(mirror: Path, source: str) -> str:
    """Note beside rows that replace CoLA's which rows they are."""
    (mirror / ROWS_OF).write_text(source)
    return source


def _write(path: Path, rows: Iterable[Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
