"""Whether the first line of a delimited file is a header, or a row of a file without one."""

from __future__ import annotations

import re
from collections.abc import Sequence

from surgery.files import Source, shown

# Of the parts that columns commonly play; whatever is called so is the name of a column.
_NAMES = {
    "text", "texts", "sentence", "sentence1", "sentence2", "question", "premise", "hypothesis",
    "review", "content", "document", "body", "comment", "message", "tweet", "utterance", "query",
    "title", "context", "passage", "label", "labels", "target", "class", "category", "sentiment",
    "score", "rating", "answer", "id", "idx", "index", "guid", "text_pair", "text1", "text2",
    "text_a", "text_b", "y",
}  # fmt: skip
_NO_LETTERS = re.compile(r"[^a-zA-Z]*\d[^a-zA-Z]*", re.ASCII)


def check_first_line(source: Source, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Raise DatasetInvalid where the header is like the rows after it, of which some are given.

    So it is where one of its cells stands in the same column below, or is a number or a date over
    a column of such; unless another cell is the usual name of a column.
    """
    rows = [row for row in rows if len(row) == len(header) and list(row) != list(header)]
    if not rows or _is_range(header):
        return
    below = [[row[place] for row in rows] for place in range(len(header))]
    again = {place for place, name in enumerate(header) if name in below[place]}
    if any(is_usual_name(name) for place, name in enumerate(header) if place not in again):
        return
    alike = again | {
        place
        for place, name in enumerate(header)
        if _NO_LETTERS.fullmatch(name) and all(map(_NO_LETTERS.fullmatch, below[place]))
    }
    if alike:
        place = min(alike)
        raise source.invalid(
            f"the first line looks like a row and not like a header: its {shown(header[place])!r} "
            f"is like what stands in column {place + 1} below. Write a line with the names of the "
            "columns first, such as text and label; if it is a header, rename that column"
        )


def is_usual_name(name: str) -> bool:
    """Whether columns are commonly called so."""
    return name.strip().lower() in _NAMES


def _is_range(header: Sequence[str]) -> bool:
    """Columns numbered from 0 or 1, as pandas names them where they have no names."""
    width = len(header)
    return list(header) in ([*map(str, range(width))], [*map(str, range(1, width + 1))])
