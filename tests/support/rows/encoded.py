"""Rows of every problem as they are stored, and whether two encodings of them are the same."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from surgery.data.tokens.dataset import Encoded

ROWS: dict[str, list[dict[str, Any]]] = {
    "text": [{"text": "a b c d e f", "label": 1}, {"text": "a", "label": 0}],
    "regression": [{"text": "a b", "label": 0.5}, {"text": "c d e", "label": -1.0}],
    "sets": [{"text": "a b", "label": [0, 1, 1]}, {"text": "c", "label": [0, 0, 0]}],
    "pair": [
        {"text": "a b c d e", "text_pair": "f", "label": 0},
        {"text": "a", "text_pair": "b c d e f g h", "label": 1},
        {"text": "a b c d e", "text_pair": "b c d e f g h", "label": 1},
        {"text": "", "text_pair": "b", "label": 1},
    ],
    "choices": [
        {"text": "a b", "text_pair": "c", "choices": ["d", "e f g h i j"], "label": 1},
        {"text": "a", "text_pair": "", "choices": ["b", "c"], "label": 0},
    ],
    "tags": [
        {"tokens": ["a", "bc", "d", "e", "f", "g"], "label": [1, 2, 3, 4, 5, 6]},
        {"tokens": ["a"], "label": [7]},
    ],
}


def same(one: Encoded, other: Encoded) -> bool:
    """Whether all fields are equal, kinds of numbers and all."""
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in fields(Encoded)]
    return all(
        np.array_equal(a, b) and a.dtype == b.dtype if isinstance(a, np.ndarray) else a == b
        for a, b in pairs
    )
