"""Changes of one job's row, without regard to its comparison; the caller has locked the row."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db import db_now
from app.db.tables import Job, JobEvent, Status
from app.jobs.attempts import AttemptOutcome, count_stored_bytes, end_attempt
from app.jobs.progress import at_the_end, set_aside_progress
from app.jobs.state_machine.history import record_event, record_status
from surgery.errors import Cancelled
from surgery.schemas.resolved import Learned, ResolvedSelection, completed

Json = dict[str, Any]
CANCEL_REQUESTED = "cancel_requested"  # the type of an event


def close(session: Session, job: Job, status: Status, **values: Any) -> None:
    """End a job without regard to its comparison."""
    for name, value in values.items():
        setattr(job, name, value)
    job.status = status
    job.pause_requested = False  # it was too late
    job.lease_expires_at = None
    had_state, job.state = job.state is not None, None  # nothing resumes from it any more
    job.finished_at = job.updated_at = db_now()
    job.phase = None
    counted = end_attempt(session, job, AttemptOutcome(status.value), values.get("error"))
    if had_state and not counted:
        count_stored_bytes(session, job)
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


def take_choice(session: Session, job: Job, kind: str, chooser: str) -> None:
    """Let a fine-tune choose its layers by what it waited for: a ranking or search with this id."""
    job.resolved = completed(job.resolved, ResolvedSelection.model_validate({kind: chooser}))
    job.waits_for = None
    job.updated_at = db_now()
    record_event(session, job.id, job.lease_epoch, kind, {"id": chooser})


def take_outcome(session: Session, job: Job, run: Job) -> None:
    """End a fine-tune as an equal one has ended, without regard to its comparison."""
    job.waits_for = None
    job.started_at = job.started_at or db_now()
    if run.status == Status.SUCCEEDED:
        job.result_of = run.id
        resolved = completed(job.resolved, Learned.of(run.resolved))
        full = at_the_end(run.progress, early=True)
        close(session, job, Status.SUCCEEDED, resolved=resolved, progress=full)
    else:
        close(session, job, Status(run.status), error=run.error)
