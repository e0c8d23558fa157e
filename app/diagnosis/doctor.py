"""Runs every check of an installation."""

from __future__ import annotations

from collections.abc import Iterator

from app.diagnosis.finding import Finding
from app.diagnosis.machine import device_findings, source_findings
from app.diagnosis.services import (
    broker_findings,
    database_findings,
    disk_findings,
    storage_findings,
)
from app.settings import Settings


def examine(settings: Settings) -> Iterator[Finding]:
    """Check everything that these settings name. Nothing is changed that was there.

    No secret is shown.
    """
    yield from database_findings(settings)
    yield from broker_findings(settings)
    yield from storage_findings(settings)
    yield from disk_findings(settings)
    yield from source_findings(settings)
    yield from device_findings()
