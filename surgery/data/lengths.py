"""How long the texts of a mirrored dataset are, by its first rows, before any job reads it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

from surgery.data.files.source import format_of
from surgery.data.ingest.inputs import inputs_for
from surgery.data.ingest.table import Faults, SplitFile, Table
from surgery.data.references import DatasetSource, rows_in_file
from surgery.data.rows import CellError

SAMPLED = 1000  # rows: they are read in a few hundredths of a second


@dataclass(frozen=True)
class FirstRows:
    """What the first rows of a train file tell.

    ``words`` has the words of each, counted as those of an upload (see `Content`). ``expansion`` is
    how many rows the preset makes of one in the file.
    """

    words: tuple[int, ...]
    expansion: float


def first_rows(source: DatasetSource) -> FirstRows | None:
    """The lengths of the first train rows of a mirror; None if it is on the Hub or none is fit.

    Rows with faults are left out; the job that reads all of them will name them.
    """
    path = source.files.get("train")
    if path is None:
        return None
    form = source.format
    table = Table((SplitFile(path, format_of(path.name), path.name),), format=form)
    columns = form.columns if form else source.reference.columns
    extras = form.extras if form else ()
    inputs = inputs_for(
        source.problem,
        columns,
        table.first(),
        dict(source.questions),
        extras,
        source.reference.label_separator,
    )
    words, numbers = [], set()
    for _, number, values in islice(table.rows(on_fault=Faults().add), SAMPLED):
        numbers.add(number)
        try:
            words.append(inputs.read(values).words)
        except CellError:
            continue
    return FirstRows(tuple(words), len(words) / len(numbers)) if words else None


def expected_rows(source: DatasetSource, rows: FirstRows | None) -> dict[str, int | None]:
    """The rows of train and validation; where the preset makes them of others, about how many."""
    if rows is None:
        return source.rows
    made = {role: rows.expansion * rows_in_file(path) for role, path in source.files.items()}
    return {
        role: round(made[role]) if count is None else count for role, count in source.rows.items()
    }
