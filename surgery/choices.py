"""The choices of a row, and which of them is right."""

from __future__ import annotations

from typing import NamedTuple

from surgery.cells import CellError, counted, is_blank, strings_of, text_of
from surgery.dataset_spec import MAX_CHOICES, Columns
from surgery.files import Row, shown
from surgery.labels import MAX_LABEL_LENGTH, LabelError, read_label


class Choices(NamedTuple):
    """The texts, and what the data call each of them, where they do."""

    texts: list[str]
    marks: list[str]


def choices_of(values: Row, columns: Columns) -> Choices:
    """The choices of a row; CellError unless they are 2 to 64 texts, none of them blank.

    A cell is a list of texts or, as ARC, CommonsenseQA and MedQA have them, an object of two lists
    (``text`` and ``label``), a list of objects of these two, or an object of texts by their mark.
    """
    marks: list[str] = []
    if isinstance(columns.choices, list):
        found = [text_of(values, name) for name in columns.choices]
    else:
        column = str(columns.choices)
        cell = values.get(column)
        if isinstance(cell, str):
            raise CellError(
                "is a string; choices are a list of strings. CSV and TSV have no lists: name one "
                'column for each choice, as in {"choices": ["choice1", "choice2"]}',
                column,
            )
        texts, marks = _taken_apart(cell)
        found = strings_of(texts, column, "choice")
        if not 2 <= len(found) <= MAX_CHOICES:
            raise CellError(
                f"has {counted(len(found), 'choice')}; 2 to {MAX_CHOICES} are read", column
            )
    for place, choice in enumerate(found):
        if is_blank(choice):
            detail = f"choice {place} (counted from 0) is empty; every row needs all its choices"
            raise CellError(detail, choice_column(columns, place))
    return Choices(found, marks if len(marks) == len(found) else [])


def _taken_apart(cell: object) -> tuple[object, list[str]]:
    """What stands in the place of the list of texts, and the marks beside it."""
    if isinstance(cell, dict) and isinstance(cell.get("text"), list):
        return cell["text"], _marks(cell.get("label"))
    if isinstance(cell, dict) and all(isinstance(text, str) for text in cell.values()):
        return list(cell.values()), _marks(list(cell))
    if isinstance(cell, list) and cell and all(isinstance(one, dict) for one in cell):
        return [one.get("text") for one in cell], _marks([one.get("label") for one in cell])
    return cell, []


def _marks(value: object) -> list[str]:
    """Names of choices, where they are all different."""
    if not isinstance(value, list) or not all(isinstance(mark, str | int) for mark in value):
        return []
    names = [str(mark).strip() for mark in value]
    return names if len(set(names)) == len(names) else []


def choice_column(columns: Columns, place: int) -> str:
    """The column in which a choice stands."""
    named = columns.choices
    return named[place] if isinstance(named, list) else str(named)


def index_of(value: object, choices: Choices) -> int:
    """Which choice a label means, and never guessed between two ways to read it.

    It is what the data call a choice, or else an index from 0 or a letter from A, or a choice's
    text.
    """
    texts, marks = choices
    if isinstance(value, str | int) and str(value).strip() in marks:
        return marks.index(str(value).strip())
    name = value.strip() if isinstance(value, str) else ""
    matches = [place for place, text in enumerate(texts) if name and text.strip() == name]
    told = _place_of(value, len(texts), matched=bool(matches))
    if told is not None:
        place, noun = told
        if matches and place not in matches:
            raise LabelError(
                f"{shown(name)!r} is the {noun} of one choice and the text of another; "
                "write the index as a number, in JSON Lines or Parquet"
            )
        return place
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise LabelError(f"is the text of {len(matches)} choices; give its index, from 0")
    raise LabelError(
        f"is {shown(name or str(value))!r}, neither an index from 0 to {len(texts) - 1}, nor a "
        f"letter from A to {_letter(len(texts) - 1)}, nor the text of a choice; indices count from "
        "0 (where they count from 1, subtract 1), and -1 marks a hidden label: use a split that "
        "has labels"
    )


def _place_of(value: object, count: int, *, matched: bool) -> tuple[int, str] | None:
    """The place that a number or a letter names, and which of the two it is."""
    if isinstance(value, str) and (matched or len(value) > MAX_LABEL_LENGTH):
        name, number = value.strip(), _number(value)
    else:
        name, number = read_label(value)
    if number is not None and number.is_integer() and 0 <= number < count:
        return int(number), "index"
    place = ord(name.upper()) - ord("A") if len(name) == 1 and name.isascii() else -1
    if isinstance(value, str) and 0 <= place < min(count, 26):
        return place, "letter"
    return None


def _number(value: str) -> float | None:
    """A text's number, for a text that need not be a label."""
    try:
        return read_label(value)[1]
    except LabelError:
        return None


def _letter(place: int) -> str:
    return chr(ord("A") + min(place, 25))
