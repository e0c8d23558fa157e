"""A finding: its sentence, its count, and the first rows that show it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from surgery.data.files.source import shown
from surgery.schemas.data.dataset import EXAMPLES, Example, Finding, FindingCode, Place

_IN_WORDS = 3  # examples that the sentence of a finding names


def finding(code: FindingCode, detail: str, count: int, examples: Iterable[Place]) -> Finding:
    """A finding whose sentence names the first of the ``examples``."""
    first = [
        place if isinstance(place, Example) else Example(file=place.file, row=place.row)
        for place in islice(examples, EXAMPLES)
    ]
    named = ", ".join(_named(example) for example in first[:_IN_WORDS])
    more = ", …" if len(first) > _IN_WORDS else ""
    sentence = f"{detail}; first: {named}{more}" if first else detail
    return Finding(code=code, detail=sentence, count=count, examples=first)


def _named(example: Example) -> str:
    where = f"{shown(example.file)} row {example.row:,}"
    if example.same_as is None:
        return where
    file = "" if example.same_as.file == example.file else f"{shown(example.same_as.file)} "
    return f"{where} (as {file}row {example.same_as.row:,})"


def quoted(names: Sequence[str]) -> str:
    """The first ten names, and how many more there are."""
    more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
    return ", ".join(repr(shown(name)) for name in names[:10]) + more
