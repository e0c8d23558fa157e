"""The job state machine: with its moves in ``app.transitions``, all that changes a job's status.

    queued ──claim──▶ running ──finish──▶ succeeded
       ▲                 │ ├────fail────▶ failed      (also: reap or crash at the last attempt)
       └─release─────────┤ └───cancelled─▶ cancelled
         crash, reap     │
    queued ──cancel─────────────────────▶ cancelled

A claim is a lease. Its epoch grows by one at every claim and fences every later write: a worker
that was given up for dead finds no row to change. The database's clock alone decides. Each function
is one transaction and tells its caller whether it took place.

A comparison is running from the start and no worker holds it: whatever ends one of its children
takes the next step of the comparison in the same transaction. Its row is locked before its
children's, by everyone, so that two ends never wait for each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import CTE, ColumnElement, and_, or_, select, update

from app.db import Database, db_now
from app.leases import Fenced, Json, Lease, Renewal, ending, held, holding, lock_comparison
from app.tables import TERMINAL, Job, Kind, Status
from app.transitions import (
    ask_to_stop,
    cancel_children,
    charge,
    end,
    move_on,
    record_status,
    requeue,
)


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


def finish(database: Database, lease: Lease, result: Json, resolved: Json) -> Json | None:
    """Store the result and succeed; the resume state that nobody needs now. Raises Fenced."""
    with database.write() as session:
        job = ending(session, lease)
        state = job.state
        full = {**(job.progress or {}), "percent": 100.0, "eta_seconds": 0.0}
        end(
            session, job, Status.SUCCEEDED,
            result=result, resolved={**job.resolved, **resolved}, progress=full,
        )  # fmt: skip
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
    lost = {
        "type": "about:blank",
        "title": "Worker lost",
        "code": "worker_lost",
        "detail": "the worker stopped answering; its lease ran out",
        "retriable": True,
    }
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
