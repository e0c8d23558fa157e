"""A job's history: its events, and its changes of status, which its own row has too."""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

from sqlalchemy import Table, insert
from sqlalchemy.orm import Session

from app.db import db_now
from app.db.tables import Job, JobEvent, Status
from app.jobs.webhooks import notices

Json = dict[str, Any]
EVENTS = cast("Table", JobEvent.__table__)
# Built once, as building it takes longer than the database does; inline, as its number is not read.
INSERT = insert(EVENTS).inline()
INSERT_NOW = INSERT.values(at=db_now())


def record_event(
    session: Session, job_id: str, epoch: int, kind: str, data: Json, at: datetime | None = None
) -> None:
    """Add an event to a job's history, in the caller's transaction."""
    session.flush()  # the job itself may be new
    event = {"job_id": job_id, "lease_epoch": epoch, "type": kind, "data": data}
    if at is None:
        session.execute(INSERT_NOW, event)
    else:
        session.execute(INSERT, event | {"at": at})


def record_status(session: Session, job: Job, status: Status, **data: Any) -> None:
    """Add a change of status to the job's history, both as an event and in the job's own row."""
    now, told = notices.look(session, job.project)
    add_transition(job, status, now, **data)
    record_change_of_status(session, job, status, now, told=told, **data)


def add_transition(job: Job, status: Status, now: datetime, **data: Any) -> None:
    """Add a change of status to the job's own row."""
    change = {"status": status.value, "at": now.isoformat().replace("+00:00", "Z")}
    reason = data.get("reason") or data.get("code")
    job.transitions = [*(job.transitions or []), change | ({"reason": reason} if reason else {})]


def record_change_of_status(
    session: Session, job: Job, status: Status, now: datetime, *, told: bool, **data: Any
) -> None:
    """Add the event of a change of status, and tell webhooks of it if ``told``."""
    record_event(session, job.id, job.lease_epoch, "status", {"status": status.value, **data}, now)
    if told:
        notices.post_status(session, job, status, now, data.get("code"))
