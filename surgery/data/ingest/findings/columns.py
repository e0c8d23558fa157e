"""Columns that are not read, although they may have been meant to be."""

from __future__ import annotations

from collections.abc import Iterator

from surgery.data.ingest.columns.infer import settle_columns
from surgery.data.ingest.columns.shapes import is_written_list
from surgery.data.ingest.findings.finding import finding, quoted
from surgery.data.ingest.spool import ID_COLUMNS
from surgery.data.ingest.survey import Survey
from surgery.data.ingest.table import TableHead
from surgery.errors import DatasetInvalid
from surgery.schemas.data.dataset import DatasetReport, Finding
from surgery.schemas.enums import Problem


def column_findings(report: DatasetReport, survey: Survey) -> list[Finding]:
    """Columns that are not read, although they may have been meant to be."""
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
            f"columns of validation that are not read, since train never has them: {quoted(alone)}"
        )
        found.append(finding("unread_columns", detail, len(alone), []))
    return found


def _suspects(report: DatasetReport, head: TableHead) -> Iterator[str]:
    """Columns of lists of texts, and texts that choices without a text may be about."""
    lonely = report.problem is Problem.MULTIPLE_CHOICE and report.columns.text is None
    for name, value in head.cells.items():
        some = next(iter(value), None) if isinstance(value, list | dict) else None
        listed = isinstance(some, str | dict) or is_written_list(value)
        if listed or (lonely and isinstance(value, str) and name.lower() not in ID_COLUMNS):
            yield name


def _used(head: TableHead) -> list[str]:
    """The columns that would be read if this table were the only one."""
    try:
        settled = settle_columns(head.cells, None, None, head.file)
    except DatasetInvalid:
        return []
    return [name for _, name in settled.columns.named()]
