"""Idempotency keys: which request has a key, and what it was answered.

A request takes its key before it does anything. It holds the key for a few seconds at a time and
renews that while it works, so that the key of a process that died is soon free again. Its answer
is stored only while it still holds the key: of two requests that both believe they have a key,
one is answered and the other is undone.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, or_, select, update
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session

from app.db import Database, db_now
from app.db.tables import IdempotencyKey
from app.errors import KeyInUse, KeyReused

KEPT_SECONDS = 24 * 3600.0  # how long an answer is replayed
HELD_SECONDS = 20.0  # how long the key of a process that died stays taken
RENEW_SECONDS = 5.0
AGAIN_AFTER_SECONDS = 1


@dataclass(frozen=True)
class StoredAnswer:
    """The answer to the first request with a key. Without a body, it cannot be given again."""

    status: int
    headers: dict[str, str]
    body: str | None


@dataclass(frozen=True)
class HeldKey:
    """A key that a request in progress has."""

    project: str
    key: str
    holder: str  # tells this request from another one that took the key over

    def _mine(self) -> ColumnElement[bool]:
        return and_(
            IdempotencyKey.project == self.project,
            IdempotencyKey.key == self.key,
            IdempotencyKey.holder == self.holder,
            IdempotencyKey.status.is_(None),
        )

    def renew(self, database: Database) -> None:
        """Hold the key for some seconds more."""
        with database.write() as session:
            session.execute(
                update(IdempotencyKey).where(self._mine()).values(held_until=db_now(HELD_SECONDS))
            )

    def keep(self, session: Session, answer: StoredAnswer) -> None:
        """Store the answer in the caller's transaction.

        Raises KeyInUse if another request has taken the key over, so that the transaction fails.
        """
        values = {"status": answer.status, "headers": answer.headers, "body": answer.body}
        kept = session.execute(
            update(IdempotencyKey)
            .where(self._mine())
            .values(**values, held_until=None)
            .returning(IdempotencyKey.key)
        )
        if kept.scalar() is None:
            raise _in_use()

    def release(self, database: Database) -> None:
        """Free the key, unless an answer is stored under it."""
        with database.write() as session:
            session.execute(delete(IdempotencyKey).where(self._mine()))


def take_key(database: Database, project: str, key: str, request: str) -> HeldKey | StoredAnswer:
    """Take a key for a request, or answer what the first request with it was answered.

    ``request`` is the SHA-256 of the request. Raises KeyReused if the first request was another
    one, and KeyInUse while it is in progress.
    """
    held = HeldKey(project, key, secrets.token_hex(16))
    insert = sqlite_insert if database.engine.dialect.name == "sqlite" else postgres_insert
    values: dict[str, Any] = {
        "request_sha256": request,
        "holder": held.holder,
        "held_until": db_now(HELD_SECONDS),
        "created_at": db_now(),
        **dict.fromkeys(("status", "headers", "body")),
    }
    statement = insert(IdempotencyKey).values(project=project, key=key, **values)
    # Whoever comes later waits here for the first transaction, on both databases.
    taken = statement.on_conflict_do_update(
        index_elements=["project", "key"], set_=values, where=_free()
    ).returning(IdempotencyKey.key)
    with database.write() as session:
        if session.scalar(taken) is not None:
            return held
        row = session.get(IdempotencyKey, (project, key))
        if row is None:  # the first request has just failed
            raise _in_use()
        if row.request_sha256 != request:
            raise KeyReused
        if row.status is None:
            raise _in_use()
        return StoredAnswer(row.status, row.headers or {}, row.body)


def _free() -> ColumnElement[bool]:
    """Whether a key can be taken although there is a row: its time or its process is over."""
    return or_(
        IdempotencyKey.created_at < db_now(-KEPT_SECONDS),
        and_(IdempotencyKey.status.is_(None), IdempotencyKey.held_until < db_now()),
    )


def _in_use() -> KeyInUse:
    return KeyInUse(headers={"Retry-After": str(AGAIN_AFTER_SECONDS)})


def forget_old_keys(database: Database) -> int:
    """Delete the keys whose time is over, and return how many there were."""
    with database.read() as session:
        if session.scalar(select(IdempotencyKey.key).where(_free()).limit(1)) is None:
            return 0  # the usual case, checked without SQLite's write lock
    with database.write() as session:
        deleted = session.scalars(
            delete(IdempotencyKey).where(_free()).returning(IdempotencyKey.key)
        )
        return len(deleted.all())
