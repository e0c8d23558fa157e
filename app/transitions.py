"""The moves the state machine is made of, each in its caller's transaction, who holds the row.

``app.jobs`` says when they may be made.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy.orm import Session

from app import family
from app.db import db_now
from app.leases import Json, record_event
from app.tables import TERMINAL, Job, Kind, Status


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
    for child, ranking in family.blocked(session, comparison.id):
        if ranking.status == Status.SUCCEEDED:
            child.resolved = {**child.resolved, "ranking": ranking.id}
            child.waits_for = None
            child.updated_at = db_now()
            record_event(session, child.id, 0, "ranking", {"id": ranking.id})
        else:
            close(session, child, Status.FAILED, error=family.without_ranking(ranking))
    outcome = family.outcome(session, comparison)
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
    for child in family.alive(session, comparison.id):
        if child.status == Status.RUNNING:
            ask_to_stop(session, child)
        else:
            child.cancel_requested = True
            close(session, child, Status.CANCELLED)
    move_on(session, comparison)
