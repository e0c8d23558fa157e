"""The first reading of a dataset: every row checked, faults collected, 36 bytes a row spooled."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from surgery.arrow import content_hash
from surgery.dataset_spec import Columns
from surgery.errors import DatasetInvalid, Fault
from surgery.files import LIMITS, FaultSink, FileFormat, Limits, Row, read_rows, shown
from surgery.formats import Format
from surgery.holdout import hold_out
from surgery.inputs import CellError, Inputs
from surgery.labels import LabelColumn, LabelError, Labelling
from surgery.places import Ids, Places
from surgery.repeats import repeated_rows
from surgery.spool import Spool
from surgery.terms import Problem

MAX_FAULTS = 100
_STRATIFIED = {Problem.CLASSIFICATION, Problem.MULTIPLE_CHOICE}


@dataclass(frozen=True)
class Part:
    """One file of a split; ``name`` is how faults call it."""

    path: Path
    file_format: FileFormat
    name: str


@dataclass(frozen=True)
class Table:
    """One split: its files, read one after the other, and the format its rows are put in."""

    parts: tuple[Part, ...]
    limits: Limits = LIMITS
    format: Format | None = None

    def rows(
        self, columns: Sequence[str] | None = None, on_fault: FaultSink | None = None
    ) -> Iterator[tuple[str, int, Row]]:
        """Yield ``(file, row in it, values)``; with a format, each row that it makes of one.

        A row that does not suit the format goes to ``on_fault``; DatasetInvalid without it.
        """
        for part in self.parts:
            rows = read_rows(
                part.path, part.file_format, limits=self.limits, name=part.name,
                columns=self.format.raw if self.format else columns, on_fault=on_fault,
            )  # fmt: skip
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
        faults = Faults()
        for file, number, row in self.rows(on_fault=faults.add):
            return file, number, row
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


@dataclass
class Survey:
    """The first reading: every row checked, 36 bytes of each spooled, 44 where it has an id."""

    columns: Columns
    inputs: Inputs
    labels: LabelColumn
    faults: Faults = field(default_factory=Faults)
    hashes: Spool = field(default_factory=lambda: Spool("q", width=2))
    rows: Counter[str] = field(default_factory=Counter)
    half_empty: array[int] = field(default_factory=lambda: array("i"))
    """The positions of pairs with one text empty."""
    places: Places = field(default_factory=Places)
    ids: Ids = field(default_factory=Ids)
    words: Spool = field(default_factory=lambda: Spool("i"))

    @property
    def wanted(self) -> list[str]:
        """The columns to read."""
        return [name for _, name in self.columns.named()]

    @cached_property
    def repeated(self) -> bytearray:
        """One byte a row read: 1 where another has the same content."""
        return repeated_rows(self.hashes)

    def read(self, split: str, table: Table) -> None:
        """Check every row of a split; what is wrong goes to ``faults``.

        Raises all of them where the file cannot be read to its end.
        """
        try:
            self._read(split, table)
        except DatasetInvalid as end:
            for fault in end.faults:
                self.faults.add(fault)
            self.faults.raise_any()

    def _read(self, split: str, table: Table) -> None:
        size = 0
        wanted = [*self.wanted, *([self.ids.column] if self.ids.column else [])]
        for file, row, values in table.rows(wanted, self.faults.add):
            try:
                content = self.inputs.read(values)
                self._take_label(self.inputs.label(values, content), split, file, row)
            except CellError as bad:
                self.faults.add(Fault(str(bad), file=file, row=row, column=shown(bad.column)))
                continue
            self.rows[split] += 1
            size += len(content.framed)
            if size > table.limits.max_text_bytes:
                detail = f"over {table.limits.max_text_bytes:,} bytes of text; send a sample of it"
                raise DatasetInvalid(f"{file}: {detail}", [Fault(detail, file=file, row=row)])
            self.hashes.append_bytes(content_hash(content))
            self.words.append(content.words)
            if content.half_empty:
                self.half_empty.append(len(self.places.rows))
            self.places.add(file, row)
            self.ids.add(values)

    def _take_label(self, label: object, split: str, file: str, row: int) -> None:
        try:
            self.labels.add(label, split, file, row)
        except LabelError as bad:
            raise CellError(f"the label {bad}", str(self.columns.label)) from None

    def settle(self) -> Labelling:
        """The labelling; raises every fault found."""
        self.faults.raise_any()
        if self.rows["train"] < 2:
            detail = "train has fewer than 2 rows; nothing can be learned from it"
            self.faults.add(Fault(detail, file=self.places.files[0]))
            self.faults.raise_any()
        labelling = self.labels.settle()
        for fault in self.labels.faults(labelling, str(self.columns.label)):
            self.faults.add(replace(fault, file=fault.file or self.places.files[0]))
        hidden = self.labels.not_number_count - len(self.labels.not_numbers)
        if labelling.problem is Problem.REGRESSION:
            self.faults.count += hidden
        self.faults.raise_any()
        return labelling

    def mask(self, labelling: Labelling, seed: int, *, split: bool) -> bytearray:
        """One byte a row read, 1 for validation; ``split`` draws them from train."""
        if not split:
            return bytearray(self.rows["train"]) + b"\1" * self.rows["validation"]
        strata = self.labels.codes if labelling.problem in _STRATIFIED else None
        try:
            return hold_out(self.repeated, strata, seed)
        except DatasetInvalid as short:
            fault = Fault(short.detail, file=self.places.files[0])
            raise DatasetInvalid(short.detail, [fault]) from None
