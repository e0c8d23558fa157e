"""The parts that a running API process is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from app.artifacts.storage import Storage
from app.db import Database
from app.settings import Settings
from app.tables import Job


@dataclass(frozen=True)
class Service:
    """The parts of a running API process."""

    settings: Settings
    database: Database
    storage: Storage
    ring: Callable[[Job], None]  # tell workers that a job waits; may do nothing, never fails
