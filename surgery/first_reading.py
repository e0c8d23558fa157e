"""Settle what the columns of a dataset are, and read it a first time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from surgery.columns import Settled, check_columns, settle_columns
from surgery.dataset_spec import Columns, check_label_names
from surgery.errors import DatasetInvalid, Fault
from surgery.files import shown
from surgery.first_lines import is_usual_name
from surgery.inputs import ChoiceInputs, inputs_for
from surgery.labels import LabelColumn, TagColumn
from surgery.places import Ids, find_id_column
from surgery.shapes import refuse_document, refuse_written_lists
from surgery.survey import Survey
from surgery.table import Head, Table
from surgery.terms import Problem

_SPLITS = ("train", "validation")
_FLAT = {"csv", "tsv"}


@dataclass(frozen=True)
class Asked:
    """What is said of a dataset; None where it is to be inferred."""

    columns: Columns | None
    problem: Problem | None
    labels: Sequence[str] | None
    questions: Mapping[str, str] | None


def first_reading(tables: list[Table], asked: Asked) -> tuple[Survey, Settled]:
    """The first reading, and which columns it read.

    They are settled by the first rows. Where a later row of JSON Lines has another column, they are
    settled again, and if that makes a difference all is read anew.
    """
    if asked.problem is Problem.TOKEN_CLASSIFICATION:
        _refuse_flat_files(tables)
    heads = [table.head() for table in tables]
    try:
        settled = _settled(heads, asked)
    except DatasetInvalid:
        if all(head.complete for head in heads):
            raise
        heads = [table.head(None) for table in tables]
        settled = _settled(heads, asked)
    survey = _read(tables, heads, settled, asked)
    again = _settled(heads, asked)
    if again != settled:
        survey = _read(tables, heads, again, asked)
    if all(part.file_format in _FLAT for part in tables[0].parts):
        _refuse_swallowed_row(survey, heads[0])
    return survey, again


def _settled(heads: list[Head], asked: Asked) -> Settled:
    """What plays which part, from the rows seen of train; the others need the same columns."""
    train, *others = heads
    refuse_document(train)
    refuse_written_lists(train, asked.columns or Columns())
    settled = settle_columns(train.cells, asked.columns, asked.problem, train.file)
    for head in others:
        try:
            check_columns(head.cells, settled.columns, head.file)
        except DatasetInvalid:
            refuse_document(head)
            raise
    return settled


def _refuse_swallowed_row(survey: Survey, train: Head) -> None:
    """Raise DatasetInvalid where a class is called as its column: the header is a row.

    The first rows, which the reader compares with the header, need not show it.
    """
    name, labels = str(survey.columns.label), survey.labels
    if any(map(is_usual_name, train.cells)) or ("train", labels.seen.get(name)) not in labels.first:
        return
    detail = (
        f"the first line looks like a row and not like a header: {shown(name)!r} is a label below "
        "too. Write a line with the names of the columns first; if it is a header, rename that "
        "column"
    )
    fault = Fault(detail, file=train.file, column=shown(name))
    raise DatasetInvalid(f"{train.file}: {detail}", [fault])


def _read(tables: list[Table], heads: list[Head], settled: Settled, asked: Asked) -> Survey:
    used, problem, train = settled.columns, settled.problem, heads[0]
    form, labels = tables[0].format, asked.labels
    first = (train.file, train.number, train.first)
    inputs = inputs_for(problem, used, first, asked.questions, form.extras if form else ())
    if labels is not None:
        _check_labels(list(labels), problem or Problem.CLASSIFICATION)
    if isinstance(inputs, ChoiceInputs):
        labels = [str(place) for place in range(inputs.count)]
    kind = TagColumn if problem is Problem.TOKEN_CLASSIFICATION else LabelColumn
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


def _check_labels(labels: list[str], problem: Problem) -> None:
    try:
        check_label_names(labels, problem)
    except ValueError as error:
        raise DatasetInvalid(str(error), [Fault(str(error), "/labels")]) from None
