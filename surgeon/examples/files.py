"""Writes the examples to files: one for training, one for validation."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from surgeon.examples.entities import sentence
from surgeon.examples.questions import question
from surgeon.examples.similarity import pair
from surgeon.examples.tags import review
from surgeon.examples.tickets import ticket
from surgeon.examples.wording import Row, Split, different

VALIDATION_ROWS = 100
SEED = 0


@dataclass(frozen=True)
class Example:
    """How one row is drawn, the format of the files, and how many rows there are to train on."""

    draw: Callable[[random.Random, Split], Row]
    suffix: str
    train_rows: int = 240


EXAMPLES = {
    "tickets": Example(ticket, "csv"),
    "similarity": Example(pair, "tsv"),
    "entities": Example(sentence, "jsonl", train_rows=160),
    "tags": Example(review, "jsonl"),
    "questions": Example(question, "csv"),
}


def example_rows(name: str, split: Split) -> list[Row]:
    """The rows of one split, always the same. Raises KeyError if there is no such example."""
    example = EXAMPLES[name]
    chance = random.Random(f"{SEED} {name} {split.value}")  # noqa: S311 - no secret
    count = example.train_rows if split is Split.TRAIN else VALIDATION_ROWS
    return list(islice(different(lambda own: example.draw(own, split), chance), count))


def write_example(name: str, folder: Path) -> list[Path]:
    """Write ``<name>.<suffix>`` and ``<name>-validation.<suffix>``. Raises KeyError and OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    suffix = EXAMPLES[name].suffix
    paths = [folder / f"{name}.{suffix}", folder / f"{name}-validation.{suffix}"]
    for path, split in zip(paths, Split, strict=True):
        write_rows(path, example_rows(name, split))
    return paths


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows in the format that the file's name says: csv, tsv or jsonl."""
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            return
        delimiter = "\t" if path.suffix == ".tsv" else ","
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
