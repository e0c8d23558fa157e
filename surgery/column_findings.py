"""Findings about columns that were inferred, and that left out what may well be meant."""

from __future__ import annotations

from collections.abc import Iterator

from surgery.columns import settle_columns
from surgery.errors import DatasetInvalid
from surgery.named_findings import finding, quoted
from surgery.places import ID_COLUMNS
from surgery.schema import DatasetReport, Finding
from surgery.shapes import is_written_list
from surgery.survey import Survey
from surgery.table import Head
from surgery.terms import Problem


def column_findings(report: DatasetReport, survey: Survey) -> list[Finding]:
    """Columns that are not read though another reading of the files would read them."""
    if "columns" not in report.inferred:
        return []
    used = {name for _, name in report.columns.named()}
    train = survey.heads["train"]
    names = [name for name in _suspects(report, train) if name not in used]
    found = []
    if names:
        detail = f"columns that are not read: {quoted(names)}; name in columns what they are"
        found.append(finding("unread_columns", detail, len(names), []))
    held = survey.heads.get("validation")
    alone = [] if held is None else [name for name in _used(held) if name not in train.cells]
    if alone:
        detail = (
            f"columns of validation that are not read, for train never has them: {quoted(alone)}"
        )
        found.append(finding("unread_columns", detail, len(alone), []))
    return found


def _suspects(report: DatasetReport, head: Head) -> Iterator[str]:
    """Lists of texts, and what a choice without a text may be about."""
    lonely = report.problem is Problem.MULTIPLE_CHOICE and report.columns.text is None
    for name, value in head.cells.items():
        some = next(iter(value), None) if isinstance(value, list | dict) else None
        listed = isinstance(some, str | dict) or is_written_list(value)
        if listed or (lonely and isinstance(value, str) and name.lower() not in ID_COLUMNS):
            yield name


def _used(head: Head) -> list[str]:
    """The columns that would be read of a table by itself."""
    try:
        settled = settle_columns(head.cells, None, None, head.file)
    except DatasetInvalid:
        return []
    return [name for _, name in settled.columns.named()]
