"""What a model reads of a row, by problem: texts, a text with choices, or words with tags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from surgery.data.files.source import Row, shown
from surgery.data.ingest.label_sets import labels_in, labels_marked
from surgery.data.ingest.labels import MAX_LABEL_LENGTH, LabelError, read_label
from surgery.data.rows import CellError, CellType, counted, is_blank, kind_of, strings_of, text_of
from surgery.errors import DatasetInvalid, Fault
from surgery.schemas.data.dataset import MAX_CHOICES, Columns
from surgery.schemas.enums import Problem


class Choices(NamedTuple):
    """The texts of a row's choices, and their marks in the data (such as A, B), if any."""

    texts: list[str]
    marks: list[str]


def choices_of(values: Row, columns: Columns) -> Choices:
    """The choices of a row. Raises CellError unless they are 2 to 64 texts, none of them blank.

    A cell is a list of texts or, as in ARC, CommonsenseQA and MedQA, an object of two lists
    (``text`` and ``label``), a list of objects of these two, or an object of texts by their mark.
    """
    marks: list[str] = []
    if isinstance(columns.choices, list):
        choices = [text_of(values, name) for name in columns.choices]
    else:
        column = str(columns.choices)
        cell = values.get(column)
        if isinstance(cell, str):
            raise CellError(
                "is a string; choices are a list of strings. CSV and TSV have no lists: name one "
                'column for each choice, as in {"choices": ["choice1", "choice2"]}',
                column,
            )
        texts, marks = _texts_and_marks(cell)
        choices = strings_of(texts, column, "choice")
        if not 2 <= len(choices) <= MAX_CHOICES:
            raise CellError(
                f"has {counted(len(choices), 'choice')}; 2 to {MAX_CHOICES} are read", column
            )
    for place, choice in enumerate(choices):
        if is_blank(choice):
            detail = f"choice {place} (counted from 0) is empty; every row needs all its choices"
            raise CellError(detail, choice_column(columns, place))
    return Choices(choices, marks if len(marks) == len(choices) else [])


def _texts_and_marks(cell: object) -> tuple[object, list[str]]:
    """What should be the list of texts in a cell, and the marks of the texts."""
    if isinstance(cell, dict) and isinstance(cell.get("text"), list):
        return cell["text"], _marks(cell.get("label"))
    if isinstance(cell, dict) and all(isinstance(text, str) for text in cell.values()):
        return list(cell.values()), _marks(list(cell))
    if isinstance(cell, list) and cell and all(isinstance(one, dict) for one in cell):
        return [one.get("text") for one in cell], _marks([one.get("label") for one in cell])
    return cell, []


def _marks(value: object) -> list[str]:
    """The marks as texts, or none unless they are all different."""
    if not isinstance(value, list) or not all(isinstance(mark, str | int) for mark in value):
        return []
    names = [str(mark).strip() for mark in value]
    return names if len(set(names)) == len(names) else []


def choice_column(columns: Columns, place: int) -> str:
    """The column that holds the choice with this index."""
    named = columns.choices
    return named[place] if isinstance(named, list) else str(named)


def index_of(value: object, choices: Choices) -> int:
    """The index of the choice that a label means.

    A label is the mark of a choice, or else an index from 0, a letter from A, or the text of a
    choice. Raises LabelError if it is none of these, or if two readings of it disagree.
    """
    texts, marks = choices
    if isinstance(value, str | int) and str(value).strip() in marks:
        return marks.index(str(value).strip())
    name = value.strip() if isinstance(value, str) else ""
    matches = [place for place, text in enumerate(texts) if name and text.strip() == name]
    named = _place_of(value, len(texts), matched=bool(matches))
    if named is not None:
        place, noun = named
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
    """The index that a number or a letter names, and the word for which of the two it is."""
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
    """The number that a text is, if any; the text need not be a valid label."""
    try:
        return read_label(value)[1]
    except LabelError:
        return None


def _letter(place: int) -> str:
    return chr(ord("A") + min(place, 25))


@dataclass(frozen=True)
class Content:
    """The cells of a row as they are stored.

    ``framed`` are bytes that differ between rows whose cells differ. ``extras`` are stored for the
    metrics, and not part of ``framed``: rows with equal texts count as equal. ``words`` counts what
    the model reads at once: both texts of a pair, or a text with its longest choice.
    """

    cells: tuple[Any, ...]
    framed: bytes
    words: int
    half_empty: bool = False
    """Whether one text of a pair is empty."""
    invisible: bool = False
    """Whether a word has only invisible characters, which a tokenizer may drop."""
    extras: tuple[int | float, ...] = ()


class Inputs(Protocol):
    """How the rows of one problem are read."""

    @property
    def fields(self) -> tuple[tuple[str, CellType], ...]:
        """Name and type of each stored column except the label."""

    def read(self, values: Row) -> Content:
        """Check a row's cells and return what is stored. Raises CellError if one is wrong."""

    def label(self, values: Row, content: Content) -> object:
        """The row's label for `LabelColumn.add`. Raises CellError if it does not fit the row."""


def frame(*parts: bytes) -> bytes:
    """The parts, each after its length, so that ("ab", "c") differs from ("a", "bc")."""
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def _optional(text: str | None) -> bytes:
    return b"" if text is None else b"+" + text.encode()


@dataclass(frozen=True)
class TextInputs:
    """Rows of one text or a pair of texts, and the ``extras`` that a format adds to them."""

    columns: Columns
    extras: tuple[tuple[str, CellType], ...] = ()

    @property
    def fields(self) -> tuple[tuple[str, CellType], ...]:
        return (("text", "string"), *_pair_field(self.columns), *self.extras)

    def read(self, values: Row) -> Content:
        """Read the texts; a missing one is "". Raises CellError if both are blank."""
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

    def label(self, values: Row, content: Content) -> object:  # noqa: ARG002  # of the protocol
        return values.get(str(self.columns.label))


@dataclass(frozen=True)
class LabelSetInputs(TextInputs):
    """Rows of one text or a pair, with any number of labels; ``separator`` divides their text."""

    separator: str | None = None

    def label(self, values: Row, content: Content) -> list[object]:  # noqa: ARG002  # of the protocol
        """The row's labels: those in the column, or the names of the columns that mark it."""
        columns = self.columns.label
        if isinstance(columns, list):
            return labels_marked(values, columns)
        return labels_in(values.get(str(columns)), str(columns), self.separator)


@dataclass(frozen=True)
class ChoiceInputs:
    """Rows of a context, an optional question about it, and ``count`` choices.

    ``questions`` maps the values of the question's column to the questions they stand for.
    """

    columns: Columns
    count: int
    questions: Mapping[str, str] = field(default_factory=dict)

    @property
    def fields(self) -> tuple[tuple[str, CellType], ...]:
        text: tuple[tuple[str, CellType], ...] = (("text", "string"),) if self.columns.text else ()
        return (*text, *_pair_field(self.columns), ("choices", "strings"))

    def read(self, values: Row) -> Content:
        """Read the texts and choices; the context may be empty, but a choice may not."""
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
        """The index of the right choice, see `index_of`."""
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
    """Rows of a list of words with a tag for each."""

    columns: Columns

    @property
    def fields(self) -> tuple[tuple[str, CellType], ...]:
        return (("tokens", "strings"),)

    def read(self, values: Row) -> Content:
        """Read the words. Raises CellError if there are none, or if one is empty."""
        column = str(self.columns.tokens)
        tokens = strings_of(values.get(column), column, "word")
        if not tokens:
            raise CellError("the list of words is empty; leave the row out", column)
        framed = frame(*(token.encode() for token in tokens))
        invisible = any(not token.isascii() and is_blank(token) for token in tokens)
        return Content((tokens,), framed, len(tokens), invisible=invisible)

    def label(self, values: Row, content: Content) -> list[Any]:
        """The row's list of tags. Raises CellError unless there is one for each word."""
        column = str(self.columns.label)
        tags = values.get(column)
        if not isinstance(tags, list):
            raise CellError(f"is {kind_of(tags)}; the tags are a list, one for each word", column)
        words = len(content.cells[0])
        if len(tags) != words:
            has = f"has {counted(len(tags), 'tag')} where {self.columns.tokens} has"
            raise CellError(f"{has} {counted(words, 'word')}; give each word one tag", column)
        return tags


def inputs_for(
    problem: Problem | None,
    columns: Columns,
    first: tuple[str, int, Row],
    questions: Mapping[str, str] | None = None,
    extras: tuple[tuple[str, CellType], ...] = (),
    separator: str | None = None,
) -> Inputs:
    """How to read the rows of a problem.

    ``first`` is (file, row number, values) of the first row, which says how many choices a row of
    a multiple-choice dataset has. Raises DatasetInvalid if that row has no valid choices.
    """
    if problem is Problem.TOKEN_CLASSIFICATION:
        return TokenInputs(columns)
    if problem is Problem.MULTI_LABEL:
        return LabelSetInputs(columns, extras, separator)
    if problem is not Problem.MULTIPLE_CHOICE:
        return TextInputs(columns, extras)
    file, row, values = first
    try:
        count = len(choices_of(values, columns).texts)
    except CellError as bad:
        fault = Fault(str(bad), file=file, row=row, column=bad.column)
        raise DatasetInvalid(f"{file}, row {row}: {bad}", [fault]) from None
    return ChoiceInputs(columns, count, questions or {})


def _pair_field(columns: Columns) -> tuple[tuple[str, CellType], ...]:
    return (("text_pair", "string"),) if columns.text_pair else ()
