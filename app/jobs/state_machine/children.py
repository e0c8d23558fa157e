"""What a comparison and its children mean for each other.

The caller has locked the comparison's row before the children's.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import and_, select, union_all
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.db import Database, db_now
from app.db.tables import TERMINAL, Job, JobKind, Status, has_status
from app.jobs import comparisons
from app.jobs.attempts import add_up_children
from app.jobs.state_machine.changes import (
    ask_to_cancel,
    ask_to_pause,
    close,
    requeue,
    set_aside,
    take_choice,
    take_outcome,
    withdraw_pause,
)
from app.jobs.state_machine.history import record_event
from app.process.restarts import surviving
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.schemas.resolved import ResolvedComparison, ResolvedFinetune, completed


def end(session: Session, job: Job, status: Status, **values: Any) -> None:
    """End a job and advance its comparison; the caller has locked both rows."""
    close(session, job, status, **values)
    advance_comparison_of(session, job)


def give_up(session: Session, job: Job) -> None:
    """Carry out a request to stop, after the attempt is over; a cancel precedes a pause."""
    if job.cancel_requested:
        end(session, job, Status.CANCELLED)
    else:
        set_aside(session, job)
        advance_comparison_of(session, job)


def advance_comparison_of(session: Session, job: Job) -> None:
    """Advance the comparison that a job belongs to, if there is one; its row is locked."""
    parent = session.get(Job, job.parent) if job.parent else None
    if parent is not None and parent.kind == JobKind.COMPARISON:
        parent.updated_at = db_now()  # its progress counts this child
        advance_comparison(session, parent)


def advance_comparison(session: Session, comparison: Job) -> None:
    """Take the next step of a comparison, if its children allow one.

    Children whose ranking or search has ended may be claimed, or share the run of an arm that
    trains the same; a comparison that shall pause does
    so when no child is active any more, and with the last child it ends. The caller has locked its
    row. A second call has no effect.
    """
    if comparison.status in TERMINAL:
        return
    add_up_children(session, comparison)
    for child, awaited in comparisons.children_after(session, comparison.id):
        _go_on(session, comparison, child, awaited)
    outcome = comparisons.outcome(session, comparison)
    if outcome is not None:
        status, values = outcome
        close(session, comparison, status, **values)
    elif comparison.pause_requested and not comparisons.has_active_child(session, comparison.id):
        set_aside(session, comparison)


def _go_on(session: Session, comparison: Job, child: Job, awaited: Job) -> None:
    """Let a child go on after what it waited for: a ranking, a search or an equal arm's run."""
    if awaited.kind == JobKind.FINETUNE:
        take_outcome(session, child, awaited)
    elif awaited.status == Status.SUCCEEDED:
        take_choice(session, child, awaited.kind, awaited.id)
        _share_run(session, comparison, child, awaited)
    else:
        error = comparisons.not_chosen_error(awaited).as_problem()
        close(session, child, Status.FAILED, error=error)


def _share_run(session: Session, comparison: Job, child: Job, chooser: Job) -> None:
    """Let a child whose layers were just chosen wait for the run of an equal arm, if there is one.

    What it trains is noted in the comparison, which later choices are compared with.
    """
    choice = comparisons.learned_choice(child, chooser)
    if choice is None:
        return
    resolved = ResolvedComparison.of(comparison.resolved)
    arm = str(ResolvedFinetune.of(child.resolved).arm)
    digest = comparisons.arm_digest(FinetuneSpec.model_validate(child.spec), choice)
    arms = comparisons.settled_arms(resolved.arms, arm, choice.selection.layers, digest)
    comparison.resolved = resolved.model_copy(update={"arms": arms}).stored()
    run = comparisons.run_of_equal_arm(session, comparison, arms, child)
    if run is None:
        return
    child.resolved = completed(child.resolved, choice.selection)
    child.waits_for = run.id
    record_event(session, child.id, child.lease_epoch, "same_as", {"id": run.id})
    if run.status in TERMINAL:
        take_outcome(session, child, run)


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
        with surviving("sweeper", SQLAlchemyError), database.write() as session:
            query = select(Job).where(Job.id == job_id, unfinished)
            comparison = session.scalar(query.with_for_update(key_share=True, skip_locked=True))
            if comparison is not None:
                advance_comparison(session, comparison)


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
