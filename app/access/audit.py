"""The audit log: who changed what through the API, and when."""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.exc import SQLAlchemyError

from app.access.principal import Principal
from app.db import Database, db_now
from app.tables import AuditEvent

log = logging.getLogger("surgeon.audit")
SECONDS_A_DAY = 24 * 3600.0


def forget_old_changes(database: Database, days: int) -> None:
    """Remove the changes that were made more than so many days ago."""
    old = AuditEvent.at < db_now(-days * SECONDS_A_DAY)
    with database.read() as session:
        if session.scalar(select(AuditEvent.seq).where(old).limit(1)) is None:
            return  # the usual case, checked without SQLite's write lock
    with database.write() as session:
        session.execute(delete(AuditEvent).where(old))


def record_change(
    database: Database,
    principal: Principal,
    action: str,
    target: str | None,
    request_id: str | None,
    data: dict[str, Any],
) -> None:
    """Record a change that was made. If the database fails, the log has the record instead."""
    event = AuditEvent(
        project=principal.project,
        actor=principal.actor,
        action=action,
        target=target,
        request_id=request_id,
        data=data,
    )
    event.at = db_now()
    try:
        with database.write() as session:
            session.add(event)
    except SQLAlchemyError as error:
        log.error(
            "not recorded: %s %s %s of %s, request %s, %s: %s",
            *(principal.actor, action, target, principal.project, request_id, data, error),
        )
