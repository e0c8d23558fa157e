"""The first reading of a dataset: find its columns, check every row, draw the validation rows.

Faults are collected, and 36 bytes a row are stored in temporary files.
"""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import repeat

from surgery.data.files.delimited import is_usual_name
from surgery.data.files.source import shown
from surgery.data.ingest.arrow import content_hash
from surgery.data.ingest.columns.infer import (
    ColumnMissing,
    Settled,
    check_columns,
    settle_columns,
)
from surgery.data.ingest.columns.propose import content_of, propose
from surgery.data.ingest.columns.shapes import refuse_document, refuse_written_lists
from surgery.data.ingest.inputs import ChoiceInputs, Inputs, TextInputs, inputs_for
from surgery.data.ingest.label_sets import LabelSetColumn, likely_separator, separator_advice
from surgery.data.ingest.labels import (
    LABEL_POINTER,
    LabelColumn,
    LabelError,
    Labelling,
    TagColumn,
    own_label_detail,
)
from surgery.data.ingest.repeats import repeated_rows
from surgery.data.ingest.spool import Ids, RowPlaces, Spool, find_id_column
from surgery.data.ingest.table import Faults, Table, TableHead
from surgery.data.rows import CellError
from surgery.errors import DatasetInvalid, Fault
from surgery.schemas.data.dataset import Columns, check_label_names
from surgery.schemas.enums import Problem

_STRATIFIED = {Problem.CLASSIFICATION, Problem.MULTIPLE_CHOICE}

_COLUMNS: dict[Problem | None, type[LabelColumn]] = {
    Problem.TOKEN_CLASSIFICATION: TagColumn,
    Problem.MULTI_LABEL: LabelSetColumn,
}

_SPLITS = ("train", "validation")
_FLAT = {"csv", "tsv"}


def hold_out(repeated: bytes | bytearray, strata: Iterable[int] | None, seed: int) -> bytearray:
    """One byte for each row, which is 1 for the tenth (at least one row) that becomes validation.

    The tenth is drawn with the seed, from each stratum (class) in proportion. Rows whose text
    occurs elsewhere (1 in ``repeated``) stay in train as long as there are others, so that no text
    is in both splits, and the last row of a class stays in train. Raises DatasetInvalid if there
    are too few rows.
    """
    rows = len(repeated)
    eligible = _eligible(repeated, strata)
    if not eligible:  # all rows repeat others: texts will be in both splits, as the report says
        eligible = _eligible(bytes(rows), strata)
    total = min(max(1, round(rows / 10)), rows - 2)
    if total < 1 or not eligible:
        detail = "too few rows to draw some for validation; send a validation file, or more rows"
        raise DatasetInvalid(detail, [Fault(detail)])
    shares = _shares({code: len(members) for code, members in eligible.items()}, total)
    draw = random.Random(seed)  # noqa: S311  # a sample, not a secret
    mask = bytearray(rows)
    for code in sorted(eligible):
        for position in draw.sample(range(len(eligible[code])), shares[code]):
            mask[eligible[code][position]] = 1
    return mask


def _eligible(repeated: bytes | bytearray, strata: Iterable[int] | None) -> dict[int, array[int]]:
    """The rows of each stratum that may become validation, which are never all of its rows."""
    eligible: dict[int, array[int]] = {}
    sizes: dict[int, int] = {}
    codes = repeat(0, len(repeated)) if strata is None else strata
    for row, (twice, code) in enumerate(zip(repeated, codes, strict=True)):
        sizes[code] = sizes.get(code, 0) + 1
        if not twice:
            eligible.setdefault(code, array("i")).append(row)
    for code, members in eligible.items():
        if len(members) == sizes[code]:
            members.pop(0)
    return {code: members for code, members in eligible.items() if members}


def _shares(sizes: dict[int, int], total: int) -> dict[int, int]:
    """How many rows to draw from each stratum, by largest remainder, of at most all."""
    whole = sum(sizes.values())
    total = min(total, whole)
    exact = {code: total * size / whole for code, size in sizes.items()}
    shares = {code: int(share) for code, share in exact.items()}
    by_remainder = sorted(sizes, key=lambda code: (shares[code] - exact[code], code))
    for code in by_remainder[: total - sum(shares.values())]:
        shares[code] += 1
    return shares


@dataclass
class Survey:
    """What the first reading learns of a dataset: 36 bytes of each row, 44 if rows have ids."""

    columns: Columns
    inputs: Inputs
    labels: LabelColumn
    heads: Mapping[str, TableHead]
    """The columns of each split's rows, to which rows with further columns are added."""
    faults: Faults = field(default_factory=Faults)
    hashes: Spool = field(default_factory=lambda: Spool("q", width=2))
    rows: Counter[str] = field(default_factory=Counter)
    half_empty: array[int] = field(default_factory=lambda: array("i"))
    """The positions of rows of which one text of the pair is empty."""
    invisible: array[int] = field(default_factory=lambda: array("i"))
    """The positions of rows with a word of only invisible characters."""
    places: RowPlaces = field(default_factory=RowPlaces)
    ids: Ids = field(default_factory=Ids)
    words: Spool = field(default_factory=lambda: Spool("i"))

    @property
    def columns_read(self) -> list[str]:
        """The names of the columns to read."""
        return [name for _, name in self.columns.named()]

    @cached_property
    def repeated(self) -> bytearray:
        """One byte for each row read, which is 1 if another row has the same content."""
        return repeated_rows(self.hashes)

    def read(self, split: str, table: Table) -> None:
        """Check every row of a split and collect its faults.

        Raises DatasetInvalid with all faults if the file cannot be read to its end.
        """
        try:
            self._read(split, table)
        except DatasetInvalid as end:
            for fault in end.faults:
                self.faults.add(fault)
            self.faults.raise_any()

    def _read(self, split: str, table: Table) -> None:
        size, head = 0, self.heads[split]
        columns = [*self.columns_read, *([self.ids.column] if self.ids.column else [])]
        for file, row, values in table.rows(columns, self.faults.add):
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
            raise CellError(f"the label {bad}", self.columns.label_name) from None

    def settle(self) -> Labelling:
        """The labelling. Raises DatasetInvalid with every fault found."""
        self._explain_empty_labels()
        self._explain_text_labels()
        self.faults.raise_any()
        if self.rows["train"] < 2:
            detail = "train has fewer than 2 rows; nothing can be learned from it"
            self.faults.add(Fault(detail, file=self.places.files[0]))
            self.faults.raise_any()
        labelling = self.labels.settle()
        for fault in self.labels.faults(labelling, self.columns.label_name):
            placed = replace(fault, file=fault.file or self.places.files[0])
            self.faults.add(self._with_proposal(placed))
        hidden = self.labels.not_number_count - len(self.labels.not_numbers)
        if labelling.problem is Problem.REGRESSION:
            self.faults.count += hidden
        self.faults.raise_any()
        return labelling

    def _explain_empty_labels(self) -> None:
        """Add a fault for a separator that the request does not name, as it explains others."""
        if not self.faults.first or not isinstance(self.inputs, TextInputs):
            return
        mark = likely_separator(self.labels.seen) if self.labels.given is None else None
        if mark is not None and not isinstance(self.labels, LabelSetColumn):
            fault = Fault(
                separator_advice(mark), "/label_separator", column=self.columns.label_name
            )
            self.faults.add(fault, first=True)

    def _explain_text_labels(self) -> None:
        """Add a fault if texts are read as labels, as it explains that some are too long."""
        labels, name = self.labels, self.columns.label_name
        asked = labels.given is None and labels.problem in {None, Problem.CLASSIFICATION}
        values = self.heads["train"].samples.get(name)
        found = content_of(name, values) if self.faults.first and asked and values else None
        if found is None or not found.is_text or 2 * found.different <= found.count:
            return
        detail = own_label_detail(found.different, found.count, "the first ")
        fault = Fault(detail, LABEL_POINTER, self.heads["train"].file, column=shown(name))
        self.faults.add(self._with_proposal(fault), first=True)

    def _with_proposal(self, fault: Fault) -> Fault:
        """A fault, with other columns if it is about that of the labels and others look right."""
        found = propose(self.heads["train"].samples)
        if fault.pointer != LABEL_POINTER or found is None:
            return fault
        if found.label.name == self.columns.label:
            return fault
        detail = f"{fault.detail} {found}"
        return replace(fault, detail=detail, pointer="/columns", suggestion=found.columns)

    def mask(self, labelling: Labelling, seed: int, *, split: bool) -> bytearray:
        """One byte for each row read, which is 1 for validation rows.

        With ``split``, they are drawn from train. Raises DatasetInvalid if there are too few rows.
        """
        if not split:
            return bytearray(self.rows["train"]) + b"\1" * self.rows["validation"]
        kept = self.repeated
        strata: Sequence[int] | Spool | None = None
        if labelling.problem in _STRATIFIED:
            strata = self.labels.codes
        elif isinstance(self.labels, LabelSetColumn):
            strata, kept = self.labels.rarest(), self.repeated.copy()
            for position in self.labels.earliest.values():  # train needs a row of each label
                kept[position] = 1
            kept = kept if 0 in kept else self.repeated
        try:
            return hold_out(kept, strata, seed)
        except DatasetInvalid as short:
            fault = self._with_proposal(self._too_few(short.detail))
            raise DatasetInvalid(fault.detail, [fault]) from None

    def _too_few(self, detail: str) -> Fault:
        """The fault of a dataset without rows for validation, which may be that of its labels."""
        file, different = self.places.files[0], len(self.labels.seen)
        rows = self.rows["train"]
        if self.labels.problem is Problem.MULTIPLE_CHOICE or 2 * different <= rows:
            return Fault(detail, file=file)
        detail = f"{own_label_detail(different, rows)} If it is: {detail}"
        return Fault(detail, LABEL_POINTER, file, column=self.columns.label_name)


@dataclass(frozen=True)
class Declared:
    """What a request says about a dataset; None for what is to be inferred."""

    columns: Columns | None
    problem: Problem | None
    labels: Sequence[str] | None
    questions: Mapping[str, str] | None
    separator: str | None = None


def first_reading(tables: list[Table], declared: Declared) -> tuple[Survey, Settled]:
    """Read all rows once; return what was learned, and which columns were read.

    The columns are inferred from the first rows. If a later row of JSON Lines has another column,
    they are inferred again, and if the result differs, all rows are read again.
    """
    if declared.problem is Problem.TOKEN_CLASSIFICATION:
        _refuse_flat_files(tables)
    heads = [table.head() for table in tables]
    try:
        settled = _settled(heads, declared)
    except DatasetInvalid:
        if all(head.complete for head in heads):
            raise
        heads = [table.head(None) for table in tables]
        settled = _settled(heads, declared)
    survey = _read(tables, heads, settled, declared)
    again = _settled(heads, declared)
    if again != settled:
        survey = _read(tables, heads, again, declared)
    if all(part.file_format in _FLAT for part in tables[0].parts):
        _refuse_swallowed_row(survey, heads[0])
    return survey, again


def _settled(heads: list[TableHead], declared: Declared) -> Settled:
    """The columns, inferred from the first rows of train; validation needs the same columns."""
    train, *others = heads
    refuse_document(train)
    refuse_written_lists(train, declared.columns or Columns())
    try:
        settled = settle_columns(train.cells, declared.columns, declared.problem, train.file)
    except ColumnMissing as missing:
        raise missing.proposing(train.samples, declared.columns or Columns()) from None
    for head in others:
        try:
            check_columns(head.cells, settled.columns, head.file)
        except DatasetInvalid:
            refuse_document(head)
            raise
    return settled


def _refuse_swallowed_row(survey: Survey, train: TableHead) -> None:
    """Raise DatasetInvalid if a label equals its column's name, for then the header is a row.

    The reader compares the header with the first rows only, which need not show this.
    """
    name, labels = survey.columns.label_name, survey.labels
    if any(map(is_usual_name, train.cells)) or ("train", labels.seen.get(name)) not in labels.first:
        return
    detail = (
        f"the first line looks like a row and not like a header: {shown(name)!r} is also a label "
        "below. Write a line with the names of the columns first; if it is a header, rename that "
        "column"
    )
    fault = Fault(detail, file=train.file, column=shown(name))
    raise DatasetInvalid(f"{train.file}: {detail}", [fault])


def _read(
    tables: list[Table], heads: list[TableHead], settled: Settled, declared: Declared
) -> Survey:
    used, problem, train = settled.columns, settled.problem, heads[0]
    form, labels = tables[0].format, declared.labels
    first = (train.file, train.number, train.first)
    extras = form.extras if form else ()
    inputs = inputs_for(problem, used, first, declared.questions, extras, declared.separator)
    if labels is not None:
        _check_labels(list(labels), problem or Problem.CLASSIFICATION, used)
    if isinstance(inputs, ChoiceInputs):
        labels = [str(place) for place in range(inputs.count)]
    if isinstance(used.label, list):
        labels = used.label
    kind = _COLUMNS.get(problem, LabelColumn)
    ids = Ids(find_id_column(train.cells, {name for _, name in used.named()}))
    by_split = dict(zip(_SPLITS, heads, strict=False))
    survey = Survey(used, inputs, kind(problem, labels), by_split, ids=ids)
    for split, table in zip(_SPLITS, tables, strict=False):
        survey.read(split, table)
    return survey


def _refuse_flat_files(tables: list[Table]) -> None:
    flat = [part for table in tables for part in table.parts if part.file_format in _FLAT]
    faults = [
        Fault(
            f"{part.name} is {part.file_format.upper()}, which has no lists of words and tags; "
            "problem token_classification needs JSON Lines or Parquet",
            file=part.name,
        )
        for part in flat
    ]
    if faults:
        raise DatasetInvalid(faults[0].detail, faults)


def _check_labels(labels: list[str], problem: Problem, columns: Columns) -> None:
    try:
        check_label_names(labels, problem, columns)
    except ValueError as error:
        raise DatasetInvalid(str(error), [Fault(str(error), "/labels")]) from None
