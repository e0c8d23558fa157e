"""Ends attempts and jobs: for workers, which hold the lease, and for those that were lost."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.orm import Session

from app.db import Database, db_now
from app.db.tables import Job, JobKind, Status, has_status
from app.jobs import comparisons
from app.jobs.attempts import AttemptOutcome, end_attempt, note_log
from app.jobs.progress import at_the_end
from app.jobs.state_machine.changes import requeue
from app.jobs.state_machine.children import end, give_up
from app.jobs.state_machine.leases import Lease, locked_with_comparison, try_lock_comparison
from app.jobs.state_machine.sharing import each_of, ending
from surgery.errors import WorkerLost
from surgery.schemas.answers.usage import Usage
from surgery.schemas.resolved import Learned, completed

Json = dict[str, Any]
LONGEST_PAUSE = timedelta(hours=1)  # before another attempt, however many have crashed


def finish(
    database: Database, lease: Lease, result: Json, learned: Learned, usage: Usage | None = None
) -> Json | None:
    """End a job with its result. Raises Fenced.

    Returns the resume state, whose files are not needed any more.
    """
    with ending(database) as session:
        job = locked_with_comparison(session, lease, usage)
        state = job.state
        early = bool(result.get("stopped_early") or result.get("stopped"))
        full = at_the_end(job.progress, early=early)
        resolved = completed(job.resolved, learned)
        end(session, job, Status.SUCCEEDED, result=result, resolved=resolved, progress=full)
        return state


def fail(database: Database, lease: Lease, error: Json, usage: Usage | None = None) -> None:
    """End a job with an error, without another attempt. Raises Fenced."""
    with ending(database) as session:
        end(session, locked_with_comparison(session, lease, usage), Status.FAILED, error=error)


def fail_overdue(database: Database, lease: Lease, usage: Usage | None = None) -> None:
    """End a running job whose deadline has passed. Raises Fenced."""
    with ending(database) as session:
        job = locked_with_comparison(session, lease, usage)
        end(session, job, Status.FAILED, error=comparisons.overdue_error(job).as_problem())


def end_cancelled(database: Database, lease: Lease, usage: Usage | None = None) -> None:
    """End a job whose worker stopped it on request. Raises Fenced."""
    with ending(database) as session:
        end(session, locked_with_comparison(session, lease, usage), Status.CANCELLED)


def release(
    database: Database, lease: Lease, reason: str = "drained", usage: Usage | None = None
) -> None:
    """End an attempt before its job is over; no crash is counted. Raises Fenced.

    The job is queued again, unless it was asked to stop.
    """
    with ending(database) as session:
        job = locked_with_comparison(session, lease, usage)
        if job.cancel_requested or job.pause_requested:
            give_up(session, job)
        else:
            # It may have stopped to pause, and have been resumed meanwhile.
            stopped = AttemptOutcome.PAUSED if reason == "resumed" else AttemptOutcome.DRAINED
            end_attempt(session, job, stopped)
            requeue(session, job, None, reason)


def give_back(database: Database, owner: str, seconds: float) -> list[str]:
    """Queue jobs again that a worker has claimed without learning of it; returns their ids.

    The answer to a claim may be lost. These are the jobs whose lease ``owner`` has since at most
    ``seconds``; it runs none, and no crash is counted.
    """
    claimed = and_(
        has_status(Job, Status.RUNNING),
        Job.lease_owner == owner,
        Job.started_at >= db_now(-seconds),
        Job.lease_expires_at > db_now(),
    )
    with database.read() as session:
        rows = session.execute(select(Job.id, Job.lease_epoch).where(claimed)).all()
    for job_id, epoch in rows:
        release(database, Lease(job_id, epoch), "claim_unanswered")
        note_log(database, job_id, epoch, 0, closed=True)  # nobody writes one
    return [job_id for job_id, _ in rows]


def crash(
    database: Database,
    lease: Lease,
    error: Json,
    backoff: timedelta,
    usage: Usage | None = None,
) -> Status:
    """End an attempt that crashed: queue the job again after a pause or fail it. Raises Fenced."""
    with ending(database) as session:
        job = locked_with_comparison(session, lease, usage)
        return count_crash(session, job, error, backoff, AttemptOutcome.CRASHED)


def count_crash(
    session: Session, job: Job, error: Json, backoff: timedelta, outcome: AttemptOutcome
) -> Status:
    """Count a crash, and queue the job for another attempt or end it.

    A job that was asked to stop does so, and the crash is not counted: it may well be that its
    process was killed because it did not stop by itself.
    """
    end_attempt(session, job, outcome, error)
    if job.cancel_requested or job.pause_requested:
        give_up(session, job)
        return Status(job.status)
    job.crashes += 1
    if job.crashes >= job.max_attempts:
        end(session, job, Status.FAILED, error=error)
    else:
        doubled = backoff * 2 ** min(job.crashes - 1, 20)
        delay = min(doubled, max(backoff, LONGEST_PAUSE))
        requeue(session, job, delay, str(error.get("code", "worker_lost")))
        job.error = error  # shown until the next attempt begins
    return Status(job.status)


def _expired() -> ColumnElement[bool]:
    return and_(has_status(Job, Status.RUNNING), Job.lease_expires_at <= db_now())


def reap(database: Database, backoff: timedelta) -> list[str]:
    """End the attempts whose leases have expired, and return the ids of their jobs."""
    with database.read() as session:
        ids = session.scalars(select(Job.id).where(_expired())).all()
    return each_of(ids, lambda job_id: _take_back(database, job_id, backoff))


def _take_back(database: Database, job_id: str, backoff: timedelta) -> bool:
    lost = WorkerLost("the worker stopped answering; its lease ran out").as_problem()
    with ending(database) as session:
        if not try_lock_comparison(session, job_id):
            return False
        query = select(Job).where(Job.id == job_id, _expired())
        job = session.scalar(query.with_for_update(key_share=True, skip_locked=True))
        if job is not None:
            count_crash(session, job, lost, backoff, AttemptOutcome.LOST)
        return job is not None


def end_overdue(database: Database) -> list[str]:
    """End the jobs that wait although their deadline has passed, and return their ids.

    The worker of a running job ends it, and a comparison ends with the last of its children, which
    have its deadline.
    """
    waiting = and_(
        Job.deadline_at <= db_now(),
        has_status(Job, Status.QUEUED, Status.PAUSED),
        Job.kind != JobKind.COMPARISON,
    )
    with database.read() as session:
        ids = session.scalars(select(Job.id).where(waiting)).all()
    return each_of(ids, lambda job_id: _end_overdue(database, job_id, waiting))


def _end_overdue(database: Database, job_id: str, waiting: ColumnElement[bool]) -> bool:
    with ending(database) as session:
        if not try_lock_comparison(session, job_id):
            return False
        query = select(Job).where(Job.id == job_id, waiting)
        job = session.scalar(query.with_for_update(key_share=True, skip_locked=True))
        if job is not None:
            end(session, job, Status.FAILED, error=comparisons.overdue_error(job).as_problem())
        return job is not None
