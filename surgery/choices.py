"""The choices of a row, and which of them is right."""

from __future__ import annotations

from surgery.cells import CellError, counted, strings_of, text_of
from surgery.dataset_spec import MAX_CHOICES, Columns
from surgery.files import Row, shown
from surgery.labels import MAX_LABEL_LENGTH, LabelError, read_label


def choices_of(values: Row, columns: Columns) -> list[str]:
    """The choices of a row; CellError unless they are 2 to 64 texts, none of them blank."""
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
        found = strings_of(cell, column, "choice")
        if not 2 <= len(found) <= MAX_CHOICES:
            raise CellError(
                f"has {counted(len(found), 'choice')}; 2 to {MAX_CHOICES} are read", column
            )
    for place, choice in enumerate(found):
        if not choice.strip():
            detail = f"choice {place} (counted from 0) is empty; every row needs all its choices"
            raise CellError(detail, _choice_column(columns, place))
    return found


def _choice_column(columns: Columns, place: int) -> str:
    named = columns.choices
    return named[place] if isinstance(named, list) else str(named)


def _index_of(value: object, choices: list[str]) -> int:
    """A number is an index; a text is the choice it equals, and never guessed between the two."""
    long = isinstance(value, str) and len(value) > MAX_LABEL_LENGTH
    name, number = (str(value).strip(), None) if long else read_label(value)
    matches = [place for place, choice in enumerate(choices) if choice.strip() == name]
    if number is not None and number.is_integer() and 0 <= number < len(choices):
        if isinstance(value, str) and matches and int(number) not in matches:
            raise LabelError(
                f"{name!r} is the index of one choice and the text of another; "
                "write the index as a number, in JSON Lines or Parquet"
            )
        return int(number)
    if len(matches) == 1 and isinstance(value, str):
        return matches[0]
    if matches and isinstance(value, str):
        raise LabelError(f"is the text of {len(matches)} choices; give its index, from 0")
    raise LabelError(
        f"is {shown(name)!r}, neither an index from 0 to {len(choices) - 1} nor the text of a "
        "choice; indices count from 0, and -1 marks a hidden label: use a split that has labels"
    )


