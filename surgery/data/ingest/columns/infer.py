"""Infer which column of a table holds the text, the choices and the label, and the problem."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from surgery.data.files.source import shown
from surgery.data.ingest.columns.propose import NUMBER, Samples, propose
from surgery.errors import DatasetInvalid, Fault, nearest
from surgery.schemas.data.dataset import MAX_CHOICES, Columns
from surgery.schemas.enums import Problem

_LABELS = ("label", "labels", "target", "class", "score", "y")
_LABEL_SETS = (*_LABELS, "tags", "categories", "genres", "topics", "classes", "emotions")
_ANSWERS = (
    "label",
    "labels",
    "target",
    "answer",
    "answerkey",
    "answer_key",
    "answer_idx",
    "answer_index",
    "correct",
    "correct_answer",
    "correct_option",
    "cop",
    "gold",
)
TAG_COLUMNS = ("tags", "ner_tags", "pos_tags", "chunk_tags")
TOKEN_COLUMNS = ("tokens", "words")
_IGNORED = {"idx", "id", "index"}
_PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "passage"),
    ("question", "sentence"),
    ("question", "context"),
    ("query", "passage"),
    ("query", "document"),
    ("text", "text_pair"),
    ("text1", "text2"),
    ("text_a", "text_b"),
)
_TEXTS = (
    "text",
    "sentence",
    "sentence1",
    "question",
    "premise",
    "review",
    "content",
    "document",
    "body",
    "comment",
    "message",
    "tweet",
    "utterance",
    "query",
    "title",
)
_CONTEXTS = (
    "premise",
    "context",
    "ctx",
    "passage",
    "article",
    "story",
    "text",
    "sent1",
    "sentence",
)
_QUESTIONS = ("question", "query", "sent2", "stem", "goal")
CHOICE_LISTS = ("choices", "options", "endings")
_CHOICE = re.compile(
    r"(choice|option|opt|op|ending|answer|ans|sol|solution)[_ ]?(\d{1,2}|[a-z])|([a-z])",
    re.IGNORECASE,
)
_MIN_BARE = 3  # two columns called a and b may be a pair of texts instead of choices

Cells = Mapping[str, object]


class ColumnMissing(DatasetInvalid):
    """A column that is needed was not named, and the names of the columns do not tell it."""

    def __init__(self, part: str, reason: str, row: Cells, file: str) -> None:
        known = _listed([shown(name) for name in row])
        hint = ""
        if all(isinstance(value, str | None) for value in row.values()):  # as in CSV and TSV
            hint = ". If these are values of the first row, write a line with names before it"
        self.columns = f"Its columns are: {known}{hint}"
        self.part, self.reason, self.file = part, f"{file}: {reason}", file
        detail = (
            f"{self.reason}; name the {part} column in columns.{part}, "
            f'as in {{"{part}": "…"}}. {self.columns}'
        )
        super().__init__(detail, [Fault(detail, f"/columns/{part}", file)])

    def proposing(self, samples: Samples, given: Columns) -> DatasetInvalid:
        """This error with the columns that look right, if some do."""
        label = None if isinstance(given.label, list) else given.label
        found = propose(samples, given.text, label)
        if found is None or self.part not in found.columns:
            return self
        detail = f"{self.reason}; {found}. {self.columns}"
        return DatasetInvalid(
            detail, [Fault(detail, "/columns", self.file, suggestion=found.columns)]
        )


class Settled(NamedTuple):
    """The columns to use and the problem, which is None if only the labels can tell it."""

    columns: Columns
    problem: Problem | None
    guessed: bool
    """Whether any column was inferred."""


def settle_columns(
    row: Cells, given: Columns | None, problem: Problem | None, file: str
) -> Settled:
    """Infer the columns and the problem from ``row``, which has one value of each column.

    If the problem is not given, columns of lists or of numbered choices tell it, and so do several
    columns of labels. Raises DatasetInvalid if a named column does not exist or the problem has no
    use for it, and ColumnMissing if a column that is needed cannot be inferred.
    """
    given = given or Columns()
    check_columns(row, given, file)
    several = Problem.MULTI_LABEL if isinstance(given.label, list) else None
    problem = problem or several or _structured(row, given)
    _refuse_misplaced(given, problem or Problem.CLASSIFICATION, file)
    if problem is Problem.MULTIPLE_CHOICE:
        used = _choice_columns(row, given, file)
    elif problem is Problem.TOKEN_CLASSIFICATION:
        used = _token_columns(row, given, file)
    else:
        named = _LABEL_SETS if problem is Problem.MULTI_LABEL else _LABELS
        used = _text_columns(row, given, file, named)
        if problem is None and isinstance(row.get(used.label_name), list):
            problem = Problem.MULTI_LABEL
    return Settled(used, problem, used != given)


def check_columns(row: Cells, columns: Columns, file: str, pointer: str = "/columns") -> None:
    """Raise DatasetInvalid with a fault for each named column that the row lacks."""
    known = [shown(name) for name in row]
    faults = []
    for part, name in columns.named():
        if name in row:
            continue
        near = nearest(name, known)
        hint = f" (did you mean {near!r}?)" if near else ""
        detail = f"{file} has no column {shown(name)!r}{hint}. Its columns are: {_listed(known)}"
        faults.append(Fault(detail, f"{pointer}/{part}", file, column=shown(name)))
    if faults:
        raise DatasetInvalid(faults[0].detail, faults)


def _structured(row: Cells, given: Columns) -> Problem | None:
    """The problem if the columns' shapes tell it; None also if the request names a text column."""
    if given.choices is not None:
        return Problem.MULTIPLE_CHOICE
    if given.tokens is not None:
        return Problem.TOKEN_CLASSIFICATION
    if given.text is not None:
        return None
    tokens = find_column(row, TOKEN_COLUMNS)
    if tokens and isinstance(row[tokens], list) and _tags(row, _one_label(given)):
        return Problem.TOKEN_CLASSIFICATION
    if _find_choices(row) and (given.label or find_column(row, _ANSWERS)):
        return Problem.MULTIPLE_CHOICE
    return None


def _refuse_misplaced(given: Columns, problem: Problem, file: str) -> None:
    misplaced = given.misplaced(problem)
    if misplaced is not None:
        part, detail = misplaced
        raise DatasetInvalid(detail, [Fault(detail, f"/columns/{part}", file)])


def _one_label(given: Columns) -> str | None:
    return None if given.label is None else given.label_name


def _text_columns(row: Cells, given: Columns, file: str, labels: tuple[str, ...]) -> Columns:
    label = given.label or find_column(row, labels)
    if label is None:
        raise ColumnMissing("label", "no column is called label", row, file)
    if given.text:
        return given.model_copy(update={"label": label})
    of_label = label if isinstance(label, list) else [label]
    others = {
        name: value
        for name, value in row.items()
        if name not in {*of_label, given.text_pair} and name.lower() not in _IGNORED
    }
    text, pair = _find_texts(others)
    if text is None:
        raise ColumnMissing("text", "it is ambiguous which column is the text", row, file)
    return Columns(text=text, text_pair=given.text_pair or pair, label=label)


def _choice_columns(row: Cells, given: Columns, file: str) -> Columns:
    choices = given.choices or _find_choices(row)
    if choices is None:
        raise ColumnMissing("choices", "it is ambiguous which columns are the choices", row, file)
    label = _one_label(given) or find_column(row, _ANSWERS)
    if label is None:
        raise ColumnMissing("label", "no column is called label", row, file)
    if given.text:
        return given.model_copy(update={"choices": choices, "label": label})
    used = {label, given.text_pair, *([choices] if isinstance(choices, str) else choices)}
    others = {name: value for name, value in row.items() if name not in used}
    text = find_column(others, _CONTEXTS)
    question = given.text_pair or find_column(others, _QUESTIONS)
    if text is None and given.text_pair:
        reason = "columns.text_pair is the question about a text; without one, it is the text"
        raise ColumnMissing("text", reason, row, file)
    if text is None:
        text, question = question, None
    return Columns(text=text, text_pair=question, choices=choices, label=label)


def _token_columns(row: Cells, given: Columns, file: str) -> Columns:
    tokens = given.tokens or find_column(row, TOKEN_COLUMNS)
    if tokens is None:
        raise ColumnMissing("tokens", "no column is called tokens", row, file)
    label = _tags(row, _one_label(given))
    if label is None:
        raise ColumnMissing("label", "no column of lists is called tags", row, file)
    return Columns(tokens=tokens, label=label)


def _tags(row: Cells, given: str | None) -> str | None:
    named = (find_column(row, (tag,)) for tag in (*TAG_COLUMNS, "labels", "label"))
    return given or next((name for name in named if name and isinstance(row[name], list)), None)


def _find_choices(row: Cells) -> str | list[str] | None:
    """A column of lists, or else columns numbered from 0 or 1, or lettered from a."""
    named = find_column(row, CHOICE_LISTS)
    if named and isinstance(row[named], list | dict):
        return named
    families: dict[str, dict[str, str]] = {}
    for name in row:
        match = _CHOICE.fullmatch(name)
        if match:
            family, mark = (match[1] or "").lower(), (match[2] or match[3]).lower()
            families.setdefault(family, {})[mark] = name
    for family, members in families.items():
        numbers = sorted(members, key=lambda mark: (len(mark), mark))
        fewest = 2 if family else _MIN_BARE
        if fewest <= len(numbers) <= MAX_CHOICES and _counts_up(numbers):
            return [members[number] for number in numbers]
    return None


def _counts_up(marks: Sequence[str]) -> bool:
    letters = [chr(ord("a") + place) for place in range(len(marks))]
    from_zero = [str(place) for place in range(len(marks))]
    from_one = [str(place + 1) for place in range(len(marks))]
    return list(marks) in (letters, from_zero, from_one)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(names[:20]) + more


def find_column(row: Cells, names: tuple[str, ...]) -> str | None:
    """The row's column with the first of some names that it has, ignoring case."""
    lowered = {name.lower(): name for name in reversed(list(row))}
    return next((lowered[name] for name in names if name in lowered), None)


def _find_texts(row: Cells) -> tuple[str | None, str | None]:
    for first, second in _PAIRS:
        text, pair = find_column(row, (first,)), find_column(row, (second,))
        if text and pair:
            return text, pair
    named = find_column(row, _TEXTS)
    if named:
        return named, None
    # Every cell of a csv is a string; one that reads as a number is probably not a text.
    strings = [
        name
        for name, value in row.items()
        if isinstance(value, str) and not NUMBER.fullmatch(value)
    ]
    return (strings[0], None) if len(strings) == 1 else (None, None)
