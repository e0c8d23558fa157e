"""The audit log: who changed what through the API, and when."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import Table, delete, insert, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.access.principal import Principal
from app.db import Database, db_now
from app.db.tables import AuditEvent

log = logging.getLogger("surgeon.audit")
SECONDS_A_DAY = 24 * 3600.0
EVENTS = cast("Table", AuditEvent.__table__)
# Built once, as building it takes longer than the database does; inline, as its number is not read.
INSERT = insert(EVENTS).values(at=db_now()).inline()


def forget_old_changes(database: Database, days: int) -> None:
    """Remove the changes that were made more than so many days ago."""
    old = AuditEvent.at < db_now(-days * SECONDS_A_DAY)
    with database.read() as session:
        if session.scalar(select(AuditEvent.seq).where(old).limit(1)) is None:
            return  # the usual case, checked without SQLite's write lock
    with database.write() as session:
        session.execute(delete(AuditEvent).where(old))


@dataclass(frozen=True)
class Action:
    """What a request does, and who sent it."""

    principal: Principal
    name: str
    request_id: str | None
    data: dict[str, Any]

    def record(self, session: Session, target: str | None) -> None:
        """Record the change in the transaction that makes it; ``target`` is what it changes."""
        values = {
            "project": self.principal.project,
            "actor": self.principal.actor,
            "action": self.name,
            "target": target,
            "request_id": self.request_id,
            "data": self.data,
        }
        session.execute(INSERT, values)


def record_change(database: Database, action: Action, target: str | None) -> None:
    """Record a change that was made. If the database fails, the log has the record instead."""
    try:
        with database.write() as session:
            action.record(session, target)
    except SQLAlchemyError as error:
        who = action.principal
        log.error(
            "not recorded: %s %s %s of %s, request %s, %s: %s",
            *(who.actor, action.name, target, who.project, action.request_id, action.data, error),
        )
