"""A split while it is read: its files one after the other, and the columns of its first rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from surgery.data.files.read import read_rows
from surgery.data.files.source import LIMITS, FaultSink, FileFormat, Limits, Row, shown
from surgery.data.rows import CellError, RowFormat
from surgery.errors import DatasetInvalid, Fault

MAX_FAULTS = 100
NAMED_ROWS = 10  # of those that have the same fault
VARIANTS = 5  # faults that differ in what they quote and are told one by one
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|[\d.,]+")
HEAD_ROWS = 100  # enough to know the columns of nearly every file
_BRIEF = 200  # characters that are kept of a text or of a column's name


@dataclass(frozen=True)
class SplitFile:
    """One file of a split; ``name`` is its name in faults."""

    path: Path
    file_format: FileFormat
    name: str


@dataclass
class TableHead:
    """The columns of a table's first rows, each with its first value that is not empty.

    ``first`` is the complete first row, and ``number`` its number. ``cells`` holds the values,
    shortened, and ``rows`` the number of the row that each is from. ``count`` rows were read, and
    ``faulty`` more could not be. ``complete`` says that no other row can have another column.
    """

    file: str
    number: int
    first: Row
    cells: Row = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    count: int = 0
    faulty: int = 0
    complete: bool = False
    samples: dict[str, list[object]] = field(default_factory=dict)
    """The first values of each column, shortened."""
    _empty: list[str] = field(default_factory=list)

    def shows_more(self, row: Row) -> bool:
        """Whether a row has a column that is not known yet, or the first value of a known one."""
        if not row.keys() <= self.cells.keys():
            return True
        return any(row.get(name) not in (None, "") for name in self._empty)

    def add(self, number: int, row: Row) -> None:
        """Add the columns and first values of another row."""
        self.count += 1
        for name, value in row.items():
            if self.count <= HEAD_ROWS and len(name) <= _BRIEF:
                self.samples.setdefault(name, []).append(brief(value))
            if self.cells.get(name) not in (None, ""):
                continue
            known = name in self.cells or self.count == 1
            if known or (len(self.cells) < LIMITS.max_columns and len(name) <= _BRIEF):
                self.cells[name] = brief(value)
                self.rows[name] = number
        self._empty = [name for name, value in self.cells.items() if value in (None, "")]


def brief(value: object, depth: int = 2) -> object:
    """A value, shortened to what tells its kind."""
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
    """One split: its files, read one after the other, and the format that converts its rows."""

    parts: tuple[SplitFile, ...]
    limits: Limits = LIMITS
    format: RowFormat | None = None

    @property
    def ragged(self) -> bool:
        """Whether a row may have columns that no earlier row has."""
        return self.format is None and any(part.file_format == "jsonl" for part in self.parts)

    def rows(
        self, columns: Sequence[str] | None = None, on_fault: FaultSink | None = None
    ) -> Iterator[tuple[str, int, Row]]:
        """Yield ``(file, row number in it, values)``, converted if there is a format.

        The fault of a row that cannot be read or converted goes to ``on_fault``; without it,
        DatasetInvalid is raised.
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
        """The first row that can be read. Raises DatasetInvalid with the faults if none can."""
        head = self.head(1)
        return head.file, head.number, head.first

    def head(self, rows: int | None = HEAD_ROWS) -> TableHead:
        """The columns of the first rows that can be read, or of all rows if ``rows`` is None.

        Raises DatasetInvalid with the faults if no row can be read.
        """
        faults = Faults()
        head: TableHead | None = None
        try:
            for file, number, row in self.rows(on_fault=faults.add):
                if head is None:
                    head = TableHead(file, number, row)
                if head.count == rows:
                    head.complete = not self.ragged
                    return head
                head.add(number, row)
        except DatasetInvalid:  # raised again by the first reading, with the faults before it
            if head is None:
                raise
        if head is not None:
            head.complete, head.faulty = True, faults.count
            return head
        faults.raise_any()
        raise DatasetInvalid("the dataset has no rows")


@dataclass
class _Alike:
    """The same fault in any number of rows."""

    fault: Fault
    count: int = 0
    rows: list[int] = field(default_factory=list)

    def add(self, row: int | None) -> None:
        self.count += 1
        if row is not None and len(self.rows) < NAMED_ROWS:
            self.rows.append(row)

    def whole(self) -> Fault:
        """The fault, with its rows if there are several."""
        if self.count == 1:
            return self.fault
        return replace(self.fault, count=self.count, rows=tuple(self.rows))


@dataclass
class Faults:
    """The first faults of a dataset, and how many there are.

    What is the same in many rows is one fault. Of faults that differ only in what they quote, the
    first few are told one by one.
    """

    count: int = 0
    _alike: dict[Hashable, _Alike] = field(default_factory=dict)
    _variants: Counter[Hashable] = field(default_factory=Counter)

    def add(self, fault: Fault, *, first: bool = False) -> None:
        """Count a fault, and keep it if it is of the first hundred kinds; or put it ``first``."""
        self.count += 1
        place = (fault.file, fault.column, fault.pointer, fault.row is None)
        key: Hashable = (*place, fault.detail)
        if key not in self._alike:
            kind = (*place, _QUOTED.sub("", fault.detail))
            self._variants[kind] += 1
            if fault.row is not None and self._variants[kind] > VARIANTS:
                key = kind
        if first:
            self._alike = {key: _Alike(fault), **self._alike}
        elif key not in self._alike and len(self._alike) < MAX_FAULTS:
            self._alike[key] = _Alike(fault)
        if key in self._alike:
            self._alike[key].add(fault.row)

    @property
    def first(self) -> list[Fault]:
        """The faults that are kept, in order."""
        return [each.whole() for each in self._alike.values()]

    def raise_any(self) -> None:
        """Raise DatasetInvalid if there are any faults."""
        faults = self.first
        if not faults:
            return
        where = f"{faults[0].file}, row {faults[0].row}: " if faults[0].row else ""
        noun = "problem" if self.count == 1 else "problems"
        listed = sum(fault.count or 1 for fault in faults)
        more = f" (the first {listed:,} are listed)" if self.count > listed else ""
        raise DatasetInvalid(
            f"{self.count:,} {noun} found{more}; nothing was kept. First: {where}"
            f"{faults[0].detail}",
            faults,
        )
