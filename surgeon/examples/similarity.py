"""Pairs of sentences, and how similar they are from 0 to 5."""

from __future__ import annotations

import random
from collections.abc import Sequence

from surgeon.examples.wording import Row, Split

# Each line says one thing in two ways.
WHO = (
    ("A man", "A guy"),
    ("A woman", "A lady"),
    ("A boy", "A young boy"),
    ("A girl", "A little girl"),
    ("The teacher", "A teacher"),
    ("The old man", "A grandfather"),
)
DOES = (
    ("is cutting onions", "is chopping onions"),
    ("is playing the guitar", "is making music on a guitar"),
    ("is riding a bicycle", "is riding a bike"),
    ("is reading a book", "is looking into a book"),
    ("is washing a car", "is cleaning a car"),
    ("is feeding the ducks", "is giving bread to the ducks"),
    ("is painting a wall", "is putting paint on a wall"),
)
WHERE = (
    ("in the kitchen", "inside a kitchen"),
    ("in the park", "at the park"),
    ("on the beach", "by the sea"),
    ("in front of the house", "outside the house"),
    ("in the garden", "in a garden"),
)
WEIGHTS = (1.0, 3.0, 1.0)  # what is done counts most
JUDGEMENTS = (-0.4, -0.2, 0.0, 0.2, 0.4)  # people do not quite agree
HIGHEST = 5.0


def pair(chance: random.Random, _: Split) -> Row:
    """Two sentences, each part of which is the same or another, in either wording.

    Both splits draw from the same parts: what is new in validation is how they are put together.
    """
    parts = (WHO, DOES, WHERE)
    first = [chance.choice(part) for part in parts]
    alike = [chance.random() < 0.5 for _ in parts]
    second = [
        here if same else chance.choice([each for each in part if each != here])
        for here, same, part in zip(first, alike, parts, strict=True)
    ]
    score = sum(weight for weight, same in zip(WEIGHTS, alike, strict=True) if same)
    judged = min(HIGHEST, max(0.0, score + chance.choice(JUDGEMENTS)))
    return {
        "first": _worded(first, chance),
        "second": _worded(second, chance),
        "similarity": f"{judged:.1f}",
    }


def _worded(parts: Sequence[Sequence[str]], chance: random.Random) -> str:
    return " ".join(chance.choice(wordings) for wordings in parts) + "."
