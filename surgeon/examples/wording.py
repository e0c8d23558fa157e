"""What the generators share: phrases of a split, and texts that are all different."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import Any, TypeVar

Row = dict[str, Any]
Phrase = TypeVar("Phrase")
VALIDATION_PART = 3  # one phrase in three


class Split(StrEnum):
    """Which rows a text is among."""

    TRAIN = "train"
    VALIDATION = "validation"


def of_split(phrases: Sequence[Phrase], split: Split) -> Sequence[Phrase]:
    """The phrases of one split: the last third is in validation alone.

    So what is measured is what a model makes of words that it was not trained on.
    """
    kept_back = len(phrases) // VALIDATION_PART
    return phrases[:-kept_back] if split is Split.TRAIN else phrases[-kept_back:]


def words(listed: str) -> Sequence[str]:
    """The words of a text."""
    return listed.split()


def different(draw: Callable[[random.Random], Row], chance: random.Random) -> Iterator[Row]:
    """Rows without end, no two with the same inputs. A row's label is its last value."""
    seen: set[str] = set()
    while True:
        row = draw(chance)
        inputs = repr(list(row.values())[:-1])
        if inputs not in seen:
            seen.add(inputs)
            yield row
