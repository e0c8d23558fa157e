"""Tags that seem to mark entities in a scheme that entity_f1 does not support."""

from __future__ import annotations

import re

from surgery.data.ingest.findings.finding import finding, quoted
from surgery.data.ingest.findings.labelled import is_number, places_of
from surgery.data.ingest.survey import Survey
from surgery.data.presets.tasks import marks_entities
from surgery.schemas.data.dataset import DatasetReport, Finding

_ENTITY_TAG = re.compile(
    r"(?P<mark>[BIOESLUMW])[-_:./|].+|.+[-_:./|](?P<last>[BIESLUMW])", re.IGNORECASE
)


def entity_findings(report: DatasetReport, survey: Survey) -> list[Finding]:
    """A finding if tags seem to mark entities in a scheme that entity_f1 does not support."""
    if marks_entities(report.labels):
        return []
    if survey.labels.given is None and all(map(is_number, report.labels)):
        detail = (
            "tags are numbers without names: name them in labels, in the order of the numbers; "
            "without names as O, B-… and I-… no entity_f1 is measured"
        )
        return [finding("unmeasured_entities", detail, len(report.labels), [])]
    marked = [name for name in report.labels if _ENTITY_TAG.fullmatch(name)]
    others = [name for name in report.labels if name != "O" and not marks_entities([name])]
    words = [name for name in report.labels if name not in {"O", "o", "0"}]
    if not _begins(marked) or 2 * len(marked) < len(words):
        return []
    advice = "write the tags as O, B-… and I-…"
    if others == ["0"]:
        advice = "write the letter O instead of the number"
    elif any(name[:2] in {"E-", "S-", "L-", "U-", "M-", "W-"} for name in others):
        advice = "write E-, L- and M- as I-, and S-, U- and W- as B-"
    detail = f"entity_f1 is not measured because of the tags {quoted(others)}; {advice}"
    return [finding("unmeasured_entities", detail, len(others), places_of(survey, set(others)))]


def _begins(tags: list[str]) -> bool:
    """Whether some tag says that an entity begins or continues."""
    matches = (_ENTITY_TAG.fullmatch(tag) for tag in tags)
    marks = {(match["mark"] or match["last"]).upper() for match in matches if match}
    return bool(marks & {"B", "I"})
