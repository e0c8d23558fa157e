"""A split as it is read: its files one after the other, and what its first rows look like."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from surgery.data.files.read import read_rows
from surgery.data.files.source import LIMITS, FaultSink, FileFormat, Limits, Row, shown
from surgery.data.rows import CellError, Format
from surgery.errors import DatasetInvalid, Fault

MAX_FAULTS = 100
HEAD_ROWS = 100  # enough to know the columns of nearly every file
_BRIEF = 200  # characters of a text (of a column's name) that are kept to tell what it is


@dataclass(frozen=True)
class Part:
    """One file of a split; ``name`` is how faults call it."""

    path: Path
    file_format: FileFormat
    name: str


@dataclass
class Head:
    """What the rows of a table look like: each column, with its first value that is not empty.

    ``first`` is the first row, whole, and ``number`` its number. ``cells`` holds the values,
    shortened, and ``rows`` the number of the row of each. ``count`` rows were read, ``faulty`` ones
    were not. ``complete`` says that no other row can have another column.
    """

    file: str
    number: int
    first: Row
    cells: Row = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    count: int = 0
    faulty: int = 0
    complete: bool = False
    _empty: list[str] = field(default_factory=list)

    def shows_more(self, row: Row) -> bool:
        """Whether a row has a column that is not known yet, or the first value of one."""
        if not row.keys() <= self.cells.keys():
            return True
        return any(row.get(name) not in (None, "") for name in self._empty)

    def add(self, number: int, row: Row) -> None:
        """Take another row in."""
        self.count += 1
        for name, value in row.items():
            if self.cells.get(name) not in (None, ""):
                continue
            known = name in self.cells or self.count == 1
            if known or (len(self.cells) < LIMITS.max_columns and len(name) <= _BRIEF):
                self.cells[name] = brief(value)
                self.rows[name] = number
        self._empty = [name for name, value in self.cells.items() if value in (None, "")]


def brief(value: object, depth: int = 2) -> object:
    """So much of a value as tells its kind."""
    if isinstance(value, str) and len(value) > _BRIEF:
        return value[: _BRIEF // 2] + value[-_BRIEF // 2 :]
    if isinstance(value, list):
        return [brief(entry, depth - 1) for entry in value[:3]] if depth else []
    if isinstance(value, dict):
        some = islice(value.items(), 64)
        return {name[:_BRIEF]: brief(entry, depth - 1) for name, entry in some} if depth else {}
    return value


@dataclass(frozen=True)
class Table:
    """One split: its files, read one after the other, and the format its rows are put in."""

    parts: tuple[Part, ...]
    limits: Limits = LIMITS
    format: Format | None = None

    @property
    def ragged(self) -> bool:
        """Whether a row may have other columns than the rows before it."""
        return self.format is None and any(part.file_format == "jsonl" for part in self.parts)

    def rows(
        self, columns: Sequence[str] | None = None, on_fault: FaultSink | None = None
    ) -> Iterator[tuple[str, int, Row]]:
        """Yield ``(file, row in it, values)``; with a format, each row that it makes of one.

        A row that does not suit the format goes to ``on_fault``; DatasetInvalid without it.
        """
        for part in self.parts:
            rows = read_rows(
                part.path,
                part.file_format,
                limits=self.limits,
                name=part.name,
                columns=self.format.raw if self.format else columns,
                on_fault=on_fault,
            )
            for number, row in rows:
                for made in self._formatted(part.name, number, row, on_fault):
                    yield part.name, number, made

    def _formatted(
        self, file: str, number: int, row: Row, on_fault: FaultSink | None
    ) -> Sequence[Row]:
        if self.format is None:
            return [row]
        try:
            return self.format.rows(row)
        except CellError as bad:
            fault = Fault(str(bad), file=file, row=number, column=shown(bad.column))
            if on_fault is None:
                raise DatasetInvalid(f"{file}, row {number}: {bad}", [fault]) from None
            on_fault(fault)
            return []

    def first(self) -> tuple[str, int, Row]:
        """The first row that can be read; DatasetInvalid with the faults if none can."""
        head = self.head(1)
        return head.file, head.number, head.first

    def head(self, rows: int | None = HEAD_ROWS) -> Head:
        """The first rows that can be read, or all; DatasetInvalid with the faults if none can."""
        faults = Faults()
        head: Head | None = None
        try:
            for file, number, row in self.rows(on_fault=faults.add):
                if head is None:
                    head = Head(file, number, row)
                if head.count == rows:
                    head.complete = not self.ragged
                    return head
                head.add(number, row)
        except DatasetInvalid:  # the first reading tells it with the faults before it
            if head is None:
                raise
        if head is not None:
            head.complete, head.faulty = True, faults.count
            return head
        faults.raise_any()
        raise DatasetInvalid("the dataset has no rows")


@dataclass
class Faults:
    """The first faults found, and how many there were."""

    found: list[Fault] = field(default_factory=list)
    count: int = 0

    def add(self, fault: Fault) -> None:
        """Keep a fault, or only count it past the first hundred."""
        self.count += 1
        if len(self.found) < MAX_FAULTS:
            self.found.append(fault)

    def raise_any(self) -> None:
        """Raise DatasetInvalid if there are any."""
        if not self.found:
            return
        first = self.found[0]
        where = f"{first.file}, row {first.row}: " if first.row else ""
        noun = "problem" if self.count == 1 else "problems"
        more = f" (the first {MAX_FAULTS} are listed)" if self.count > MAX_FAULTS else ""
        raise DatasetInvalid(
            f"{self.count:,} {noun} found{more}; nothing was kept. First: {where}{first.detail}",
            self.found,
        )
