"""What a model reads of a row, by problem: texts, choices about a text, or words with tags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from surgery.dataset_spec import MAX_CHOICES, Columns
from surgery.errors import DatasetInvalid, Fault
from surgery.files import Row, shown
from surgery.labels import MAX_LABEL_LENGTH, LabelError, read_label
from surgery.terms import Problem

Kind = Literal["string", "strings", "integer", "number"]


class CellError(ValueError):
    """A value that cannot stand in its column; the message says why."""

    def __init__(self, detail: str, column: str) -> None:
        self.column = column
        super().__init__(detail)


@dataclass(frozen=True)
class Content:
    """The cells of a row as they are stored, and bytes that differ wherever the cells do.

    ``extras`` are stored too, for the metrics alone: rows of equal texts are equal without them.
    ``words`` counts what the model reads at once: a pair together, a text with its longest choice.
    """

    cells: tuple[Any, ...]
    framed: bytes
    words: int
    half_empty: bool = False
    """One text of a pair is empty."""
    extras: tuple[int | float, ...] = ()


class Inputs(Protocol):
    """How the rows of one problem are read; ``fields`` are the stored columns but the label."""

    @property
    def fields(self) -> tuple[tuple[str, Kind], ...]:
        """Name and kind of each stored column."""

    def read(self, values: Row) -> Content:
        """Check a row's cells; CellError where one is wrong."""

    def label(self, values: Row, content: Content) -> object:
        """The label cell, for `LabelColumn.add`; CellError where it does not fit the row."""


def frame(*parts: bytes) -> bytes:
    """The parts with their lengths, so that ("ab", "c") is not ("a", "bc")."""
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def _optional(text: str | None) -> bytes:
    return b"" if text is None else b"+" + text.encode()


@dataclass(frozen=True)
class TextInputs:
    """One text or a pair of texts, and the ``extras`` that a format made beside them."""

    columns: Columns
    extras: tuple[tuple[str, Kind], ...] = ()

    @property
    def fields(self) -> tuple[tuple[str, Kind], ...]:
        """``text``, ``text_pair`` where there is a pair, and the extras."""
        return (("text", "string"), *_pair_field(self.columns), *self.extras)

    def read(self, values: Row) -> Content:
        """Missing texts are ""; a row in which neither has a word is refused."""
        text = _text(values, str(self.columns.text))
        pair = None if self.columns.text_pair is None else _text(values, self.columns.text_pair)
        if not text.strip() and not (pair or "").strip():
            detail = "the text is empty; fill it in or leave the row out"
            raise CellError(detail, str(self.columns.text))
        half = pair is not None and not (text.strip() and pair.strip())
        cells = (text,) if pair is None else (text, pair)
        words = len(text.split()) + len((pair or "").split())
        extras: tuple[Any, ...] = tuple(values[name] for name, _ in self.extras)
        return Content(cells, frame(text.encode(), _optional(pair)), words, half, extras)

    def label(self, values: Row, content: Content) -> object:  # noqa: ARG002  # no part of it
        """The cell as it is."""
        return values.get(str(self.columns.label))


@dataclass(frozen=True)
class ChoiceInputs:
    """A context, a question about it where there is one, and ``count`` choices.

    ``questions`` says in words what the values of the question's column stand for.
    """

    columns: Columns
    count: int
    questions: Mapping[str, str] = field(default_factory=dict)

    @property
    def fields(self) -> tuple[tuple[str, Kind], ...]:
        """``text`` and ``text_pair`` (the question) where there are any, and ``choices``."""
        text: tuple[tuple[str, Kind], ...] = (("text", "string"),) if self.columns.text else ()
        return (*text, *_pair_field(self.columns), ("choices", "strings"))

    def read(self, values: Row) -> Content:
        """The context may be empty; a choice may not."""
        text = None if self.columns.text is None else _text(values, self.columns.text)
        question = None if self.columns.text_pair is None else self._question(values)
        choices = choices_of(values, self.columns)
        if len(choices) != self.count:
            raise CellError(
                f"has {_count(len(choices), 'choice')} where the first row has {self.count}; "
                "every row needs the same number",
                _choice_column(self.columns, 0),
            )
        texts = tuple(part for part in (text, question) if part is not None)
        parts = [choice.encode() for choice in choices]
        words = sum(len(part.split()) for part in texts)
        return Content(
            (*texts, choices),
            frame(_optional(text), _optional(question), *parts),
            words + max(len(choice.split()) for choice in choices),
        )

    def _question(self, values: Row) -> str:
        column = str(self.columns.text_pair)
        value = _text(values, column)
        if not self.questions:
            return value
        if value not in self.questions:
            known = ", ".join(repr(name) for name in self.questions)
            raise CellError(f"the question is {shown(value)!r}, none of {known}", column)
        return self.questions[value]

    def label(self, values: Row, content: Content) -> int:
        """The index of the right choice, from the index or the text of it."""
        column = str(self.columns.label)
        try:
            return _index_of(values.get(column), content.cells[-1])
        except LabelError as bad:
            raise CellError(f"the label {bad}", column) from None


@dataclass(frozen=True)
class TokenInputs:
    """A list of words with a tag for each."""

    columns: Columns

    @property
    def fields(self) -> tuple[tuple[str, Kind], ...]:
        """``tokens``."""
        return (("tokens", "strings"),)

    def read(self, values: Row) -> Content:
        """A row has one word at least, and none is blank."""
        column = str(self.columns.tokens)
        tokens = _strings(values.get(column), column, "word")
        if not tokens:
            raise CellError("the list of words is empty; leave the row out", column)
        return Content((tokens,), frame(*(token.encode() for token in tokens)), len(tokens))

    def label(self, values: Row, content: Content) -> list[Any]:
        """The list of tags, as long as the list of words."""
        column = str(self.columns.label)
        tags = values.get(column)
        if not isinstance(tags, list):
            raise CellError(f"is {_kind(tags)}; the tags are a list, one for each word", column)
        words = len(content.cells[0])
        if len(tags) != words:
            raise CellError(
                f"has {_count(len(tags), 'tag')} where {self.columns.tokens} has "
                f"{_count(words, 'word')}; "
                "give each word one tag",
                column,
            )
        return tags


def inputs_for(
    problem: Problem | None, columns: Columns, first: tuple[str, int, Row],
    questions: Mapping[str, str] | None = None, extras: tuple[tuple[str, Kind], ...] = (),
) -> Inputs:  # fmt: skip
    """How to read the rows; ``first`` (file, row, values) says how many choices there are.

    Raises DatasetInvalid where the first row has no choices to go by.
    """
    if problem is Problem.TOKEN_CLASSIFICATION:
        return TokenInputs(columns)
    if problem is not Problem.MULTIPLE_CHOICE:
        return TextInputs(columns, extras)
    file, row, values = first
    try:
        count = len(choices_of(values, columns))
    except CellError as bad:
        fault = Fault(str(bad), file=file, row=row, column=bad.column)
        raise DatasetInvalid(f"{file}, row {row}: {bad}", [fault]) from None
    return ChoiceInputs(columns, count, questions or {})


def choices_of(values: Row, columns: Columns) -> list[str]:
    """The choices of a row; CellError unless they are 2 to 64 texts, none of them blank."""
    if isinstance(columns.choices, list):
        found = [_text(values, name) for name in columns.choices]
    else:
        column = str(columns.choices)
        cell = values.get(column)
        if isinstance(cell, str):
            raise CellError(
                "is a string; choices are a list of strings. CSV and TSV have no lists: name one "
                'column for each choice, as in {"choices": ["choice1", "choice2"]}',
                column,
            )
        found = _strings(cell, column, "choice")
        if not 2 <= len(found) <= MAX_CHOICES:
            raise CellError(
                f"has {_count(len(found), 'choice')}; 2 to {MAX_CHOICES} are read", column
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


def _text(values: Row, column: str) -> str:
    value = values.get(column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CellError(f"is {_kind(value)}; a text is a string", column)
    return value


def _strings(value: object, column: str, noun: str) -> list[str]:
    if not isinstance(value, list):
        raise CellError(f"is {_kind(value)}; a list of strings is needed", column)
    for place, entry in enumerate(value):
        if not isinstance(entry, str) or not entry.strip():
            kind = "empty" if isinstance(entry, str) else _kind(entry)
            raise CellError(f"{noun} {place} (counted from 0) is {kind}; give it a text", column)
    return value


def _kind(value: object) -> str:
    return "missing" if value is None else f"of type {type(value).__name__}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _pair_field(columns: Columns) -> tuple[tuple[str, Kind], ...]:
    return (("text_pair", "string"),) if columns.text_pair else ()
