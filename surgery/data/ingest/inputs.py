"""What a model reads of a row, by problem: texts, choices about a text, or words with tags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from surgery.data.files.source import Row, shown
from surgery.data.ingest.labels import MAX_LABEL_LENGTH, LabelError, read_label
from surgery.data.rows import CellError, Kind, counted, is_blank, kind_of, strings_of, text_of
from surgery.errors import DatasetInvalid, Fault
from surgery.schemas.dataset import MAX_CHOICES, Columns
from surgery.schemas.enums import Problem


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
    invisible: bool = False
    """A word is of invisible characters alone, of which a tokenizer may leave nothing."""
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
        text = text_of(values, str(self.columns.text))
        pair = None if self.columns.text_pair is None else text_of(values, self.columns.text_pair)
        if is_blank(text) and is_blank(pair or ""):
            detail = "the text is empty; fill it in or leave the row out"
            raise CellError(detail, str(self.columns.text))
        half = pair is not None and (is_blank(text) or is_blank(pair))
        cells = (text,) if pair is None else (text, pair)
        words = len(text.split()) + len((pair or "").split())
        extras: tuple[Any, ...] = tuple(values[name] for name, _ in self.extras)
        return Content(cells, frame(text.encode(), _optional(pair)), words, half, extras=extras)

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
        text = None if self.columns.text is None else text_of(values, self.columns.text)
        question = None if self.columns.text_pair is None else self._question(values)
        choices = choices_of(values, self.columns).texts
        if len(choices) != self.count:
            raise CellError(
                f"has {counted(len(choices), 'choice')} where the first row has {self.count}; "
                "every row needs the same number",
                choice_column(self.columns, 0),
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
        value = text_of(values, column)
        if not self.questions:
            return value
        if value not in self.questions:
            known = ", ".join(repr(name) for name in self.questions)
            raise CellError(f"the question is {shown(value)!r}, none of {known}", column)
        return self.questions[value]

    def label(self, values: Row, content: Content) -> int:
        """The index of the right choice, from whatever names it."""
        column = str(self.columns.label)
        try:
            choices = Choices(content.cells[-1], [])
            if not isinstance(self.columns.choices, list):
                choices = choices_of(values, self.columns)
            return index_of(values.get(column), choices)
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
        tokens = strings_of(values.get(column), column, "word")
        if not tokens:
            raise CellError("the list of words is empty; leave the row out", column)
        framed = frame(*(token.encode() for token in tokens))
        invisible = any(not token.isascii() and is_blank(token) for token in tokens)
        return Content((tokens,), framed, len(tokens), invisible=invisible)

    def label(self, values: Row, content: Content) -> list[Any]:
        """The list of tags, as long as the list of words."""
        column = str(self.columns.label)
        tags = values.get(column)
        if not isinstance(tags, list):
            raise CellError(f"is {kind_of(tags)}; the tags are a list, one for each word", column)
        words = len(content.cells[0])
        if len(tags) != words:
            raise CellError(
                f"has {counted(len(tags), 'tag')} where {self.columns.tokens} has "
                f"{counted(words, 'word')}; "
                "give each word one tag",
                column,
            )
        return tags


def inputs_for(
    problem: Problem | None,
    columns: Columns,
    first: tuple[str, int, Row],
    questions: Mapping[str, str] | None = None,
    extras: tuple[tuple[str, Kind], ...] = (),
) -> Inputs:
    """How to read the rows; ``first`` (file, row, values) says how many choices there are.

    Raises DatasetInvalid where the first row has no choices to go by.
    """
    if problem is Problem.TOKEN_CLASSIFICATION:
        return TokenInputs(columns)
    if problem is not Problem.MULTIPLE_CHOICE:
        return TextInputs(columns, extras)
    file, row, values = first
    try:
        count = len(choices_of(values, columns).texts)
    except CellError as bad:
        fault = Fault(str(bad), file=file, row=row, column=bad.column)
        raise DatasetInvalid(f"{file}, row {row}: {bad}", [fault]) from None
    return ChoiceInputs(columns, count, questions or {})


def _pair_field(columns: Columns) -> tuple[tuple[str, Kind], ...]:
    return (("text_pair", "string"),) if columns.text_pair else ()
