"""The first reading of a dataset: every row checked, faults collected, 36 bytes a row spooled."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from surgery.arrow import content_hash
from surgery.cells import CellError
from surgery.dataset_spec import Columns
from surgery.errors import DatasetInvalid, Fault
from surgery.files import shown
from surgery.holdout import hold_out
from surgery.inputs import Inputs
from surgery.labels import LabelColumn, LabelError, Labelling
from surgery.places import Ids, Places
from surgery.repeats import repeated_rows
from surgery.spool import Spool
from surgery.table import Faults, Head, Table
from surgery.terms import Problem

_STRATIFIED = {Problem.CLASSIFICATION, Problem.MULTIPLE_CHOICE}


@dataclass
class Survey:
    """The first reading: every row checked, 36 bytes of each spooled, 44 where it has an id."""

    columns: Columns
    inputs: Inputs
    labels: LabelColumn
    heads: Mapping[str, Head]
    """What the rows of each split look like; a row with another column is added to its split's."""
    faults: Faults = field(default_factory=Faults)
    hashes: Spool = field(default_factory=lambda: Spool("q", width=2))
    rows: Counter[str] = field(default_factory=Counter)
    half_empty: array[int] = field(default_factory=lambda: array("i"))
    """The positions of pairs with one text empty."""
    invisible: array[int] = field(default_factory=lambda: array("i"))
    """The positions of rows with a word of which nothing is to be seen."""
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
        size, head = 0, self.heads[split]
        wanted = [*self.wanted, *([self.ids.column] if self.ids.column else [])]
        for file, row, values in table.rows(wanted, self.faults.add):
            if table.ragged and head.shows_more(values):
                head.add(row, values)
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
            if content.invisible:
                self.invisible.append(len(self.places.rows))
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
