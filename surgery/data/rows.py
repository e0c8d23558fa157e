"""Read the cells of a row as texts and lists of texts, and turn raw rows into a common form."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from surgery.data.files.source import Row
from surgery.schemas.data.dataset import Columns

# Spaces, soft hyphens, direction and joining marks, byte-order marks, variation selectors.
_INVISIBLE = re.compile(
    r"[\s\u00ad\u034f\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]*"
)

CellType = Literal["string", "strings", "integer", "number"]


def is_blank(text: str) -> bool:
    """Whether a text shows nothing: it is empty, or only spaces and invisible characters."""
    return _INVISIBLE.fullmatch(text) is not None


class CellError(ValueError):
    """A value that its column cannot hold; the message says why."""

    def __init__(self, detail: str, column: str) -> None:
        self.column = column
        super().__init__(detail)


def text_of(values: Row, column: str) -> str:
    """A cell as a text, "" if it is missing. Raises CellError for a value that is not a string."""
    value = values.get(column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CellError(f"is {kind_of(value)}; a text is a string", column)
    return value


def strings_of(value: object, column: str, noun: str) -> list[str]:
    """A cell as a list of texts, each of them called a ``noun`` in messages.

    Raises CellError if it is not a list, or if one of its entries is empty or not a string.
    """
    if not isinstance(value, list):
        raise CellError(f"is {kind_of(value)}; a list of strings is needed", column)
    for place, entry in enumerate(value):
        if not isinstance(entry, str) or not entry.strip():
            kind = "empty" if isinstance(entry, str) else kind_of(entry)
            raise CellError(f"{noun} {place} (counted from 0) is {kind}; give it a text", column)
    return value


def kind_of(value: object) -> str:
    """The kind of a value, for a message that it is the wrong kind."""
    return "missing" if value is None else f"of type {type(value).__name__}"


def counted(number: int, noun: str) -> str:
    """A number with its noun, as in "1 word" and "2 words"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


@dataclass(frozen=True)
class RowFormat:
    """How raw rows become rows of ``text``, ``text_pair``, ``label`` and ``extras``.

    ``raw`` names the columns it reads. ``extras`` are stored beside the texts for the metrics:
    ``group`` (a number that rows of one question share), and under the name of a metric what
    choosing this row scores. ``version`` is part of the dataset's fingerprint and must be raised
    when the same raw row is converted differently. ``expands`` says that a raw row may become
    several.
    """

    name: str
    version: int
    raw: tuple[str, ...]
    rows: Callable[[Row], list[Row]]
    pair: bool = True
    extras: tuple[tuple[str, CellType], ...] = ()
    expands: bool = False

    @property
    def columns(self) -> Columns:
        """The columns of the converted rows."""
        return Columns(text="text", text_pair="text_pair" if self.pair else None, label="label")
