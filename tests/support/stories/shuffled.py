"""The examples of the how-tos with labels that belong to no text: nothing can be learned."""

from __future__ import annotations

import random
from pathlib import Path

from surgeon.examples.files import EXAMPLES, example_rows, write_rows
from surgeon.examples.wording import Row, Split


def write_shuffled(name: str, folder: Path) -> list[Path]:
    """Files for training and validation of an example, the labels of each dealt out anew."""
    paths = []
    for split in Split:
        rows = dealt_anew(example_rows(name, split), random.Random(split.value))
        paths.append(folder / f"{split.value}.{EXAMPLES[name].suffix}")
        write_rows(paths[-1], rows)
    return paths


def dealt_anew(rows: list[Row], chance: random.Random) -> list[Row]:
    """The same inputs and the same labels, in another order.

    Tags of words are dealt to words: whole rows of tags would still tell of places in a sentence.
    """
    inputs, label = list(rows[0])[:-1], list(rows[0])[-1]
    if inputs == ["tokens"]:
        tags = [tag for row in rows for tag in row[label]]
        chance.shuffle(tags)
        left = iter(tags)
        return [{**row, label: [next(left) for _ in row["tokens"]]} for row in rows]
    labels = [row[label] for row in rows]
    chance.shuffle(labels)
    return [{**row, label: each} for row, each in zip(rows, labels, strict=True)]
