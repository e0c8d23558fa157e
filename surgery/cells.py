"""Values of a row as texts and lists of texts, or what is wrong with them."""

from __future__ import annotations

from surgery.files import Row


class CellError(ValueError):
    """A value that cannot stand in its column; the message says why."""

    def __init__(self, detail: str, column: str) -> None:
        self.column = column
        super().__init__(detail)


def text_of(values: Row, column: str) -> str:
    value = values.get(column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CellError(f"is {kind_of(value)}; a text is a string", column)
    return value


def strings_of(value: object, column: str, noun: str) -> list[str]:
    if not isinstance(value, list):
        raise CellError(f"is {kind_of(value)}; a list of strings is needed", column)
    for place, entry in enumerate(value):
        if not isinstance(entry, str) or not entry.strip():
            kind = "empty" if isinstance(entry, str) else kind_of(entry)
            raise CellError(f"{noun} {place} (counted from 0) is {kind}; give it a text", column)
    return value


def kind_of(value: object) -> str:
    return "missing" if value is None else f"of type {type(value).__name__}"


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
