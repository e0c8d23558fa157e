"""Invented rows in the shapes of the tasks of premise and hypothesis, and of their diagnostics."""

from __future__ import annotations

import random
from pathlib import Path

from surgery.data.presets.tasks import TASKS
from tests.support.rows.presets import Raw, put_split

WORDS = ("the", "a", "old", "new", "red", "cat", "dog", "house", "tree", "runs", "sleeps", "near")


def nli_rows(name: str, count: int, seed: int) -> list[Raw]:
    """Random texts, the classes in turn; two rows with one hypothesis where they are pairs."""
    task, chance = TASKS[name], random.Random(seed)
    rows = []
    for index in range(count):
        row: Raw = {"idx": index, "label": index % len(task.labels)}
        row[task.text] = " ".join(chance.choices(WORDS, k=6))
        if task.text_pair is not None:
            row[task.text_pair] = " ".join(chance.choices(WORDS, k=4))
        rows.append(row)
    return rows


def put_nli(mirror: Path) -> None:
    """MNLI with both its validation sets, RTE, CB, WNLI and the three diagnostics."""
    for name in ("glue/mnli", "super_glue/rte"):
        put_split(mirror, name, "train", nli_rows(name, 48, seed=0))
    for seed, name in enumerate(
        ["glue/mnli", "glue/mnli_mismatched", "super_glue/rte", "super_glue/cb", "glue/wnli",
         "glue/ax", "super_glue/axb", "super_glue/axg"], 1,
    ):  # fmt: skip
        put_split(mirror, name, TASKS[name].validation, nli_rows(name, 24, seed))
