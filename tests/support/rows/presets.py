"""Invented rows in the shapes of WiC's, WSC's, MultiRC's, ReCoRD's and AX-g's data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from surgery.data.presets.tasks import TASKS
from surgery.io.sources import Sources

Raw = dict[str, Any]

WIC: Raw = {
    "word": "bank", "sentence1": "She sat on the bank.", "sentence2": "Banks lend money.",
    "start1": 15, "end1": 19, "start2": 0, "end2": 5, "idx": 0, "label": 0,
}  # fmt: skip
WSC: Raw = {
    "text": "The crane lifted the piano, but it was too old.", "span1_index": 3,
    "span1_text": "The piano", "span2_index": 6, "span2_text": "it", "idx": 0, "label": 0,
}  # fmt: skip
MULTIRC: Raw = {
    "paragraph": "Ada feeds two goats. They like hay.", "question": "What do goats like?",
    "answer": "Hay", "idx": {"paragraph": 3, "question": 7, "answer": 1}, "label": 1,
}  # fmt: skip
RECORD: Raw = {
    "passage": "Mayor Ida Berg met the Lund Choir.\n@highlight\nLund sang",
    "query": "Later @placeholder sang for the mayor.",
    "entities": ["Ida Berg", "Lund", "the Lund Choir"],
    "entity_spans": {"text": ["Ida Berg"], "start": [6], "end": [14]},
    "answers": ["the Lund Choir"], "idx": {"passage": 2, "query": 5},
}  # fmt: skip
AXG: Raw = {
    "premise": "The cook paid the waiter before he left.", "hypothesis": "The waiter left.",
    "idx": 7, "label": 1,
}  # fmt: skip
SHAPES: dict[str, tuple[Raw, str]] = {
    "super_glue/wic": (WIC, "label"), "super_glue/wsc": (WSC, "label"),
    "super_glue/multirc": (MULTIRC, "label"), "super_glue/record": (RECORD, "answers"),
}  # fmt: skip


def varied(name: str, count: int) -> list[Raw]:
    """Rows in a task's shape, no two alike, of both classes."""
    raw, label = SHAPES[name]
    long = {"sentence1", "text", "paragraph", "passage"}
    rows = [
        {key: f"{value} {n}" if key in long else value for key, value in raw.items()}
        for n in range(count)
    ]
    for n, row in enumerate(rows):
        if label == "label":
            row["label"] = n % 2
        if "idx" in row and isinstance(row["idx"], dict):
            row["idx"] = {**row["idx"], "question": n // 2, "query": n}
    return rows


def put(folder: Path, name: str, rows: list[Raw], kind: str = "jsonl", held: int = 2) -> Sources:
    """A mirror with the rows as a preset's files, the first ``held`` as validation."""
    task = TASKS[name]
    put_split(folder / "mirror", name, task.train, rows[held:], kind)
    put_split(folder / "mirror", name, task.validation, rows[:held], kind)
    return Sources((folder / "mirror",), cache=folder / "cache", offline=True)


def put_split(mirror: Path, name: str, split: str, rows: list[Raw], kind: str = "jsonl") -> None:
    """One split of a preset in a mirror."""
    task = TASKS[name]
    place = mirror / "datasets" / task.hub / task.config
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{split}.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
