"""Check rows that are given to a checkpoint's model, by the record of the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from surgery.data.files.source import Row
from surgery.data.ingest.inputs import ChoiceInputs, Inputs, TextInputs, TokenInputs, choices_of
from surgery.data.presets.tasks import TASKS
from surgery.data.rows import CellError
from surgery.errors import MAX_FAULTS, Fault, RowsInvalid
from surgery.schemas.data.dataset import Columns
from surgery.schemas.enums import Problem


def columns_of(record: Mapping[str, Any]) -> Columns:
    """The columns that a row must have. Records of the first versions do not name them."""
    named = record.get("columns", {})
    return Columns(**{part: named.get(part, part) for part in record["inputs"]})


def read_columns(columns: Columns) -> list[str]:
    """The names of the columns that are read, in the order of their roles."""
    return [name for _, name in columns.named()]


def kept_cells(record: Mapping[str, Any], rows: Sequence[Row]) -> list[Row]:
    """The cells of each row that the model reads. Raises RowsInvalid for rows that it cannot."""
    names = read_columns(columns_of(record))
    given_cells(record, rows)
    return [{name: row[name] for name in names} for row in rows]


def given_cells(record: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, list[Any]]:
    """The stored columns that the rows make up, as those of a dataset, without labels.

    Raises RowsInvalid with a fault for each row that the model cannot read.
    """
    inputs = _inputs(record, rows)
    names = read_columns(columns_of(record))
    cells: list[tuple[Any, ...]] = []
    faults: list[Fault] = []
    for number, row in enumerate(rows, 1):
        try:
            _check_present(row, names)
            cells.append(inputs.read(row).cells)
        except CellError as bad:
            faults.append(_fault(number, bad))
    if faults:
        noun = "row" if len(faults) == 1 else "rows"
        raise RowsInvalid(
            f"{len(faults):,} {noun} cannot be read; first: {faults[0].detail}", faults[:MAX_FAULTS]
        )
    return {
        name: list(column)
        for (name, _), column in zip(inputs.fields, zip(*cells, strict=True), strict=True)
    }


def _inputs(record: Mapping[str, Any], rows: Sequence[Row]) -> Inputs:
    """How the rows are read. Raises RowsInvalid if the first has no valid choices."""
    columns, problem = columns_of(record), Problem(record["problem"])
    if problem is Problem.TOKEN_CLASSIFICATION:
        return TokenInputs(columns)
    if problem is not Problem.MULTIPLE_CHOICE:
        return TextInputs(columns)
    try:
        _check_present(rows[0], read_columns(columns))
        count = len(choices_of(rows[0], columns).texts)
    except CellError as bad:
        fault = _fault(1, bad)
        raise RowsInvalid(f"1 row cannot be read: {fault.detail}", [fault]) from None
    task = TASKS.get(record["dataset"].get("name", ""))
    return ChoiceInputs(columns, count, dict(task.questions) if task else {})


def _check_present(row: Row, names: Sequence[str]) -> None:
    missing = next((name for name in names if name not in row), None)
    if missing is not None:
        known = ", ".join(names)
        raise CellError(f"is missing; the model reads the columns {known} of a row", missing)


def _fault(number: int, bad: CellError) -> Fault:
    detail = f"row {number}, column {bad.column}: {bad}"
    name = bad.column.replace("~", "~0").replace("/", "~1")
    return Fault(detail, f"/rows/{number - 1}/{name}", row=number, column=bad.column)
