"""The state machine of jobs: every change of a job's status, and the leases that allow it.

A worker may write for a job only while it holds the job's lease. Whoever ends a job locks its
comparison's row first and the job's row after it, so that no two transactions wait for each other.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import (
    CTE,
    ColumnElement,
    Table,
    and_,
    func,
    insert,
    or_,
    select,
    true,
    union_all,
    update,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.access.quotas import projects_at_limit
from app.db import Database, db_now, lock_name
from app.errors import Conflict
from app.jobs import comparisons, shared_rankings
from app.jobs.actions import Action, refusal
from app.jobs.attempts import (
    AttemptOutcome,
    Usage,
    add_up_children,
    begin_attempt,
    end_attempt,
    note_usage,
)
from app.jobs.progress import JobProgress, at_the_end, not_falling, set_aside_progress
from app.jobs.shared_rankings import RankingKey
from app.jobs.webhooks import notices
from app.observability.tracing import traceparent
from app.tables import DEFAULT_PROJECT, TERMINAL, Job, JobEvent, JobKind, Status, has_status
from surgery.errors import Cancelled, WorkerLost
from surgery.schemas.resolved import Learned, ResolvedSelection, completed

log = logging.getLogger("surgeon.jobs")
Json = dict[str, Any]
CANCEL_REQUESTED = "cancel_requested"  # the type of an event
EVENTS = cast("Table", JobEvent.__table__)


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


def record_event(
    session: Session, job_id: str, epoch: int, kind: str, data: Json, at: datetime | None = None
) -> None:
    """Add an event to a job's history, in the caller's transaction."""
    session.flush()  # the job itself may be new
    event = {"job_id": job_id, "lease_epoch": epoch, "type": kind, "data": data}
    session.execute(insert(EVENTS).values(**event, at=at or db_now()))


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


def locked_with_comparison(session: Session, lease: Lease, usage: Usage | None = None) -> Job:
    """The job's row, locked after its comparison's. Raises Fenced if the lease does not hold.

    ``usage`` is stored as what the attempt has used in all.
    """
    lock_comparison(session, lease.job_id)
    job = locked_job(session, lease)
    note_usage(session, job.id, lease.epoch, usage)
    return job


def record_status(session: Session, job: Job, status: Status, **data: Any) -> None:
    """Add a change of status to the job's history, both as an event and in the job's own row."""
    now, told = notices.look(session, job.project)
    _add_transition(job, status, now, data)
    _record_status(session, job, status, now, data, told=told)


def _add_transition(job: Job, status: Status, now: datetime, data: Json) -> None:
    change = {"status": status.value, "at": now.isoformat().replace("+00:00", "Z")}
    reason = data.get("reason") or data.get("code")
    job.transitions = [*(job.transitions or []), change | ({"reason": reason} if reason else {})]


def _record_status(
    session: Session, job: Job, status: Status, now: datetime, data: Json, *, told: bool
) -> None:
    """Add the event of a change of status, and tell webhooks if ``told``."""
    record_event(session, job.id, job.lease_epoch, "status", {"status": status.value, **data}, now)
    if told:
        notices.post_status(session, job, status, now, data.get("code"))


def enqueue(session: Session, job: Job) -> Job:
    """Insert a queued job, in the caller's transaction.

    Its row is written once and not read again: every value of it is known here.
    """
    now, told = notices.look(session, job.project or DEFAULT_PROJECT)
    job.status = Status.QUEUED
    job.lease_epoch = 0
    job.created_at = job.queued_at = job.updated_at = now
    job.traceparent = traceparent()
    if job.deadline_seconds is not None:
        job.deadline_at = now + timedelta(seconds=job.deadline_seconds)
    _add_transition(job, Status.QUEUED, now, {})
    session.add(job)
    _record_status(session, job, Status.QUEUED, now, {}, told=told)
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
    rankings = [child for child in children if child.kind == JobKind.RANKING]
    # In one order, so that no two transactions wait for each other.
    for ranking in sorted(rankings, key=lambda child: child.digest):
        share_ranking(session, ranking)
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
    job.pause_requested = False  # it was too late
    job.lease_expires_at = None
    job.state = None  # nothing resumes from it any more
    job.finished_at = job.updated_at = db_now()
    job.phase = None
    end_attempt(session, job, AttemptOutcome(status.value), values.get("error"))
    if status == Status.CANCELLED:
        job.error = _cancelled_error(session, job)
    code = job.error.get("code") if job.error and status != Status.SUCCEEDED else None
    record_status(session, job, status, **({"code": code} if code else {}))


def _cancelled_error(session: Session, job: Job) -> Json:
    """The error that says who or what asked for the end of a job."""
    asked = select(JobEvent).where(JobEvent.job_id == job.id, JobEvent.type == CANCEL_REQUESTED)
    event = session.scalar(asked.order_by(JobEvent.seq.desc()).limit(1))
    request = event.data if event else {}
    if "comparison" in request:
        return Cancelled(f"comparison {request['comparison']} was cancelled").as_problem()
    who = f" of {request['by']}" if request.get("by") else ""
    return Cancelled(f"cancelled on request{who}").as_problem()


def end(session: Session, job: Job, status: Status, **values: Any) -> None:
    """End a job and advance its comparison; the caller has locked both rows."""
    close(session, job, status, **values)
    advance_comparison_of(session, job)


def advance_comparison_of(session: Session, job: Job) -> None:
    """Advance the comparison that a job belongs to, if there is one; its row is locked."""
    parent = session.get(Job, job.parent) if job.parent else None
    if parent is not None and parent.kind == JobKind.COMPARISON:
        parent.updated_at = db_now()  # its progress counts this child
        advance_comparison(session, parent)


def advance_comparison(session: Session, comparison: Job) -> None:
    """Take the next step of a comparison, if its children allow one.

    Children whose ranking has ended may be claimed, a comparison that shall pause does so when no
    child is active any more, and with the last child it ends. The caller has locked its row. A
    second call has no effect.
    """
    if comparison.status in TERMINAL:
        return
    add_up_children(session, comparison)
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
    elif comparison.pause_requested and not comparisons.has_active_child(session, comparison.id):
        set_aside(session, comparison)


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
        delay = backoff * 2 ** (job.crashes - 1)
        requeue(session, job, delay, str(error.get("code", "worker_lost")))
        job.error = error  # shown until the next attempt begins
    return Status(job.status)


def give_up(session: Session, job: Job) -> None:
    """Carry out a request to stop, after the attempt is over; a cancel precedes a pause."""
    if job.cancel_requested:
        end(session, job, Status.CANCELLED)
    else:
        set_aside(session, job)
        advance_comparison_of(session, job)


def set_aside(session: Session, job: Job) -> None:
    """Pause a job: no worker has it or claims it until it is resumed."""
    end_attempt(session, job, AttemptOutcome.PAUSED)
    job.status = Status.PAUSED
    job.pause_requested = False
    job.lease_expires_at = job.not_before = job.rung_at = None
    job.progress = set_aside_progress(job.progress)
    job.phase = None
    job.updated_at = db_now()
    record_status(session, job, Status.PAUSED)


def requeue(session: Session, job: Job, delay: timedelta | None, reason: str) -> None:
    """Put a running or paused job back into the queue."""
    job.status = Status.QUEUED
    job.lease_expires_at = job.rung_at = None
    job.progress = set_aside_progress(job.progress)
    job.phase = None  # queued_at stays, so that the job keeps its place
    job.updated_at = db_now()
    job.not_before = db_now(delay.total_seconds()) if delay else None
    record_status(session, job, Status.QUEUED, reason=reason)


def ask_to_cancel(session: Session, job: Job, **request: Any) -> None:
    """Ask a job to end; the worker of a running one learns of it with the next heartbeat.

    ``request`` says who asked, and which comparison was cancelled if it was not the job itself.
    """
    job.cancel_requested = True
    job.pause_requested = False
    job.updated_at = db_now()
    given = {name: value for name, value in request.items() if value is not None}
    record_event(session, job.id, job.lease_epoch, CANCEL_REQUESTED, given)


def ask_to_pause(session: Session, job: Job) -> None:
    """Ask a running job to pause; its worker learns of it with the next heartbeat."""
    job.pause_requested = True
    job.updated_at = db_now()
    record_event(session, job.id, job.lease_epoch, "pause_requested", {})


def withdraw_pause(session: Session, job: Job) -> None:
    """Let a running job go on. If its worker has stopped it already, the job is queued again."""
    job.pause_requested = False
    job.updated_at = db_now()
    record_event(session, job.id, job.lease_epoch, "pause_withdrawn", {})


def cancel_children(session: Session, comparison: Job, by: str | None) -> None:
    """Stop every child that has not ended, and end the comparison if none is left running."""
    for child in comparisons.unfinished_children(session, comparison.id):
        ask_to_cancel(session, child, by=by, comparison=comparison.id)
        if child.status != Status.RUNNING:
            close(session, child, Status.CANCELLED)
    advance_comparison(session, comparison)


def pause_children(session: Session, comparison: Job) -> None:
    """Pause every child that has not ended, and the comparison itself if none is running."""
    for child in comparisons.unfinished_children(session, comparison.id):
        if child.status == Status.QUEUED:
            set_aside(session, child)
        elif child.status == Status.RUNNING and not child.cancel_requested:
            ask_to_pause(session, child)
    advance_comparison(session, comparison)


def resume_children(session: Session, comparison: Job) -> list[Job]:
    """Queue the paused children, and let those go on that were asked to pause."""
    queued = []
    for child in comparisons.unfinished_children(session, comparison.id):
        if child.status == Status.PAUSED:
            requeue(session, child, None, "resumed")
            queued.append(child)
        elif child.pause_requested:
            withdraw_pause(session, child)
    return queued


def share_ranking(session: Session, job: Job) -> None:
    """Let a ranking that was just inserted share the work of an equal one.

    It has the result of one that was computed, or waits for one in flight. The caller has inserted
    the other children of its comparison.
    """
    key = shared_rankings.key_of(job)
    lock_name(session, key.lock)
    origin = shared_rankings.computed_ranking(session, key)
    if origin is not None:
        take_result(session, job, origin)
    else:
        wait_for_ranking(session, job, key)
    session.flush()
    session.refresh(job)


def enqueue_with_ranking(session: Session, job: Job, key: RankingKey) -> Job:
    """Insert a fine-tune that needs a ranking, in the caller's transaction.

    It takes the ranking of this ``key`` if that was computed, waits for it if it is in flight, and
    computes it itself otherwise.
    """
    lock_name(session, key.lock)
    origin = shared_rankings.computed_ranking(session, key)
    if origin is not None:
        job.resolved = completed(job.resolved, ResolvedSelection(ranking=origin.id))
    else:
        wait_for_ranking(session, job, key)
    return enqueue(session, job)


def wait_for_ranking(session: Session, job: Job, key: RankingKey) -> None:
    """Let a job wait for the ranking of this key that is in flight, if there is one.

    That ranking is computed as soon as the most urgent job that waits for it would be.
    """
    ranking = shared_rankings.ranking_in_flight(session, key, other_than=job.id)
    if ranking is None:
        return
    job.waits_for = ranking.id
    if ranking.priority < job.priority:
        ranking.priority = job.priority
        ranking.updated_at = db_now()


def take_result(session: Session, job: Job, origin: Job) -> None:
    """End a ranking with the result of an equal one; the caller has locked its comparison."""
    job.waits_for = None
    job.result_of = origin.result_of or origin.id
    job.started_at = job.started_at or db_now()
    learned = Learned.of(origin.resolved)
    full = at_the_end(origin.progress, early=True)
    resolved = completed(job.resolved, learned)
    end(session, job, Status.SUCCEEDED, resolved=resolved, progress=full)


@contextmanager
def ending(database: Database) -> Iterator[Session]:
    """A transaction that may end or pause jobs; afterwards those go on that waited for them.

    They do so in transactions of their own, because each locks its own comparison first.
    """
    with database.write() as session:
        yield session
    try:
        settle_waiting(database)
    except SQLAlchemyError as error:  # this transaction is committed; the sweeper does the rest
        log.warning("jobs that waited for a ranking go on later: %s", error)


def settle_waiting(database: Database) -> None:
    """Let the jobs go on whose awaited ranking has ended, was paused or is gone."""
    with database.read() as session:
        ids = shared_rankings.may_go_on_ids(session)
    for job_id in ids:
        with database.write() as session:
            settle_one(session, job_id)


def settle_one(session: Session, job_id: str) -> None:
    """Let a job go on that waited for a ranking, unless another process does so.

    It takes the ranking's result. If there is none, the first ranking that waited is computed
    instead, and the others wait for that one.
    """
    row = session.execute(select(Job.project, Job.digest).where(Job.id == job_id)).one_or_none()
    if row is None:
        return
    lock_name(session, RankingKey(*row).lock)
    lock_comparison(session, job_id)
    query = select(Job).where(Job.id == job_id, shared_rankings.may_go_on())
    job = session.scalar(query.with_for_update(skip_locked=True, of=Job))
    if job is None:
        return
    awaited = session.get(Job, job.waits_for)
    if awaited is None or awaited.status != Status.SUCCEEDED:
        go_on_alone(session, job)
    elif job.kind == JobKind.RANKING:
        take_result(session, job, awaited)
    else:
        ranking = ResolvedSelection(ranking=awaited.result_of or awaited.id)
        job.resolved = completed(job.resolved, ranking)
        job.waits_for = None
        job.updated_at = db_now()
        record_event(session, job.id, job.lease_epoch, "ranking", {"id": ranking.ranking})


def go_on_alone(session: Session, job: Job) -> None:
    """Let a job compute the ranking that it waited for, and the others wait for it instead."""
    awaited = str(job.waits_for)
    job.waits_for = None
    job.updated_at = db_now()
    record_event(session, job.id, job.lease_epoch, "ranking_given_up", {"id": awaited})
    session.flush()
    if job.kind == JobKind.RANKING:
        others = shared_rankings.others_waiting_for(awaited)
        session.execute(
            update(Job)
            .where(others)
            .values(waits_for=job.id, updated_at=db_now())
            .execution_options(synchronize_session=False)
        )


def claim(
    database: Database,
    owner: str,
    kinds: Sequence[JobKind],
    lease: timedelta,
    running_jobs: int | None = None,
) -> tuple[Lease, Job] | None:
    """Take the next queued job, by priority and then by age; None if there is none.

    Jobs of a project wait while as many of it run as its own limit, or else ``running_jobs``, says.
    """
    ready = _ready(kinds, running_jobs)
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
        .where(Job.id.in_(select(ready.c.id)), has_status(Job, Status.QUEUED))
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
        begin_attempt(session, job)
        return Lease(job.id, job.lease_epoch), job


def _ready(kinds: Sequence[JobKind], running_jobs: int | None) -> CTE:
    """The next job to claim. Postgres locks its row and skips the rows that others have locked."""
    return (
        select(Job.id)
        .where(
            has_status(Job, Status.QUEUED),
            Job.kind.in_(kinds),
            Job.waits_for.is_(None),
            or_(Job.not_before.is_(None), Job.not_before <= db_now()),
            # Not an OR, for which SQLite would read every job by the index of deadlines.
            func.coalesce(Job.deadline_at > db_now(), true()),
            Job.project.not_in(projects_at_limit(running_jobs)),
        )
        .order_by(Job.priority.desc(), Job.queued_at, Job.id)
        .limit(1)
        .with_for_update(skip_locked=True)
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
            told = {"progress": not_falling(progress, session.scalar(query.with_for_update()))}
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


def advance_comparisons(database: Database) -> None:
    """Advance every comparison that goes on, in case a process died before it did so."""
    going_on = (Status.RUNNING, Status.PAUSED)
    unfinished = and_(Job.kind == JobKind.COMPARISON, Job.status.in_(going_on))
    # Each status has an index of its own, which SQLite does not find for one of several.
    each = (
        select(Job.id).where(Job.kind == JobKind.COMPARISON, has_status(Job, status))
        for status in going_on
    )
    with database.read() as session:
        ids = session.scalars(union_all(*each)).all()
    for job_id in ids:
        with database.write() as session:
            query = select(Job).where(Job.id == job_id, unfinished)
            comparison = session.scalar(query.with_for_update(skip_locked=True))
            if comparison is not None:
                advance_comparison(session, comparison)


def finish(
    database: Database, lease: Lease, result: Json, learned: Learned, usage: Usage | None = None
) -> Json | None:
    """End a job with its result. Raises Fenced.

    Returns the resume state, whose files are not needed any more.
    """
    with ending(database) as session:
        job = locked_with_comparison(session, lease, usage)
        state = job.state
        full = at_the_end(job.progress, early=bool(result.get("stopped_early")))
        resolved = completed(job.resolved, learned)
        end(session, job, Status.SUCCEEDED, result=result, resolved=resolved, progress=full)
        return state


def fail(database: Database, lease: Lease, error: Json, usage: Usage | None = None) -> None:
    """End a job with an error, without another attempt. Raises Fenced."""
    with ending(database) as session:
        end(session, locked_with_comparison(session, lease, usage), Status.FAILED, error=error)


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
            stopped = AttemptOutcome.DRAINED if reason == "drained" else AttemptOutcome.PAUSED
            end_attempt(session, job, stopped)
            requeue(session, job, None, reason)


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


def _expired() -> ColumnElement[bool]:
    return and_(has_status(Job, Status.RUNNING), Job.lease_expires_at <= db_now())


def reap(database: Database, backoff: timedelta) -> list[str]:
    """End the attempts whose leases have expired, and return the ids of their jobs."""
    with database.read() as session:
        ids = session.scalars(select(Job.id).where(_expired())).all()
    return [job_id for job_id in ids if _take_back(database, job_id, backoff)]


def _take_back(database: Database, job_id: str, backoff: timedelta) -> bool:
    lost = WorkerLost("the worker stopped answering; its lease ran out").as_problem()
    with ending(database) as session:
        lock_comparison(session, job_id)
        query = select(Job).where(Job.id == job_id, _expired())
        job = session.scalar(query.with_for_update(skip_locked=True))
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
    return [job_id for job_id in ids if _end_overdue(database, job_id, waiting)]


def _end_overdue(database: Database, job_id: str, waiting: ColumnElement[bool]) -> bool:
    with ending(database) as session:
        lock_comparison(session, job_id)
        query = select(Job).where(Job.id == job_id, waiting)
        job = session.scalar(query.with_for_update(skip_locked=True))
        if job is not None:
            end(session, job, Status.FAILED, error=comparisons.overdue_error(job).as_problem())
        return job is not None


def fail_overdue(database: Database, lease: Lease, usage: Usage | None = None) -> None:
    """End a running job whose deadline has passed. Raises Fenced."""
    with ending(database) as session:
        job = locked_with_comparison(session, lease, usage)
        end(session, job, Status.FAILED, error=comparisons.overdue_error(job).as_problem())


def locked_for_request(session: Session, job_id: str) -> Job | None:
    """The row of a job, locked after its comparison's; None if there is none."""
    lock_comparison(session, job_id)
    return session.scalar(select(Job).where(Job.id == job_id).with_for_update())


def cancel(database: Database, job_id: str, by: str | None = None) -> Job | None:
    """End a job that waits, or ask a running one to stop; a job that has ended stays as it is.

    All children of a comparison are cancelled, and it ends with the last of them. ``by`` is who
    asks, if that is known. None if there is no such job.
    """
    with ending(database) as session:
        job = locked_for_request(session, job_id)
        if job is None or job.status in TERMINAL or job.cancel_requested:
            return job
        ask_to_cancel(session, job, by=by)
        if job.kind == JobKind.COMPARISON:
            cancel_children(session, job, by)
        elif job.status != Status.RUNNING:
            end(session, job, Status.CANCELLED)
        session.flush()
        session.refresh(job)
        return job


def pause(database: Database, job_id: str) -> Job | None:
    """Set a queued job aside, or ask a running one to save its state and stop.

    All children of a comparison are paused, and so is the comparison when none runs any more. A job
    that is paused, or that was asked to, stays as it is. None if there is no such job. Raises
    Conflict if it has ended or is being cancelled.
    """
    with ending(database) as session:
        job = locked_for_request(session, job_id)
        if job is None:
            return None
        if job.status in TERMINAL or job.cancel_requested:
            raise Conflict(refusal(job, Action.PAUSE))
        if job.status == Status.QUEUED:
            set_aside(session, job)
            advance_comparison_of(session, job)
        elif job.status == Status.RUNNING and not job.pause_requested:
            ask_to_pause(session, job)
            if job.kind == JobKind.COMPARISON:
                pause_children(session, job)
        session.flush()
        session.refresh(job)
        return job


def resume(database: Database, job_id: str) -> tuple[Job | None, list[Job]]:
    """Queue a paused job again, in its old place, or let a running one go on that was to pause.

    All children of a comparison are resumed. Any other job stays as it is. Returns the job, None if
    there is no such job, and the jobs that were queued. Raises Conflict if the job has ended, is
    being cancelled, or belongs to a comparison that is paused.
    """
    with ending(database) as session:
        job = locked_for_request(session, job_id)
        if job is None:
            return None, []
        if job.status in TERMINAL or job.cancel_requested:
            raise Conflict(refusal(job, Action.RESUME))
        _check_comparison_goes_on(session, job)
        queued: list[Job] = []
        if job.pause_requested:
            withdraw_pause(session, job)
        if job.kind == JobKind.COMPARISON:
            if job.status == Status.PAUSED:
                job.status = Status.RUNNING
                job.updated_at = db_now()
                record_status(session, job, Status.RUNNING, reason="resumed")
            queued = resume_children(session, job)
        elif job.status == Status.PAUSED:
            requeue(session, job, None, "resumed")
            queued = [job]
        session.flush()
        session.refresh(job)
        return job, queued


def _check_comparison_goes_on(session: Session, job: Job) -> None:
    parent = session.get(Job, job.parent) if job.parent else None
    if parent is None or parent.kind != JobKind.COMPARISON:
        return
    if parent.status == Status.PAUSED or parent.pause_requested:
        raise Conflict(
            f"{job.id} belongs to comparison {parent.id}, which is paused; "
            f"POST /v1/jobs/{parent.id}/resume resumes all of its jobs"
        )
