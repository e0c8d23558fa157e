"""What a running API process consists of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import select

from app.artifacts.storage import Storage
from app.db import Database
from app.db.tables import DEFAULT_PROJECT, Job, SigningKey
from app.settings import Settings


def read_cursor_key(database: Database) -> bytes:
    """The key that signs cursors, which a migration has made."""
    query = select(SigningKey.key).where(SigningKey.name == "cursors")
    with database.read() as session:
        return bytes.fromhex(session.scalars(query).one())


@dataclass(frozen=True)
class Service:
    """The parts of a running API process, as one request's project sees them."""

    settings: Settings
    database: Database
    storage: Storage
    ring: Callable[[Job], None]  # tells workers that a job waits; never fails
    cursor_key: bytes  # signs the cursors of lists; the same in every process
    project: str = DEFAULT_PROJECT  # whose rows are read and written
    request_id: str | None = None  # of the request that is being answered
