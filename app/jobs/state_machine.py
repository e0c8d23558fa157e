"""The job state machine: all that changes a job's status, and the lease that allows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import CTE, ColumnElement, and_, or_, select, update
from sqlalchemy.orm import Session

from app.db import Database, db_now
from app.jobs import comparisons
from app.tables import TERMINAL, Job, JobEvent, Kind, Status
from surgery.errors import WorkerLost
from surgery.schemas.resolved import Learned, ResolvedSelection, completed

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


def record_status(session: Session, job_id: str, epoch: int, status: Status, **data: Any) -> None:
    """Every change of status is in the job's history."""
    record_event(session, job_id, epoch, "status", {"status": status.value, **data})


def enqueue(session: Session, job: Job) -> Job:
    """Insert a queued job, in the caller's transaction."""
    job.status = Status.QUEUED
    job.created_at = job.queued_at = job.updated_at = db_now()
    session.add(job)
    session.flush()
    record_status(session, job.id, 0, Status.QUEUED)
    session.refresh(job)
    return job


def enqueue_comparison(session: Session, comparison: Job, children: Sequence[Job]) -> Job:
    """Insert a comparison, running, and its queued children, in the caller's transaction."""
    enqueue(session, comparison)
    comparison.status = Status.RUNNING
    comparison.started_at = db_now()
    record_status(session, comparison.id, 0, Status.RUNNING)
    for child in children:
        enqueue(session, child)
    session.flush()
    session.refresh(comparison)
    return comparison


def store_finished_ranking(session: Session, job: Job) -> Job:
    """Insert a ranking that a fine-tune computed, already succeeded."""
    enqueue(session, job)
    job.status = Status.SUCCEEDED
    job.started_at = job.finished_at = db_now()
    record_status(session, job.id, 0, Status.SUCCEEDED)
    return job


def close(session: Session, job: Job, status: Status, **values: Any) -> None:
    """End a job, and nothing that follows from it."""
    for name, value in values.items():
        setattr(job, name, value)
    job.status = status
    job.lease_expires_at = None
    job.state = None  # its files are garbage now
    job.finished_at = job.updated_at = db_now()
    job.phase = None
    error = (values.get("error") or {}).get("code")
    record_status(session, job.id, job.lease_epoch, status, **({"code": error} if error else {}))


def end(session: Session, job: Job, status: Status, **values: Any) -> None:
    """End a job for good; the caller holds its row and its comparison's."""
    close(session, job, status, **values)
    parent = session.get(Job, job.parent) if job.parent else None
    if parent is not None and parent.kind == Kind.COMPARISON:
        move_on(session, parent)


def move_on(session: Session, comparison: Job) -> None:
    """Let go on what waited, and end a comparison whose children have all ended.

    The caller holds its row; doing it again does nothing.
    """
    if comparison.status in TERMINAL:
        return
    for child, ranking in comparisons.blocked(session, comparison.id):
        if ranking.status == Status.SUCCEEDED:
            child.resolved = completed(child.resolved, ResolvedSelection(ranking=ranking.id))
            child.waits_for = None
            child.updated_at = db_now()
            record_event(session, child.id, 0, "ranking", {"id": ranking.id})
        else:
            close(
                session,
                child,
                Status.FAILED,
                error=comparisons.without_ranking(ranking).as_problem(),
            )
    outcome = comparisons.outcome(session, comparison)
    if outcome is not None:
        status, values = outcome
        close(session, comparison, status, **values)


def charge(session: Session, job: Job, error: Json, backoff: timedelta) -> Status:
    """Count a crash: another attempt, or the end."""
    job.crashes += 1
    if job.cancel_requested:
        end(session, job, Status.CANCELLED)
    elif job.crashes >= job.max_attempts:
        end(session, job, Status.FAILED, error=error)
    else:
        delay = backoff * 2 ** (job.crashes - 1)
        requeue(session, job, delay, str(error.get("code", "worker_lost")))
        job.error = error  # what the last attempt died of stays visible until the next one begins
    return Status(job.status)


def requeue(session: Session, job: Job, delay: timedelta | None, reason: str) -> None:
    """Back into the queue."""
    job.status = Status.QUEUED
    job.lease_expires_at = job.rung_at = None
    job.phase = None  # queued_at stays: a job given back keeps its place
    job.updated_at = db_now()
    job.not_before = db_now(delay.total_seconds()) if delay else None
    record_status(session, job.id, job.lease_epoch, Status.QUEUED, reason=reason)


def ask_to_stop(session: Session, job: Job) -> None:
    """The next heartbeat tells the worker."""
    job.cancel_requested = True
    job.updated_at = db_now()
    record_event(session, job.id, job.lease_epoch, "cancel_requested", {})


def cancel_children(session: Session, comparison: Job) -> None:
    """Stop every child that is not over, and the comparison if that was all."""
    for child in comparisons.alive(session, comparison.id):
        if child.status == Status.RUNNING:
            ask_to_stop(session, child)
        else:
            child.cancel_requested = True
            close(session, child, Status.CANCELLED)
    move_on(session, comparison)


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
        record_status(session, job.id, job.lease_epoch, Status.RUNNING, worker=owner)
        return Lease(job.id, job.lease_epoch), job


def _ready(kinds: Sequence[Kind]) -> CTE:
    """The row a claim would take, locked on Postgres; others' locks are stepped over."""
    return (
        select(Job.id)
        .where(
            Job.status == Status.QUEUED,
            Job.kind.in_(kinds),
            Job.waits_for.is_(None),
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


def advance(database: Database) -> None:
    """Take any step of a comparison that was left untaken."""
    running = and_(Job.kind == Kind.COMPARISON, Job.status == Status.RUNNING)
    with database.read() as session:
        ids = session.scalars(select(Job.id).where(running)).all()
    for job_id in ids:
        with database.write() as session:
            query = select(Job).where(Job.id == job_id, running)
            comparison = session.scalar(query.with_for_update(skip_locked=True))
            if comparison is not None:
                move_on(session, comparison)


def finish(database: Database, lease: Lease, result: Json, learned: Learned) -> Json | None:
    """Store the result and succeed; the resume state that nobody needs now. Raises Fenced."""
    with database.write() as session:
        job = ending(session, lease)
        state = job.state
        full = {**(job.progress or {}), "percent": 100.0, "eta_seconds": 0.0}
        resolved = completed(job.resolved, learned)
        end(session, job, Status.SUCCEEDED, result=result, resolved=resolved, progress=full)
        return state


def fail(database: Database, lease: Lease, error: Json) -> None:
    """Store an error and fail for good. Raises Fenced."""
    with database.write() as session:
        end(session, ending(session, lease), Status.FAILED, error=error)


def end_cancelled(database: Database, lease: Lease) -> None:
    """The worker stopped because it was asked to. Raises Fenced."""
    with database.write() as session:
        end(session, ending(session, lease), Status.CANCELLED)


def release(database: Database, lease: Lease) -> None:
    """Give a job back unharmed: the worker is leaving. Nothing is charged. Raises Fenced."""
    with database.write() as session:
        requeue(session, holding(session, lease), None, "drained")


def crash(database: Database, lease: Lease, error: Json, backoff: timedelta) -> Status:
    """The attempt died: queue it again with backoff, or fail at the last attempt. Raises Fenced."""
    with database.write() as session:
        job = ending(session, lease)
        return charge(session, job, error, backoff)


def _expired() -> ColumnElement[bool]:
    return and_(Job.status == Status.RUNNING, Job.lease_expires_at <= db_now())


def reap(database: Database, backoff: timedelta) -> list[str]:
    """Take back every job whose lease has run out, each in a transaction; their ids."""
    with database.read() as session:
        ids = session.scalars(select(Job.id).where(_expired())).all()
    return [job_id for job_id in ids if _take_back(database, job_id, backoff)]


def _take_back(database: Database, job_id: str, backoff: timedelta) -> bool:
    lost = WorkerLost("the worker stopped answering; its lease ran out").as_problem()
    with database.write() as session:
        lock_comparison(session, job_id)
        query = select(Job).where(Job.id == job_id, _expired())
        job = session.scalar(query.with_for_update(skip_locked=True))
        if job is not None:
            charge(session, job, lost, backoff)
        return job is not None


def cancel(database: Database, job_id: str) -> Job | None:
    """Ask a job to stop: at once when queued, within a step when running; else no effect.

    A comparison's children are all asked, and it ends with the last of them.
    """
    with database.write() as session:
        lock_comparison(session, job_id)
        job = session.scalar(select(Job).where(Job.id == job_id).with_for_update())
        if job is None or job.status in TERMINAL:
            return job
        if job.status == Status.QUEUED:
            job.cancel_requested = True
            end(session, job, Status.CANCELLED)
        elif not job.cancel_requested:
            ask_to_stop(session, job)
            if job.kind == Kind.COMPARISON:
                cancel_children(session, job)
        session.flush()
        session.refresh(job)
        return job
