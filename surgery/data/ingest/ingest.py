"""Turn data files into the stored form of a dataset, or into a list of their faults.

Each file is read twice: first to check every row and learn the labels, then to write. It is read
once more if a late row of JSON Lines has a column to read that no earlier row has. Between the
readings a row takes 36 bytes in a temporary file (a hash of its content, its label, its number)
and some 6 bytes in memory.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Literal

from surgery.data.files.source import LIMITS, FileFormat, Limits
from surgery.data.ingest.arrow import SplitWriter
from surgery.data.ingest.findings.find import find
from surgery.data.ingest.inputs import LabelSetInputs
from surgery.data.ingest.label_sets import label_sets
from surgery.data.ingest.labels import Labelling
from surgery.data.ingest.repeats import find_repeats
from surgery.data.ingest.survey import Declared, Survey, first_reading
from surgery.data.ingest.table import SplitFile, Table
from surgery.errors import DatasetInvalid
from surgery.io.digests import json_digest
from surgery.io.folders import sync, whole_folder
from surgery.schemas.data.dataset import WORD_BINS, Columns, DatasetReport, LabelSets, TextLengths
from surgery.schemas.enums import Problem

REPORT = "report.json"

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
    label_separator: str | None = None,
    seed: int = 0,
    train_name: str = "train",
    validation_name: str = "validation",
    limits: Limits = LIMITS,
) -> DatasetReport:
    """Check the files and write ``out``: ``train.arrow``, ``validation.arrow``, ``report.json``.

    Arguments that are None are inferred. Without a validation file, a tenth of train, drawn with
    ``seed``, becomes validation. With ``labels``, integers in the data are indices into them.
    ``label_separator`` divides the texts of rows with several labels.
    Raises DatasetInvalid with the first 100 faults, and ``out`` then does not exist; raises
    FileExistsError if it exists already.
    """
    table = Table((SplitFile(train, train_format, train_name),), limits)
    validation_table = None
    if validation is not None:
        file_format = validation_format or train_format
        validation_table = Table((SplitFile(validation, file_format, validation_name),), limits)
    return ingest_tables(
        table,
        validation_table,
        out,
        columns=columns,
        problem=problem,
        labels=labels,
        label_separator=label_separator,
        seed=seed,
    )


def ingest_tables(  # noqa: PLR0913  # as above
    train: Table,
    validation: Table | None,
    out: Path,
    *,
    columns: Columns | None = None,
    problem: Problem | None = None,
    labels: Sequence[str] | None = None,
    label_separator: str | None = None,
    questions: Mapping[str, str] | None = None,
    seed: int = 0,
) -> DatasetReport:
    """As ``ingest``, for splits of several files.

    ``questions`` maps the values of a multiple-choice dataset's question column to the questions
    they stand for.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists already; a dataset is written once")
    tables = [train] if validation is None else [train, validation]
    several = Problem.MULTI_LABEL if label_separator is not None else None
    declared = Declared(columns, problem or several, labels, questions, label_separator)
    survey, settled = first_reading(tables, declared)
    labelling = survey.settle()
    inferred: list[Inferred] = ["columns"] if settled.guessed else []
    inferred += ["problem"] if problem is None else []
    inferred += ["validation"] if validation is None else []
    mask = survey.mask(labelling, seed, split=validation is None)
    with whole_folder(out) as folder:
        writers = _write(survey, labelling, tables, mask, folder)
        report = _report(survey, labelling, inferred, mask, writers)
        (folder / REPORT).write_text(report.model_dump_json(indent=2), encoding="utf-8")
        sync(folder / REPORT)
    return report


def _write(
    survey: Survey, labelling: Labelling, tables: list[Table], mask: bytearray, folder: Path
) -> dict[str, SplitWriter]:
    """The second reading, which writes each row to the split that its byte in ``mask`` names."""
    inputs = survey.inputs
    with (
        SplitWriter(folder / "train.arrow", labelling, inputs.fields) as train,
        SplitWriter(folder / "validation.arrow", labelling, inputs.fields) as validation,
    ):
        writers = (train, validation)
        rows = (values for table in tables for _, _, values in table.rows(survey.columns_read))
        try:
            for side, values in zip(mask, rows, strict=True):
                content = inputs.read(values)
                writers[side].add(content, inputs.label(values, content))
        except (ValueError, KeyError):  # the rows are not those of the first reading
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
        label_sets=_sets(survey, labelling, writers),
        text_lengths=_lengths(survey, mask),
        duplicates=repeats.counts,
        warnings=[],
        fingerprint=_fingerprint(labelling, writers),
    )
    report.findings = find(report, survey, repeats, mask)
    report.warnings = [finding.detail for finding in report.findings]
    return report


def _sets(
    survey: Survey, labelling: Labelling, writers: dict[str, SplitWriter]
) -> LabelSets | None:
    if not isinstance(survey.inputs, LabelSetInputs):
        return None
    counts = {split: writer.sets for split, writer in writers.items()}
    return label_sets(counts, labelling.names, survey.inputs.separator)


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
    return f"sha256:{json_digest(content)}"
