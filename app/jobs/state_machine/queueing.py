"""Inserts jobs, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from app.db import MICROSECOND, db_now, lock_name
from app.db.tables import DEFAULT_PROJECT, Job, JobKind, Status
from app.jobs import shared_rankings
from app.jobs.shared_rankings import RankingKey
from app.jobs.state_machine.history import (
    add_transition,
    record_change_of_status,
    record_status,
)
from app.jobs.state_machine.sharing import share_ranking, wait_for_ranking
from app.jobs.webhooks import notices
from app.jobs.webhooks.notices import Look
from app.process.tracing import traceparent
from surgery.schemas.resolved import ResolvedSelection, completed

LAST = "queued_last"  # in a session's info: when the last job was queued


def enqueue(session: Session, job: Job, seen: Look | None = None) -> Job:
    """Insert a queued job, in the caller's transaction, which may have ``seen`` the clock already.

    Its row is written once and not read again: every value of it is known here.
    """
    now, told = seen or notices.look(session, job.project or DEFAULT_PROJECT)
    now = _in_order(session, now)
    job.status = Status.QUEUED
    job.lease_epoch = 0
    job.created_at = job.queued_at = job.updated_at = now
    job.traceparent = traceparent()
    if job.deadline_seconds is not None:
        job.deadline_at = now + timedelta(seconds=job.deadline_seconds)
    add_transition(job, Status.QUEUED, now)
    session.add(job)
    record_change_of_status(session, job, Status.QUEUED, now, told=told)
    return job


def _in_order(session: Session, now: datetime) -> datetime:
    """The time at which a job is queued: later than that of the transaction's job before it.

    A transaction may look at the clock once for several jobs, and SQLite's counts milliseconds.
    """
    last = session.info.get(LAST)
    moment = now if last is None or now > last else last + MICROSECOND
    session.info[LAST] = moment
    return moment


def enqueue_comparison(
    session: Session, comparison: Job, children: Sequence[Job], seen: Look | None = None
) -> Job:
    """Insert a running comparison and its queued children, in the caller's transaction."""
    seen = seen or notices.look(session, comparison.project or DEFAULT_PROJECT)
    enqueue(session, comparison, seen)
    comparison.status = Status.RUNNING
    comparison.started_at = db_now()
    record_status(session, comparison, Status.RUNNING)
    for child in children:
        enqueue(session, child, seen)
    session.flush()
    rankings = [child for child in children if child.kind == JobKind.RANKING]
    # In one order, so that no two transactions wait for each other.
    for ranking in sorted(rankings, key=lambda child: child.digest):
        share_ranking(session, ranking)
    session.refresh(comparison)
    return comparison


def enqueue_with_ranking(
    session: Session, job: Job, key: RankingKey, seen: Look | None = None
) -> Job:
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
    return enqueue(session, job, seen)


def store_finished(session: Session, job: Job) -> Job:
    """Insert a ranking or a search that a fine-tune has computed, as a job that succeeded."""
    enqueue(session, job)
    job.status = Status.SUCCEEDED
    job.started_at = job.finished_at = db_now()
    record_status(session, job, Status.SUCCEEDED)
    return job
