"""The right to work on a job, and the history that every change writes.

The database's clock alone decides whether a lease still holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.orm import Session

from app.db import db_now
from app.tables import Job, JobEvent, Kind, Status

Json = dict[str, Any]


class Fenced(Exception):
    """The lease is lost: another epoch owns the job, or it is over. Nothing was written."""


@dataclass(frozen=True)
class Lease:
    """The right to work on a job, until it expires or is lost."""

    job_id: str
    epoch: int


@dataclass(frozen=True)
class Renewal:
    """What a heartbeat brings back."""

    cancel_requested: bool


def held(lease: Lease) -> ColumnElement[bool]:
    """The one condition under which a worker may write."""
    return and_(
        Job.id == lease.job_id,
        Job.lease_epoch == lease.epoch,
        Job.status == Status.RUNNING,
        Job.lease_expires_at > db_now(),
    )


def record_event(session: Session, job_id: str, epoch: int, kind: str, data: Json) -> None:
    """Add to a job's history, in the caller's transaction."""
    event = JobEvent(job_id=job_id, lease_epoch=epoch, type=kind, data=data)
    event.at = db_now()
    session.add(event)


def holding(session: Session, lease: Lease) -> Job:
    """The job's row, locked, if the lease still holds. Raises Fenced."""
    job = session.scalar(select(Job).where(held(lease)).with_for_update())
    if job is None:
        raise Fenced
    return job


def lock_comparison(session: Session, job_id: str) -> None:
    """Lock the comparison that a job belongs to, before the job itself is locked."""
    parent = select(Job.parent).where(Job.id == job_id).scalar_subquery()
    query = select(Job).where(Job.id == parent, Job.kind == Kind.COMPARISON)
    session.execute(query.with_for_update())


def ending(session: Session, lease: Lease) -> Job:
    """The job's row and its comparison's, locked, if the lease still holds. Raises Fenced."""
    lock_comparison(session, lease.job_id)
    return holding(session, lease)
