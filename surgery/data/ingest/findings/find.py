"""All findings about a dataset that can be used."""

from __future__ import annotations

from surgery.data.ingest.findings.classes import (
    NOUNS,
    balance_findings,
    class_findings,
    mixed_findings,
)
from surgery.data.ingest.findings.columns import column_findings
from surgery.data.ingest.findings.finding import finding
from surgery.data.ingest.findings.labels import label_findings
from surgery.data.ingest.findings.rows import repeat_findings, text_findings
from surgery.data.ingest.repeats import Repeats
from surgery.data.ingest.survey import Survey
from surgery.schemas.data.dataset import DatasetReport, Finding
from surgery.schemas.enums import Problem


def find(
    report: DatasetReport, survey: Survey, repeats: Repeats, mask: bytes | bytearray
) -> list[Finding]:
    """All findings. ``mask`` has one byte for each row read, which is 1 for validation rows."""
    found = [
        *text_findings(survey, mask),
        *column_findings(report, survey),
        *label_findings(report, survey),
    ]
    if report.problem is Problem.CLASSIFICATION:
        found += balance_findings(report) + mixed_findings(survey)
    if report.problem in NOUNS:
        found += class_findings(report, survey, mask)
    if report.label_range is not None and len(set(report.label_range["train"])) == 1:
        detail = "every label of train is the same number; nothing can be learned from it"
        found.append(finding("constant_label", detail, report.rows["train"], []))
    return found + repeat_findings(survey, repeats)
