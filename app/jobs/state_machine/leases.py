"""Leases: the right of one worker to write for one job, for as long as it renews it.

Whoever ends a job locks its comparison's row first and the job's row after it, so that no two
transactions wait for each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Select,
    and_,
    column,
    exists,
    func,
    or_,
    select,
    table,
    true,
    update,
)
from sqlalchemy.orm import Session

from app.access.quotas import projects_at_limit
from app.db import Database, db_now
from app.db.tables import Job, JobKind, Status, has_status
from app.jobs.attempts import begin_attempt, note_usage
from app.jobs.progress import JobProgress, not_falling
from app.jobs.state_machine.history import record_status
from surgery.schemas.answers.usage import Usage

Json = dict[str, Any]
last_migration = table("alembic_version", column("version_num")).c.version_num


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
    pause_requested: bool
    seconds_left: float | None  # before the job's deadline; None if it has none


def lease_holds(lease: Lease) -> ColumnElement[bool]:
    """The condition under which a worker may write."""
    return and_(
        Job.id == lease.job_id,
        Job.lease_epoch == lease.epoch,
        Job.status == Status.RUNNING,
        Job.lease_expires_at > db_now(),
    )


def locked_job(session: Session, lease: Lease) -> Job:
    """The job's row, locked. Raises Fenced if the lease does not hold any more."""
    job = session.scalar(select(Job).where(lease_holds(lease)).with_for_update(key_share=True))
    if job is None:
        raise Fenced
    return job


def _comparison_of(job_id: str) -> Select[Job]:
    parent = select(Job.parent).where(Job.id == job_id).scalar_subquery()
    return select(Job).where(Job.id == parent, Job.kind == JobKind.COMPARISON)


def lock_comparison(session: Session, job_id: str) -> None:
    """Lock the row of the comparison that a job belongs to, if there is one."""
    session.scalar(_comparison_of(job_id).with_for_update(key_share=True))


def try_lock_comparison(session: Session, job_id: str) -> bool:
    """The same for sweeps, which step over what others have locked: then False, at once."""
    query = _comparison_of(job_id)
    if session.scalar(query.with_for_update(key_share=True, skip_locked=True)) is not None:
        return True
    return session.scalar(query.with_only_columns(Job.id)) is None  # it belongs to none


def locked_with_comparison(session: Session, lease: Lease, usage: Usage | None = None) -> Job:
    """The job's row, locked after its comparison's. Raises Fenced if the lease does not hold.

    ``usage`` is stored as what the attempt has used in all.
    """
    lock_comparison(session, lease.job_id)
    job = locked_job(session, lease)
    note_usage(session, job.id, lease.epoch, usage)
    return job


def locked_for_request(session: Session, job_id: str) -> Job | None:
    """The row of a job, locked after its comparison's; None if there is none."""
    lock_comparison(session, job_id)
    return session.scalar(select(Job).where(Job.id == job_id).with_for_update(key_share=True))


def claim(
    database: Database,
    owner: str,
    kinds: Sequence[JobKind],
    lease: timedelta,
    running_jobs: int | None = None,
    exports: Sequence[str] | None = None,
) -> tuple[Lease, Job] | None:
    """Take the next queued job, by priority and then by age; None if there is none.

    Jobs of a project wait while as many of it run as its own limit, or else ``running_jobs``, says.
    ``exports`` names where the worker can export to, None for anywhere.
    Raises NewerDatabase if another version of the service has migrated the database, whose jobs
    this one may not understand.
    """
    ready = _ready(kinds, running_jobs, exports)
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
        .where(
            Job.id.in_(select(ready.c.id)),
            has_status(Job, Status.QUEUED),
            exists().where(last_migration == database.head),
        )
        .values(status=Status.RUNNING, **values)
        .returning(Job)
        .execution_options(synchronize_session=False)
    )
    with database.read() as session:
        if session.scalar(select(last_migration)) != database.head:
            database.check_version()
        if session.scalar(select(ready.c.id)) is None:
            return None  # the usual case, checked without SQLite's write lock
    with database.write() as session:
        job = session.scalar(statement)
        if job is None:
            return None
        job.progress = JobProgress(job).now()
        record_status(session, job, Status.RUNNING, worker=owner)
        begin_attempt(session, job)
        return Lease(job.id, job.lease_epoch), job


def _ready(
    kinds: Sequence[JobKind], running_jobs: int | None, exports: Sequence[str] | None = None
) -> CTE:
    """The next job to claim. Postgres locks its row and skips the rows that others have locked."""
    places = [Job.spec["to"].as_string().in_(exports)] if exports is not None else [true()]
    return (
        select(Job.id)
        .where(
            has_status(Job, Status.QUEUED),
            Job.kind.in_(kinds),
            or_(Job.kind != JobKind.EXPORT, *places),
            Job.waits_for.is_(None),
            or_(Job.not_before.is_(None), Job.not_before <= db_now()),
            # Not an OR, for which SQLite would read every job by the index of deadlines.
            func.coalesce(Job.deadline_at > db_now(), true()),
            Job.project.not_in(projects_at_limit(running_jobs)),
        )
        .order_by(Job.priority.desc(), Job.queued_at, Job.id)
        .limit(1)
        .with_for_update(key_share=True, skip_locked=True)
        .cte("ready")
    )


def renew(
    database: Database,
    lease: Lease,
    duration: timedelta,
    phase: str | None,
    progress: Json | None,
    usage: Usage | None = None,
) -> Renewal:
    """Write a heartbeat: prolong the lease, store progress and usage. Raises Fenced.

    The percentage never falls. Without a progress the one before stays.
    """
    with database.write() as session:
        told: Json = {}
        if progress is not None:
            query = select(Job.progress["percent"].as_float()).where(lease_holds(lease))
            before = session.scalar(query.with_for_update(key_share=True))
            told = {"progress": not_falling(progress, before)}
        renewed = session.execute(
            update(Job)
            .where(lease_holds(lease))
            .values(
                lease_expires_at=db_now(duration.total_seconds()),
                heartbeat_at=db_now(),
                updated_at=db_now(),
                phase=phase,
                **told,
            )
            .returning(Job.cancel_requested, Job.pause_requested, Job.deadline_at, db_now())
        ).one_or_none()
        if renewed is None:
            raise Fenced
        note_usage(session, lease.job_id, lease.epoch, usage)
        cancel_requested, pause_requested, deadline, now = renewed
        left = (deadline - now).total_seconds() if deadline is not None else None
        return Renewal(cancel_requested, pause_requested, left)
