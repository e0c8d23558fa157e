"""What a running API process consists of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from app.artifacts.storage import Storage
from app.db import Database
from app.settings import Settings
from app.tables import DEFAULT_PROJECT, Job


@dataclass(frozen=True)
class Service:
    """The parts of a running API process, as one request's project sees them."""

    settings: Settings
    database: Database
    storage: Storage
    ring: Callable[[Job], None]  # tells workers that a job waits; never fails
    project: str = DEFAULT_PROJECT  # whose rows are read and written
