"""Values of a row as texts and lists of texts, and what a model is given of a row."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from surgery.data.files.source import Row
from surgery.schemas.dataset import Columns

# Spaces, soft hyphens, marks of direction and of joining, byte-order marks, variation selectors.
_INVISIBLE = re.compile(
    r"[\s\u00ad\u034f\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]*"
)

Kind = Literal["string", "strings", "integer", "number"]


def is_blank(text: str) -> bool:
    """Whether there is nothing to see in a text: it is empty, or of spaces and invisible marks."""
    return _INVISIBLE.fullmatch(text) is not None


class CellError(ValueError):
    """A value that cannot stand in its column; the message says why."""

    def __init__(self, detail: str, column: str) -> None:
        self.column = column
        super().__init__(detail)


def text_of(values: Row, column: str) -> str:
    """A cell as a text, "" where it is missing."""
    value = values.get(column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CellError(f"is {kind_of(value)}; a text is a string", column)
    return value


def strings_of(value: object, column: str, noun: str) -> list[str]:
    """A cell as a list of texts, none of them empty; ``noun`` is what each is called."""
    if not isinstance(value, list):
        raise CellError(f"is {kind_of(value)}; a list of strings is needed", column)
    for place, entry in enumerate(value):
        if not isinstance(entry, str) or not entry.strip():
            kind = "empty" if isinstance(entry, str) else kind_of(entry)
            raise CellError(f"{noun} {place} (counted from 0) is {kind}; give it a text", column)
    return value


def kind_of(value: object) -> str:
    """What a value is, to say that it is something else."""
    return "missing" if value is None else f"of type {type(value).__name__}"


def counted(number: int, noun: str) -> str:
    """As in "1 word" and "2 words"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


@dataclass(frozen=True)
class Format:
    """How raw rows become rows of ``text``, ``text_pair``, ``label`` and ``extras``.

    ``raw`` are the columns it reads. ``extras`` are stored beside the texts for the metrics:
    ``group`` (rows of one question) and what choosing the row earns by a metric, under that
    metric's name. Raise ``version`` when the same raw row comes out otherwise: it is part of the
    fingerprint. ``expands`` says that a raw row may become several.
    """

    name: str
    version: int
    raw: tuple[str, ...]
    rows: Callable[[Row], list[Row]]
    pair: bool = True
    extras: tuple[tuple[str, Kind], ...] = ()
    expands: bool = False

    @property
    def columns(self) -> Columns:
        """The columns of the rows it makes."""
        return Columns(text="text", text_pair="text_pair" if self.pair else None, label="label")
