"""Files whose cells have the shape of something else: whole documents, lists written as text."""

from __future__ import annotations

import re

from surgery.data.files.source import shown
from surgery.data.ingest.columns import CHOICE_LISTS, TAGS, TOKENS, find_column
from surgery.data.ingest.table import Head
from surgery.errors import DatasetInvalid, Fault
from surgery.schemas.dataset import Columns

# As Python, numpy, JSON and Postgres write them: ['a', 'b'], array(['a']), ["a"], {a,b}, ('a', 'b')
_WRITTEN = re.compile(r"(array\()?\s*(\[.*\]|\(.*\)|\{.*\})(\s*,\s*dtype=\w+)?\s*\)?", re.DOTALL)
_ENTRIES = re.compile(r"""\s*['"].*['"]\s*|[^,]+(,[^,]+)+|\s*|\s*-?\d+(\s+-?\d+)*\s*""", re.DOTALL)


def is_written_list(value: object) -> bool:
    """Whether a value is text that a program wrote for a list."""
    if not isinstance(value, str):
        return False
    found = _WRITTEN.fullmatch(value.strip())
    return found is not None and _ENTRIES.fullmatch(found[2][1:-1]) is not None


def refuse_document(head: Head) -> None:
    """Raise DatasetInvalid where the one row of a file is a whole dataset in itself."""
    if head.count != 1 or head.faulty or not head.complete:
        return
    nested = [name for name, value in head.first.items() if isinstance(value, list | dict)]
    if nested:
        kind = "list" if isinstance(head.first[nested[0]], list) else "object"
        detail = (
            f"the file is one JSON object, whose {shown(nested[0])!r} holds a whole {kind}; write "
            "one object a line, a line for each row"
        )
        fault = Fault(detail, file=head.file, row=head.number, column=shown(nested[0]))
        raise DatasetInvalid(f"{head.file}: {detail}", [fault])


def refuse_written_lists(head: Head, given: Columns) -> None:
    """Raise DatasetInvalid where a column of lists, by its name, holds them as text.

    A named column of texts says that rows are plain texts, and the others are not read.
    """
    if given.text is not None and given.choices is None:
        return
    named = [given.choices, given.tokens, given.label if given.tokens else None]
    names = [name for name in named if isinstance(name, str)]
    tokens = find_column(head.cells, TOKENS)
    tags = find_column(head.cells, (*TAGS, "labels", "label")) if tokens else None
    for wanted in (CHOICE_LISTS, TOKENS, TAGS):
        names += [name for name in (find_column(head.cells, (one,)) for one in wanted) if name]
    names += [tags] if tags else []
    written = next((name for name in names if is_written_list(head.cells.get(name))), None)
    if written is not None:
        detail = "holds a list written as text; send JSON Lines or Parquet, which have lists"
        if written == given.choices or written.lower() in CHOICE_LISTS:
            detail += ", or one column for each choice"
        _refuse(head, written, detail)
    if tokens and tags and given.label is None and _are_spaced(head, tokens, tags):
        detail = (
            f"holds words separated by spaces, and {shown(tags)} their tags; send JSON Lines or "
            "Parquet with a list of words and a list of tags in each row"
        )
        _refuse(head, tokens, detail)


def _are_spaced(head: Head, tokens: str, tags: str) -> bool:
    """Whether two texts have as many words, and more than one."""
    words, marks = head.cells[tokens], head.cells[tags]
    if not (isinstance(words, str) and isinstance(marks, str)):
        return False
    if head.rows[tokens] != head.rows[tags]:
        return False
    return len(words.split()) == len(marks.split()) > 1


def _refuse(head: Head, column: str, detail: str) -> None:
    row = head.rows[column]
    fault = Fault(detail, file=head.file, row=row, column=shown(column))
    raise DatasetInvalid(f"{head.file}, row {row}: {shown(column)} {detail}", [fault])
