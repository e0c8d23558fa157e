"""What callers ask of a job: to cancel it, to pause it and to resume it."""

from __future__ import annotations

from sqlalchemy.orm import Session

from app.db import Database, db_now
from app.db.tables import TERMINAL, Job, JobKind, Status
from app.errors import Conflict
from app.jobs.actions import Action, refusal
from app.jobs.state_machine.changes import (
    ask_to_cancel,
    ask_to_pause,
    requeue,
    set_aside,
    withdraw_pause,
)
from app.jobs.state_machine.children import (
    advance_comparison_of,
    cancel_children,
    end,
    pause_children,
    resume_children,
)
from app.jobs.state_machine.history import record_status
from app.jobs.state_machine.leases import locked_for_request
from app.jobs.state_machine.sharing import ending


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
