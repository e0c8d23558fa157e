"""A mirror with fewer training rows: a seeded subset, the validation rows whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from surgery.data import choose_rows
from surgery.errors import DatasetNotFound
from surgery.files import count_rows, format_of, read_rows
from surgery.references import resolve_dataset
from surgery.sources import Sources
from surgery.tasks import TASKS


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
