"""Small labelled tables of each problem, with names of their own for the columns."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from surgery.schemas.enums import Problem

Row = dict[str, Any]
GOOD, BAD = ("good", "great", "fine", "happy"), ("bad", "awful", "poor", "sad")
PLACES, OTHERS = ("rome", "paris", "london"), ("the", "a", "city", "was", "near")


@dataclass(frozen=True)
class Labelled:
    """How the rows of a problem are made, and what an upload says of them."""

    spec: dict[str, Any]
    read: tuple[str, ...]  # the columns that a model reads
    row: Callable[[random.Random, int], Row]

    def rows(self, count: int, seed: int) -> list[Row]:
        """Rows that differ from each other."""
        chance = random.Random(seed)
        return [self.row(chance, 1000 * seed + number) for number in range(count)]


def _said(chance: random.Random, number: int) -> tuple[str, bool]:
    good = chance.random() < 0.5
    return f"a {chance.choice(GOOD if good else BAD)} film {number}", good


def _review(chance: random.Random, number: int) -> Row:
    text, good = _said(chance, number)
    return {"review": text, "headline": "seen today", "mood": "glad" if good else "sorry"}


def _score(chance: random.Random, number: int) -> Row:
    text, good = _said(chance, number)
    return {"review": text, "stars": round(good + chance.random() / 2, 3)}


def _topics(chance: random.Random, number: int) -> Row:
    words = [chance.choice(group) for group in (GOOD, PLACES) if chance.random() < 0.6]
    names = [
        name for name, group in (("praise", GOOD), ("place", PLACES)) if set(words) & set(group)
    ]
    return {"body": f"{' '.join(words)} item {number}", "tags": names}


def _words(chance: random.Random, number: int) -> Row:
    words = [chance.choice(PLACES + OTHERS) for _ in range(chance.randint(2, 6))]
    words.append(str(number))
    return {"words": words, "tags": ["B-LOC" if word in PLACES else "O" for word in words]}


def _choice(chance: random.Random, number: int) -> Row:
    pair = [chance.choice(GOOD), chance.choice(BAD)]
    chance.shuffle(pair)
    right = 0 if pair[0] in GOOD else 1
    return {"scene": f"a glad person {number}", "first": pair[0], "second": pair[1], "right": right}


LABELLED = {
    Problem.CLASSIFICATION: Labelled(
        {"columns": {"text": "review", "text_pair": "headline", "label": "mood"}},
        ("review", "headline"),
        _review,
    ),
    Problem.REGRESSION: Labelled(
        {"columns": {"text": "review", "label": "stars"}, "problem": "regression"},
        ("review",),
        _score,
    ),
    Problem.MULTI_LABEL: Labelled(
        {"columns": {"text": "body", "label": "tags"}, "problem": "multi_label"}, ("body",), _topics
    ),
    Problem.TOKEN_CLASSIFICATION: Labelled(
        {"columns": {"tokens": "words", "label": "tags"}, "problem": "token_classification"},
        ("words",),
        _words,
    ),
    Problem.MULTIPLE_CHOICE: Labelled(
        {
            "columns": {"text": "scene", "choices": ["first", "second"], "label": "right"},
            "problem": "multiple_choice",
        },
        ("scene", "first", "second"),
        _choice,
    ),
}
