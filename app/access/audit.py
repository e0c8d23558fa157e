"""The audit log: who changed what through the API, and when."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import Table, insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.access.principal import Principal
from app.db import Database, db_now
from app.tables import AuditEvent

log = logging.getLogger("surgeon.audit")


EVENTS = cast("Table", AuditEvent.__table__)


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
        session.execute(insert(EVENTS).values(**values, at=db_now()))


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
