"""Turn data files into the stored form of a dataset, or into the list of what is wrong with them.

Each file is read twice: once to check every row and learn the labels, once to write; and once more
where a late row of JSON Lines has a column to be read that no row before it has. Between the
readings a row is 36 bytes in a temporary file (a hash of its content, its label, its number) and
some 6 in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Literal

from surgery.arrow import SplitWriter
from surgery.columns import Settled, check_columns, settle_columns
from surgery.dataset_spec import Columns, check_label_names
from surgery.errors import DatasetInvalid, Fault
from surgery.files import LIMITS, FileFormat, Limits, shown
from surgery.findings import find
from surgery.first_lines import is_usual_name
from surgery.inputs import ChoiceInputs, inputs_for
from surgery.labels import LabelColumn, Labelling, TagColumn
from surgery.places import Ids, find_id_column
from surgery.repeats import find_repeats
from surgery.schema import WORD_BINS, DatasetReport, TextLengths
from surgery.shapes import refuse_document, refuse_written_lists
from surgery.survey import Survey
from surgery.table import Head, Part, Table
from surgery.terms import Problem

REPORT = "report.json"
SPLITS = ("train", "validation")
_FLAT = {"csv", "tsv"}

Inferred = Literal["columns", "problem", "validation"]


def ingest(  # noqa: PLR0913  # the fields of an upload, named at the call
    train: Path,
    validation: Path | None,
    out: Path,
    *,
    train_format: FileFormat,
    validation_format: FileFormat | None = None,
    columns: Columns | None = None,
    problem: Problem | None = None,
    labels: Sequence[str] | None = None,
    seed: int = 0,
    train_name: str = "train",
    validation_name: str = "validation",
    limits: Limits = LIMITS,
) -> DatasetReport:
    """Check the files and write ``out``: ``train.arrow``, ``validation.arrow``, ``report.json``.

    What is not given is inferred, and a seeded tenth of train held out if there is no validation
    file. With ``labels``, integers in the data are indices into them. Raises DatasetInvalid with
    the first 100 faults; ``out`` then does not exist. FileExistsError if it exists already.
    """
    held_out = None
    if validation is not None:
        file_format = validation_format or train_format
        held_out = Table((Part(validation, file_format, validation_name),), limits)
    table = Table((Part(train, train_format, train_name),), limits)
    return ingest_tables(
        table, held_out, out, columns=columns, problem=problem, labels=labels, seed=seed
    )


def ingest_tables(
    train: Table,
    validation: Table | None,
    out: Path,
    *,
    columns: Columns | None = None,
    problem: Problem | None = None,
    labels: Sequence[str] | None = None,
    questions: Mapping[str, str] | None = None,
    seed: int = 0,
) -> DatasetReport:
    """As ``ingest``, for splits of several files.

    ``questions`` says what the values of a multiple choice's question column stand for.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists already; a dataset is written once")
    tables = [train] if validation is None else [train, validation]
    asked = _Asked(columns, problem, labels, questions)
    survey, settled = _surveyed(tables, asked)
    labelling = survey.settle()
    inferred: list[Inferred] = ["columns"] if settled.guessed else []
    inferred += ["problem"] if problem is None else []
    inferred += ["validation"] if validation is None else []
    mask = survey.mask(labelling, seed, split=validation is None)
    with _scratch(out) as folder:
        writers = _write(survey, labelling, tables, mask, folder)
        report = _report(survey, labelling, inferred, mask, writers)
        _write_durably(folder / REPORT, report.model_dump_json(indent=2))
    return report


@dataclass(frozen=True)
class _Asked:
    """What is said of a dataset; None where it is to be inferred."""

    columns: Columns | None
    problem: Problem | None
    labels: Sequence[str] | None
    questions: Mapping[str, str] | None


def _surveyed(tables: list[Table], asked: _Asked) -> tuple[Survey, Settled]:
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
    _refuse_swallowed_row(survey, tables[0])
    return survey, again


def _settled(heads: list[Head], asked: _Asked) -> Settled:
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


def _refuse_swallowed_row(survey: Survey, train: Table) -> None:
    """Raise DatasetInvalid where a class is called as its column: the header is a row.

    The first rows, which the reader compares with the header, need not show it.
    """
    name, labels = str(survey.columns.label), survey.labels
    flat = all(part.file_format in _FLAT for part in train.parts)
    if not flat or is_usual_name(name) or ("train", labels.seen.get(name)) not in labels.first:
        return
    detail = (
        f"the first line looks like a row and not like a header: {shown(name)!r} is a label below "
        "too. Write a line with the names of the columns first; if it is a header, rename that "
        "column"
    )
    file = train.parts[0].name
    raise DatasetInvalid(f"{file}: {detail}", [Fault(detail, file=file, column=shown(name))])


def _read(tables: list[Table], heads: list[Head], settled: Settled, asked: _Asked) -> Survey:
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
    by_split = dict(zip(SPLITS, heads, strict=False))
    survey = Survey(used, inputs, kind(problem, labels), by_split, ids=ids)
    for split, table in zip(SPLITS, tables, strict=False):
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


def _write(
    survey: Survey, labelling: Labelling, tables: list[Table], mask: bytearray, folder: Path
) -> dict[str, SplitWriter]:
    """The second reading: each row goes to the split its byte of ``mask`` names."""
    inputs = survey.inputs
    with (
        SplitWriter(folder / "train.arrow", labelling, inputs.fields) as train,
        SplitWriter(folder / "validation.arrow", labelling, inputs.fields) as validation,
    ):
        writers = (train, validation)
        rows = (values for table in tables for _, _, values in table.rows(survey.wanted))
        try:
            for side, values in zip(mask, rows, strict=True):
                content = inputs.read(values)
                writers[side].add(content, inputs.label(values, content))
        except (ValueError, KeyError):  # more or fewer rows, or other ones, than the first time
            detail = "the files changed while they were read; send them again"
            raise DatasetInvalid(detail) from None
    return {"train": train, "validation": validation}


def _report(
    survey: Survey,
    labelling: Labelling,
    inferred: list[Inferred],
    mask: bytearray,
    writers: dict[str, SplitWriter],
) -> DatasetReport:
    regression = labelling.problem is Problem.REGRESSION
    values = survey.labels.values if regression else survey.labels.codes
    repeats = find_repeats(survey.hashes, survey.repeated, mask, values)
    report = DatasetReport(
        problem=labelling.problem,
        columns=survey.columns,
        inferred=inferred,
        labels=list(labelling.names),
        rows={split: writer.rows for split, writer in writers.items()},
        label_counts=None
        if regression
        else {split: writer.named_counts() for split, writer in writers.items()},
        label_range={split: (writer.low, writer.high) for split, writer in writers.items()}
        if regression
        else None,
        text_lengths=_lengths(survey, mask),
        duplicates=repeats.counts,
        warnings=[],
        fingerprint=_fingerprint(labelling, writers),
    )
    report.findings = find(report, survey, repeats, mask)
    report.warnings = [finding.detail for finding in report.findings]
    return report


def _lengths(survey: Survey, mask: bytearray) -> TextLengths:
    counts = [0] * len(WORD_BINS)
    for words, side in zip(survey.words, mask, strict=True):
        if not side:
            counts[bisect_right(WORD_BINS, words) - 1] += 1
    place, longest = max(enumerate(survey.words), key=itemgetter(1))
    return TextLengths(
        bins=list(WORD_BINS),
        train=counts,
        longest=longest,
        longest_at=survey.places.at(place),
    )


def _fingerprint(labelling: Labelling, writers: dict[str, SplitWriter]) -> str:
    content = {
        "problem": labelling.problem,
        "labels": labelling.names,
        "splits": {split: writer.digest.hexdigest() for split, writer in writers.items()},
    }
    canonical = json.dumps(content, sort_keys=True).encode()
    return "sha256:" + hashlib.sha256(canonical).hexdigest()


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that becomes ``out`` when all is written, and goes when not."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.parent / f".{out.name}.{secrets.token_hex(8)}"
    folder.mkdir()
    try:
        yield folder
        folder.rename(out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _write_durably(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
