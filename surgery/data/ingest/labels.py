"""Turn a label column into classes or numbers, once all of it has been read."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from surgery.data.files.source import shown
from surgery.data.ingest.spool import Spool
from surgery.errors import Fault
from surgery.schemas.enums import Problem

MAX_CLASSES = 1_000
MAX_LABEL_LENGTH = 256
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
# A whole number as spreadsheets and pandas write it; leading zeros would make it a code.
_WHOLE = re.compile(r"([+-]?(?:0|[1-9]\d*))\.0*", re.ASCII)
# A number with a decimal comma, thousands separators or a percent sign.
_WRITTEN_NUMBER = re.compile(
    r"[+-]?(\d+|\d{1,3}([.,'’ \u00a0\u202f]\d{3})+)([.,]\d+)?\s*%?", re.ASCII
)
_SEPARATED = re.compile(r"[\s_-]+")
_TRUTH = {"true": "True", "false": "False"}
OWN_LABEL_ROWS = 10  # in a smaller dataset, each row may have its own class
TEXT_WORDS = 4  # names of classes seldom have as many words
TEXT_SHARE = 0.5  # of the classes: if more than these are texts, the labels are
LABEL_POINTER = "/columns/label"
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)


class LabelError(ValueError):
    """A value that cannot be a label; the message says why."""


@dataclass(frozen=True)
class Labelling:
    """How label values become the numbers that are stored.

    ``names`` are the classes or tags in index order (the indices themselves for multiple choice),
    and empty for regression. ``indexed`` says that integers in the data are already indices, as in
    the presets.
    """

    problem: Problem
    names: tuple[str, ...] = ()
    indexed: bool = False
    index: dict[str, int] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.index.update({name: number for number, name in enumerate(self.names)})

    def number(self, value: object) -> int | float:
        """The class index or number that a label or tag means. Raises LabelError if it is none."""
        if self.indexed and isinstance(value, str) and value.strip() in self.index:
            return self.index[value.strip()]
        name, number = read_label(value)
        if self.problem is Problem.REGRESSION:
            if number is None:
                raise LabelError(f"is {name!r}, not a number; problem regression needs numbers")
            return number
        if not self.indexed:
            return self.index[name]
        if isinstance(value, str | bool) and name in self.index:
            return self.index[name]
        if number is None or not number.is_integer() or not 0 <= number < len(self.names):
            raise LabelError(
                f"is {shown(name)!r}, outside the {len(self.names)} classes (0 to "
                f"{len(self.names) - 1}); -1 marks a hidden label: use a split that has labels"
            )
        return int(number)


def read_label(value: object) -> tuple[str, float | None]:
    """A label's name, and its number if it is one.

    1, 1.0, "1" and "1.0" are one class named "1"; true, "true" and "TRUE" are the class "True".
    Raises LabelError for a label that is missing, too long, not finite or not a scalar.
    """
    if isinstance(value, str):
        return _read_text(value.strip())
    if isinstance(value, bool):
        return str(value), None
    if isinstance(value, int):
        if value.bit_length() > 63:
            raise LabelError("is an integer of more than 64 bits")
        return str(value), float(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise LabelError(f"is {value}; give it a value or leave the row out")
        return (str(int(value)) if value.is_integer() else repr(value)), value
    if value is None:
        raise LabelError("is missing; give it a value or leave the row out")
    kind = type(value).__name__
    several = "; several labels a row are problem multi_label" if isinstance(value, list) else ""
    raise LabelError(
        f"is a {kind}; a label is a string, an integer, a boolean or a number{several}"
    )


def _read_text(name: str) -> tuple[str, float | None]:
    if not name:
        raise LabelError("is empty; give it a value or leave the row out")
    if _NOT_FINITE.fullmatch(name):
        raise LabelError(
            f"is {name}; give it a value or leave the row out. If a class has this name, name all "
            "classes in labels"
        )
    if len(name) > MAX_LABEL_LENGTH:
        raise LabelError(f"is {len(name):,} characters long; is this the column of the labels?")
    if not _NUMBER.fullmatch(name):
        return _TRUTH.get(name.lower(), name), None
    number = float(name)
    if math.isinf(number):
        raise LabelError(f"is {shown(name)}, beyond the largest number")
    whole = _WHOLE.fullmatch(name)
    if whole is not None:
        name = whole[1] if number else "0"
    return name, number


def is_written_number(name: str) -> bool:
    """Whether people would read a name as a number, such as 0,5 or 1,200 or 7 %."""
    return not _NUMBER.fullmatch(name) and _WRITTEN_NUMBER.fullmatch(name) is not None


def likeness(name: str) -> str:
    """A form that is equal for names which differ only in case, spaces or how a number is written.

    It is empty if nothing is left to compare.
    """
    if _NUMBER.fullmatch(name):
        return repr(float(name))
    plain = "".join(mark for mark in unicodedata.normalize("NFKC", name) if mark.isprintable())
    return _SEPARATED.sub(" ", plain.casefold()).strip()


def own_label_detail(different: int, rows: int, which: str = "") -> str:
    """What is wrong with a column of labels that hardly ever recur."""
    counts = f"{different:,} different labels in {which}{rows:,} rows"
    return f"{counts}: is this the column of the labels?"


@dataclass
class LabelColumn:
    """Every label of both splits, 12 bytes a row on disk, until the problem is known.

    ``codes`` number the classes in order of appearance, or are indices if ``names`` are given.
    ``values`` are the labels as numbers, NaN for a label that is none.
    """

    problem: Problem | None = None
    names: Sequence[str] | None = None
    codes: Spool = field(default_factory=lambda: Spool("i"))
    values: Spool = field(default_factory=lambda: Spool("d"))
    seen: dict[str, int] = field(default_factory=dict)
    first: dict[tuple[str, int], tuple[str, int]] = field(default_factory=dict)
    """Where a class first occurs: (split, code) → (file, row)."""
    not_numbers: list[tuple[str, int, str]] = field(default_factory=list)
    not_number_count: int = 0
    fractional: bool = False
    train_rows: int = 0

    def __post_init__(self) -> None:
        self.given = self._given()

    def _given(self) -> Labelling | None:
        if self.problem is Problem.REGRESSION or self.names is None:
            return None
        self.seen = {name: code for code, name in enumerate(self.names)}
        problem = self.problem or Problem.CLASSIFICATION
        return Labelling(problem, tuple(self.names), indexed=True)

    def add(self, value: object, split: str, file: str, row: int) -> None:
        """Add the label of a row. Raises LabelError if it is none."""
        code, number = self._take(value, split, file, row)
        self.train_rows += split == "train"
        self.codes.append(code)
        self.values.append(math.nan if number is None else number)

    def _take(self, value: object, split: str, file: str, row: int) -> tuple[int, float | None]:
        if self.given is not None:
            code, number = int(self.given.number(value)), None
        else:
            name, number = read_label(value)
            code = self._code(name)
            self.fractional |= number is not None and not number.is_integer()
            self._note_text(name, number, file, row)
        self.first.setdefault((split, code), (file, row))
        return code, number

    def _code(self, name: str) -> int:
        # Beyond the limit, new classes are only known to be too many.
        if name not in self.seen and len(self.seen) > MAX_CLASSES:
            return -1
        return self.seen.setdefault(name, len(self.seen))

    def _note_text(self, name: str, number: float | None, file: str, row: int) -> None:
        if number is None:
            self.not_number_count += 1
            if len(self.not_numbers) < 100:
                self.not_numbers.append((file, row, name))

    def settle(self) -> Labelling:
        """The labelling, with the problem inferred if it was not given."""
        if self.given is not None:
            return self.given
        problem = self.problem or (
            Problem.REGRESSION if self.fractional else Problem.CLASSIFICATION
        )
        if problem is Problem.REGRESSION:
            return Labelling(problem)
        return Labelling(problem, tuple(sorted(self.seen, key=order_of_name)))

    def faults(self, labelling: Labelling, column: str) -> list[Fault]:
        """The faults of the labels as a whole."""
        if labelling.problem is Problem.REGRESSION:
            return [
                Fault(
                    f"the label is {shown(name)!r}, not a number; problem regression needs numbers"
                    + _as_number(name),
                    file=file,
                    row=row,
                    column=column,
                )
                for file, row, name in self.not_numbers
            ]
        if len(self.seen) > MAX_CLASSES:
            regression = self.not_number_count == 0 and self.given is None
            advice = "did you mean problem regression?" if regression else "is it the label column?"
            detail = f"more than {MAX_CLASSES:,} classes; {advice}"
            return [Fault(detail, LABEL_POINTER, column=column)]
        return self._own_label(column) or self._class_faults(column)

    def _own_label(self, column: str) -> list[Fault]:
        """A fault if each row of train has a label that no other row has, or nearly so in texts."""
        trained = sum(1 for split, _ in self.first if split == "train")
        if self.given is not None or self.train_rows < OWN_LABEL_ROWS:
            return []
        texts = self.texts_among > TEXT_SHARE and trained > TEXT_SHARE * self.train_rows
        if trained < self.train_rows and not texts:
            return []
        other = "" if self.not_number_count else " Numbers to predict are problem regression"
        detail = own_label_detail(trained, self.train_rows) + other
        return [Fault(detail, LABEL_POINTER, column=column)]

    @property
    def texts_among(self) -> float:
        """The share of the classes whose names are texts of several words."""
        long = sum(len(name.split()) >= TEXT_WORDS for name in self.seen)
        return long / max(1, len(self.seen))

    def _class_faults(self, column: str) -> list[Fault]:
        names = list(self.seen)
        trained = {code for split, code in self.first if split == "train"}
        if len(trained) == 1 and self.problem is not Problem.MULTIPLE_CHOICE:
            only = shown(names[next(iter(trained))])
            return [
                Fault(f"every label of train is {only!r}; two classes are needed", column=column)
            ]
        return self.untrained(trained, column)

    def untrained(self, trained: Collection[int], column: str) -> list[Fault]:
        """A fault for each label of validation that is not ``trained``, unless names are given."""
        if self.given is not None:  # a split of a preset may lack a class
            return []
        names = list(self.seen)
        alike = {likeness(names[code]): shown(names[code]) for code in trained}
        return [
            Fault(
                f"the label {shown(names[code])!r} of {split} never occurs in train; "
                "add rows of it to train, or correct it" + _instead(alike, names[code]),
                file=file,
                row=row,
                column=column,
            )
            for (split, code), (file, row) in self.first.items()
            if code not in trained
        ]


@dataclass
class TagColumn(LabelColumn):
    """Every tag of both splits; ``codes`` hold an 8-byte hash of each row's tags."""

    codes: Spool = field(default_factory=lambda: Spool("q"))

    def add(self, value: object, split: str, file: str, row: int) -> None:
        """Add the list of a row's tags. Raises LabelError if one of them is no label."""
        assert isinstance(value, list)
        codes = []
        for place, tag in enumerate(value):
            try:
                codes.append(self._take(tag, split, file, row)[0])
            except LabelError as bad:
                raise LabelError(f"of word {place} (counted from 0) {bad}") from None
        self.codes.append(hash(tuple(codes)))

    def settle(self) -> Labelling:
        """The labelling, in which "O" (outside of every entity) comes first."""
        if self.given is not None:
            return self.given
        names = sorted(self.seen, key=lambda name: (name != "O", order_of_name(name)))
        return Labelling(Problem.TOKEN_CLASSIFICATION, tuple(names))


def _instead(alike: Mapping[str, str], name: str) -> str:
    similar = alike.get(likeness(name))
    return f": train has {similar!r}" if similar and likeness(name) else ""


def _as_number(name: str) -> str:
    if not is_written_number(name):
        return ""
    return "; write 0,5 as 0.5, and use no thousands separators"


def order_of_name(name: str) -> tuple[int, float, str]:
    """A sort key: numbers by value, before words in alphabetical order."""
    if _NUMBER.fullmatch(name):
        return (0, float(name), name)
    return (1, 0.0, name)
