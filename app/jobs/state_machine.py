"""The state machine of jobs: every change of a job's status, and the leases that allow it.

A worker may write for a job only while it holds the job's lease. Whoever ends a job locks its
comparison's row first and the job's row after it, so that no two transactions wait for each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import CTE, ColumnElement, and_, or_, select, update
from sqlalchemy.orm import Session

from app.db import Database, db_now
from app.jobs import comparisons
from app.jobs.progress import JobProgress, at_the_end, not_falling
from app.tables import TERMINAL, Job, JobEvent, JobKind, Status
from surgery.errors import WorkerLost
from surgery.schemas.resolved import Learned, ResolvedSelection, completed

Json = dict[str, Any]


class Fenced(Exception):
    """The lease does not hold any more, so nothing was written.

    The job has ended, or a later attempt has it.
    """


@dataclass(frozen=True)
class Lease:
    """The right to work on a job until it expires; each attempt has an epoch of its own."""

    job_id: str
    epoch: int


@dataclass(frozen=True)
class Renewal:
    """What a worker learns from a heartbeat."""

    cancel_requested: bool


def lease_holds(lease: Lease) -> ColumnElement[bool]:
    """The condition under which a worker may write."""
    return and_(
        Job.id == lease.job_id,
        Job.lease_epoch == lease.epoch,
        Job.status == Status.RUNNING,
        Job.lease_expires_at > db_now(),
    )


def record_event(
    session: Session, job_id: str, epoch: int, kind: str, data: Json, at: datetime | None = None
) -> None:
    """Add an event to a job's history, in the caller's transaction."""
    event = JobEvent(job_id=job_id, lease_epoch=epoch, type=kind, data=data)
    event.at = at or db_now()
    session.add(event)


def locked_job(session: Session, lease: Lease) -> Job:
    """The job's row, locked. Raises Fenced if the lease does not hold any more."""
    job = session.scalar(select(Job).where(lease_holds(lease)).with_for_update())
    if job is None:
        raise Fenced
    return job


def lock_comparison(session: Session, job_id: str) -> None:
    """Lock the row of the comparison that a job belongs to, if there is one."""
    parent = select(Job.parent).where(Job.id == job_id).scalar_subquery()
    query = select(Job).where(Job.id == parent, Job.kind == JobKind.COMPARISON)
    session.execute(query.with_for_update())


def locked_with_comparison(session: Session, lease: Lease) -> Job:
    """The job's row, locked after its comparison's. Raises Fenced if the lease does not hold."""
    lock_comparison(session, lease.job_id)
    return locked_job(session, lease)


def record_status(session: Session, job: Job, status: Status, **data: Any) -> None:
    """Add a change of status to the job's history, both as an event and in the job's own row."""
    now = session.scalar(select(db_now()))
    assert now is not None
    record_event(session, job.id, job.lease_epoch, "status", {"status": status.value, **data}, now)
    change = {"status": status.value, "at": now.isoformat().replace("+00:00", "Z")}
    reason = data.get("reason") or data.get("code")
    job.transitions = [*job.transitions, change | ({"reason": reason} if reason else {})]


def enqueue(session: Session, job: Job) -> Job:
    """Insert a queued job, in the caller's transaction."""
    job.status = Status.QUEUED
    job.created_at = job.queued_at = job.updated_at = db_now()
    session.add(job)
    session.flush()
    record_status(session, job, Status.QUEUED)
    session.flush()
    session.refresh(job)
    return job


def enqueue_comparison(session: Session, comparison: Job, children: Sequence[Job]) -> Job:
    """Insert a running comparison and its queued children, in the caller's transaction."""
    enqueue(session, comparison)
    comparison.status = Status.RUNNING
    comparison.started_at = db_now()
    record_status(session, comparison, Status.RUNNING)
    for child in children:
        enqueue(session, child)
    session.flush()
    session.refresh(comparison)
    return comparison


def store_finished_ranking(session: Session, job: Job) -> Job:
    """Insert a ranking that a fine-tune has computed, as a job that succeeded."""
    enqueue(session, job)
    job.status = Status.SUCCEEDED
    job.started_at = job.finished_at = db_now()
    record_status(session, job, Status.SUCCEEDED)
    return job


def close(session: Session, job: Job, status: Status, **values: Any) -> None:
    """End a job without regard to its comparison."""
    for name, value in values.items():
        setattr(job, name, value)
    job.status = status
    job.lease_expires_at = None
    job.state = None  # nothing resumes from it any more
    job.finished_at = job.updated_at = db_now()
    job.phase = None
    error = (values.get("error") or {}).get("code")
    record_status(session, job, status, **({"code": error} if error else {}))


def end(session: Session, job: Job, status: Status, **values: Any) -> None:
    """End a job and advance its comparison; the caller has locked both rows."""
    close(session, job, status, **values)
    parent = session.get(Job, job.parent) if job.parent else None
    if parent is not None and parent.kind == JobKind.COMPARISON:
        parent.updated_at = db_now()  # its progress counts this child
        advance_comparison(session, parent)


def advance_comparison(session: Session, comparison: Job) -> None:
    """Release the children whose ranking has ended, and end the comparison after its last child.

    The caller has locked its row. A second call has no effect.
    """
    if comparison.status in TERMINAL:
        return
    for child, ranking in comparisons.children_after_ranking(session, comparison.id):
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
                error=comparisons.no_ranking_error(ranking).as_problem(),
            )
    outcome = comparisons.outcome(session, comparison)
    if outcome is not None:
        status, values = outcome
        close(session, comparison, status, **values)


def count_crash(session: Session, job: Job, error: Json, backoff: timedelta) -> Status:
    """Count a crash, and queue the job for another attempt or end it."""
    job.crashes += 1
    if job.cancel_requested:
        end(session, job, Status.CANCELLED)
    elif job.crashes >= job.max_attempts:
        end(session, job, Status.FAILED, error=error)
    else:
        delay = backoff * 2 ** (job.crashes - 1)
        requeue(session, job, delay, str(error.get("code", "worker_lost")))
        job.error = error  # shown until the next attempt begins
    return Status(job.status)


def requeue(session: Session, job: Job, delay: timedelta | None, reason: str) -> None:
    """Put a running job back into the queue."""
    job.status = Status.QUEUED
    job.lease_expires_at = job.rung_at = None
    if job.progress is not None:
        job.progress = {**job.progress, "eta_seconds": None}  # nobody knows how long it waits
    job.phase = None  # queued_at stays, so that the job keeps its place
    job.updated_at = db_now()
    job.not_before = db_now(delay.total_seconds()) if delay else None
    record_status(session, job, Status.QUEUED, reason=reason)


def ask_to_stop(session: Session, job: Job) -> None:
    """Ask a running job to stop; its worker learns of it with the next heartbeat."""
    job.cancel_requested = True
    job.updated_at = db_now()
    record_event(session, job.id, job.lease_epoch, "cancel_requested", {})


def cancel_children(session: Session, comparison: Job) -> None:
    """Stop every child that has not ended, and end the comparison if none is left running."""
    for child in comparisons.unfinished_children(session, comparison.id):
        if child.status == Status.RUNNING:
            ask_to_stop(session, child)
        else:
            child.cancel_requested = True
            close(session, child, Status.CANCELLED)
    advance_comparison(session, comparison)


def claim(
    database: Database, owner: str, kinds: Sequence[JobKind], lease: timedelta
) -> tuple[Lease, Job] | None:
    """Take the next queued job, by priority and then by age; None if there is none."""
    ready = _ready(kinds)
    values = {
        "lease_epoch": Job.lease_epoch + 1,
        "lease_owner": owner,
        "lease_expires_at": db_now(lease.total_seconds()),
        **dict.fromkeys(("started_at", "heartbeat_at", "updated_at"), db_now()),
        "phase": "starting",
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
            return None  # the usual case, checked without SQLite's write lock
    with database.write() as session:
        job = session.scalar(statement)
        if job is None:
            return None
        job.progress = JobProgress(job).now()
        record_status(session, job, Status.RUNNING, worker=owner)
        return Lease(job.id, job.lease_epoch), job


def _ready(kinds: Sequence[JobKind]) -> CTE:
    """The next job to claim. Postgres locks its row and skips the rows that others have locked."""
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
    """Write a heartbeat: prolong the lease and store the progress. Raises Fenced.

    The percentage never falls. Without a progress the one before stays.
    """
    with database.write() as session:
        told: Json = {}
        if progress is not None:
            query = select(Job.progress["percent"].as_float()).where(lease_holds(lease))
            told = {"progress": not_falling(progress, session.scalar(query.with_for_update()))}
        cancel_requested = session.scalar(
            update(Job)
            .where(lease_holds(lease))
            .values(
                lease_expires_at=db_now(duration.total_seconds()),
                heartbeat_at=db_now(),
                updated_at=db_now(),
                phase=phase,
                **told,
            )
            .returning(Job.cancel_requested)
        )
        if cancel_requested is None:
            raise Fenced
        return Renewal(cancel_requested)


def advance_comparisons(database: Database) -> None:
    """Advance every running comparison, in case a process died before it did so."""
    running = and_(Job.kind == JobKind.COMPARISON, Job.status == Status.RUNNING)
    with database.read() as session:
        ids = session.scalars(select(Job.id).where(running)).all()
    for job_id in ids:
        with database.write() as session:
            query = select(Job).where(Job.id == job_id, running)
            comparison = session.scalar(query.with_for_update(skip_locked=True))
            if comparison is not None:
                advance_comparison(session, comparison)


def finish(database: Database, lease: Lease, result: Json, learned: Learned) -> Json | None:
    """End a job with its result. Raises Fenced.

    Returns the resume state, whose files are not needed any more.
    """
    with database.write() as session:
        job = locked_with_comparison(session, lease)
        state = job.state
        full = at_the_end(job.progress, early=bool(result.get("stopped_early")))
        resolved = completed(job.resolved, learned)
        end(session, job, Status.SUCCEEDED, result=result, resolved=resolved, progress=full)
        return state


def fail(database: Database, lease: Lease, error: Json) -> None:
    """End a job with an error, without another attempt. Raises Fenced."""
    with database.write() as session:
        end(session, locked_with_comparison(session, lease), Status.FAILED, error=error)


def end_cancelled(database: Database, lease: Lease) -> None:
    """End a job whose worker stopped it on request. Raises Fenced."""
    with database.write() as session:
        end(session, locked_with_comparison(session, lease), Status.CANCELLED)


def release(database: Database, lease: Lease) -> None:
    """Queue a job again because its worker is stopping; no crash is counted. Raises Fenced."""
    with database.write() as session:
        requeue(session, locked_job(session, lease), None, "drained")


def crash(database: Database, lease: Lease, error: Json, backoff: timedelta) -> Status:
    """End an attempt that crashed: queue the job again after a pause or fail it. Raises Fenced."""
    with database.write() as session:
        job = locked_with_comparison(session, lease)
        return count_crash(session, job, error, backoff)


def _expired() -> ColumnElement[bool]:
    return and_(Job.status == Status.RUNNING, Job.lease_expires_at <= db_now())


def reap(database: Database, backoff: timedelta) -> list[str]:
    """End the attempts whose leases have expired, and return the ids of their jobs."""
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
            count_crash(session, job, lost, backoff)
        return job is not None


def cancel(database: Database, job_id: str) -> Job | None:
    """End a queued job, or ask a running one to stop; a job that has ended stays as it is.

    All children of a comparison are cancelled, and it ends with the last of them. None if there is
    no such job.
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
            if job.kind == JobKind.COMPARISON:
                cancel_children(session, job)
        session.flush()
        session.refresh(job)
        return job
