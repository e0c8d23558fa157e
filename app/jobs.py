"""The job state machine: the only code that changes a job's status.

    queued ──claim──▶ running ──finish──▶ succeeded
       ▲                 │ ├────fail────▶ failed      (also: reap or crash at the last attempt)
       └─release─────────┤ └───cancelled─▶ cancelled
         crash, reap     │
    queued ──cancel─────────────────────▶ cancelled

A claim is a lease. Its epoch grows by one at every claim and fences every later write: a worker
that was given up for dead finds no row to change. The database's clock alone decides. Each function
is one transaction and tells its caller whether it took place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import CTE, ColumnElement, and_, or_, select, update
from sqlalchemy.orm import Session

from app.db import Database, db_now
from app.tables import TERMINAL, Job, JobEvent, Kind, Status

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


def _status(session: Session, job_id: str, epoch: int, status: Status, **data: Any) -> None:
    record_event(session, job_id, epoch, "status", {"status": status.value, **data})


def enqueue(session: Session, job: Job) -> Job:
    """Insert a queued job, in the caller's transaction."""
    job.status = Status.QUEUED
    job.created_at = job.queued_at = job.updated_at = db_now()
    session.add(job)
    session.flush()
    _status(session, job.id, 0, Status.QUEUED)
    session.refresh(job)
    return job


def store_finished_ranking(session: Session, job: Job) -> Job:
    """Insert a ranking that a fine-tune computed, already succeeded."""
    enqueue(session, job)
    job.status = Status.SUCCEEDED
    job.started_at = job.finished_at = db_now()
    _status(session, job.id, 0, Status.SUCCEEDED)
    return job


def claim(
    database: Database, owner: str, kinds: Sequence[Kind], lease: timedelta
) -> tuple[Lease, Job] | None:
    """Take the next queued job: highest priority first, then oldest. None when there is none."""
    ready = _ready(kinds)
    values = {
        "lease_epoch": Job.lease_epoch + 1,
        "lease_owner": owner,
        "lease_expires_at": db_now(lease.total_seconds()),
        **dict.fromkeys(("started_at", "heartbeat_at", "updated_at"), db_now()),
        "phase": "starting",
        "progress": None,
        "error": None,
    }
    statement = (
        update(Job)
        .where(Job.id.in_(select(ready.c.id)), Job.status == Status.QUEUED)
        .values(status=Status.RUNNING, **values)
        .returning(Job)
        .execution_options(synchronize_session=False)
    )
    with database.read() as session:
        if session.scalar(select(ready.c.id)) is None:
            return None  # the common case of a poll, without taking the writer lane
    with database.write() as session:
        job = session.scalar(statement)
        if job is None:
            return None
        _status(session, job.id, job.lease_epoch, Status.RUNNING, worker=owner)
        return Lease(job.id, job.lease_epoch), job


def _ready(kinds: Sequence[Kind]) -> CTE:
    """The row a claim would take, locked on Postgres; others' locks are stepped over."""
    return (
        select(Job.id)
        .where(
            Job.status == Status.QUEUED,
            Job.kind.in_(kinds),
            or_(Job.not_before.is_(None), Job.not_before <= db_now()),
        )
        .order_by(Job.priority.desc(), Job.queued_at, Job.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .cte("ready")
    )


def renew(
    database: Database, lease: Lease, duration: timedelta, phase: str | None, progress: Json | None
) -> Renewal:
    """Heartbeat: prolong the lease, store the progress, learn of a cancel. Raises Fenced."""
    with database.write() as session:
        wanted = session.scalar(
            update(Job)
            .where(held(lease))
            .values(
                lease_expires_at=db_now(duration.total_seconds()),
                heartbeat_at=db_now(),
                updated_at=db_now(),
                phase=phase,
                progress=progress,
            )
            .returning(Job.cancel_requested)
        )
        if wanted is None:
            raise Fenced
        return Renewal(bool(wanted))


def holding(session: Session, lease: Lease) -> Job:
    """The job's row, locked, if the lease still holds. Raises Fenced."""
    job = session.scalar(select(Job).where(held(lease)).with_for_update())
    if job is None:
        raise Fenced
    return job


def _end(session: Session, job: Job, status: Status, **values: Any) -> None:
    """Leave ``running`` for good; the caller holds the row."""
    for name, value in values.items():
        setattr(job, name, value)
    job.status = status
    job.lease_expires_at = None
    job.state = None  # its files are garbage now
    job.finished_at = job.updated_at = db_now()
    job.phase = None
    error = (values.get("error") or {}).get("code")
    _status(session, job.id, job.lease_epoch, status, **({"code": error} if error else {}))


def finish(database: Database, lease: Lease, result: Json, resolved: Json) -> Json | None:
    """Store the result and succeed; the resume state that nobody needs now. Raises Fenced."""
    with database.write() as session:
        job = holding(session, lease)
        state = job.state
        full = {**(job.progress or {}), "percent": 100.0, "eta_seconds": 0.0}
        _end(
            session, job, Status.SUCCEEDED,
            result=result, resolved={**job.resolved, **resolved}, progress=full,
        )  # fmt: skip
        return state


def fail(database: Database, lease: Lease, error: Json) -> None:
    """Store an error and fail for good. Raises Fenced."""
    with database.write() as session:
        _end(session, holding(session, lease), Status.FAILED, error=error)


def end_cancelled(database: Database, lease: Lease) -> None:
    """The worker stopped because it was asked to. Raises Fenced."""
    with database.write() as session:
        _end(session, holding(session, lease), Status.CANCELLED)


def release(database: Database, lease: Lease) -> None:
    """Give a job back unharmed: the worker is leaving. Nothing is charged. Raises Fenced."""
    with database.write() as session:
        _requeue(session, holding(session, lease), None, "drained")


def crash(database: Database, lease: Lease, error: Json, backoff: timedelta) -> Status:
    """The attempt died: queue it again with backoff, or fail at the last attempt. Raises Fenced."""
    with database.write() as session:
        job = holding(session, lease)
        return _charge(session, job, error, backoff)


def _charge(session: Session, job: Job, error: Json, backoff: timedelta) -> Status:
    job.crashes += 1
    if job.cancel_requested:
        _end(session, job, Status.CANCELLED)
    elif job.crashes >= job.max_attempts:
        _end(session, job, Status.FAILED, error=error)
    else:
        delay = backoff * 2 ** (job.crashes - 1)
        _requeue(session, job, delay, str(error.get("code", "worker_lost")))
        job.error = error  # what the last attempt died of stays visible until the next one begins
    return Status(job.status)


def _requeue(session: Session, job: Job, delay: timedelta | None, reason: str) -> None:
    job.status = Status.QUEUED
    job.lease_expires_at = job.rung_at = None
    job.phase = None  # queued_at stays: a job given back keeps its place
    job.updated_at = db_now()
    job.not_before = db_now(delay.total_seconds()) if delay else None
    _status(session, job.id, job.lease_epoch, Status.QUEUED, reason=reason)


def reap(database: Database, backoff: timedelta) -> list[str]:
    """Take back every job whose lease has run out; their ids."""
    expired = and_(Job.status == Status.RUNNING, Job.lease_expires_at <= db_now())
    with database.read() as session:
        if session.scalar(select(Job.id).where(expired).limit(1)) is None:
            return []
    lost = {
        "type": "about:blank",
        "title": "Worker lost",
        "code": "worker_lost",
        "detail": "the worker stopped answering; its lease ran out",
        "retriable": True,
    }
    with database.write() as session:
        rows = session.scalars(select(Job).where(expired).with_for_update(skip_locked=True)).all()
        for job in rows:
            _charge(session, job, lost, backoff)
        return [job.id for job in rows]


def cancel(database: Database, job_id: str) -> Job | None:
    """Ask a job to stop: at once when queued, within a step when running; else no effect."""
    with database.write() as session:
        job = session.scalar(select(Job).where(Job.id == job_id).with_for_update())
        if job is None or job.status in TERMINAL:
            return job
        if job.status == Status.QUEUED:
            job.cancel_requested = True
            _end(session, job, Status.CANCELLED)
        elif not job.cancel_requested:
            job.cancel_requested = True
            job.updated_at = db_now()
            record_event(session, job.id, job.lease_epoch, "cancel_requested", {})
        session.flush()
        session.refresh(job)
        return job


def unrung(database: Database, seconds: float = 30.0) -> Sequence[Job]:
    """Queued jobs that nobody rang for lately, marked as rung now."""
    waiting = and_(
        Job.status == Status.QUEUED,
        or_(Job.rung_at.is_(None), Job.rung_at < db_now(-seconds)),
        Job.queued_at < db_now(-seconds),
    )
    with database.write() as session:
        rows = session.scalars(select(Job).where(waiting).limit(100)).all()
        for job in rows:
            job.rung_at = db_now()
        return rows
