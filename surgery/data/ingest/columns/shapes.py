"""Refuse files whose cells hold something else: whole documents, or lists written as text."""

from __future__ import annotations

import re

from surgery.data.files.source import shown
from surgery.data.ingest.columns.infer import CHOICE_LISTS, TAG_COLUMNS, TOKEN_COLUMNS, find_column
from surgery.data.ingest.table import TableHead
from surgery.errors import DatasetInvalid, Fault
from surgery.schemas.data.dataset import Columns

# As Python, numpy, JSON and Postgres write them: ['a', 'b'], array(['a']), ["a"], {a,b}, ('a', 'b')
_WRITTEN = re.compile(r"(array\()?\s*(\[.*\]|\(.*\)|\{.*\})(\s*,\s*dtype=\w+)?\s*\)?", re.DOTALL)
_ENTRIES = re.compile(r"""\s*['"].*['"]\s*|[^,]+(,[^,]+)+|\s*|\s*-?\d+(\s+-?\d+)*\s*""", re.DOTALL)


def is_written_list(value: object) -> bool:
    """Whether a value is a list that a program wrote as text."""
    if not isinstance(value, str):
        return False
    match = _WRITTEN.fullmatch(value.strip())
    return match is not None and _ENTRIES.fullmatch(match[2][1:-1]) is not None


def refuse_document(head: TableHead) -> None:
    """Raise DatasetInvalid if the only row of a file holds a whole dataset."""
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


def refuse_written_lists(head: TableHead, given: Columns) -> None:
    """Raise DatasetInvalid if a column that should hold lists, by its name, holds them as text.

    If the request names a column of texts and no choices, the other columns are not read.
    """
    if given.text is not None and given.choices is None:
        return
    named = [given.choices, given.tokens, given.label if given.tokens else None]
    names = [name for name in named if isinstance(name, str)]
    tokens = find_column(head.cells, TOKEN_COLUMNS)
    tags = find_column(head.cells, (*TAG_COLUMNS, "labels", "label")) if tokens else None
    for usual in (CHOICE_LISTS, TOKEN_COLUMNS, TAG_COLUMNS):
        names += [name for name in (find_column(head.cells, (one,)) for one in usual) if name]
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


def _are_spaced(head: TableHead, tokens: str, tags: str) -> bool:
    """Whether the texts in two columns have equally many words, and more than one."""
    words, marks = head.cells[tokens], head.cells[tags]
    if not (isinstance(words, str) and isinstance(marks, str)):
        return False
    if head.rows[tokens] != head.rows[tags]:
        return False
    return len(words.split()) == len(marks.split()) > 1


def _refuse(head: TableHead, column: str, detail: str) -> None:
    row = head.rows[column]
    fault = Fault(detail, file=head.file, row=row, column=shown(column))
    raise DatasetInvalid(f"{head.file}, row {row}: {shown(column)} {detail}", [fault])
