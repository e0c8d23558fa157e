"""A job's history: its events, and its changes of status, which its own row has too."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db import db_now
from app.jobs.webhooks import notices
from app.tables import Job, JobEvent, Status

Json = dict[str, Any]


def record_event(
    session: Session, job_id: str, epoch: int, kind: str, data: Json, at: datetime | None = None
) -> None:
    """Add an event to a job's history, in the caller's transaction."""
    event = JobEvent(job_id=job_id, lease_epoch=epoch, type=kind, data=data)
    event.at = at or db_now()
    session.add(event)


def record_status(session: Session, job: Job, status: Status, **data: Any) -> None:
    """Add a change of status to the job's history, both as an event and in the job's own row."""
    now = session.scalar(select(db_now()))
    assert now is not None
    record_event(session, job.id, job.lease_epoch, "status", {"status": status.value, **data}, now)
    change = {"status": status.value, "at": now.isoformat().replace("+00:00", "Z")}
    reason = data.get("reason") or data.get("code")
    job.transitions = [*job.transitions, change | ({"reason": reason} if reason else {})]
    notices.post_status(session, job, status, now, data.get("code"))
