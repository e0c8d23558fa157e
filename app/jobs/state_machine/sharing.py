"""Equal rankings are computed once: jobs that share one, wait for one, and go on after it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.db import Database, db_now, lock_name, try_lock_name
from app.db.tables import Job, JobKind, Status
from app.jobs import shared_rankings
from app.jobs.progress import at_the_end
from app.jobs.shared_rankings import RankingKey
from app.jobs.state_machine.changes import take_choice
from app.jobs.state_machine.children import end
from app.jobs.state_machine.history import record_event
from app.jobs.state_machine.leases import try_lock_comparison
from app.process.restarts import surviving
from surgery.schemas.resolved import Learned, completed

log = logging.getLogger("surgeon.jobs")


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

    def settle(job_id: str) -> bool:
        with database.write() as session:
            settle_one(session, job_id)
        return True

    each_of(ids, settle)


def each_of(ids: Sequence[str], act: Callable[[str], bool]) -> list[str]:
    """The ids of the jobs for which ``act`` is true. One that fails keeps no other from its turn.

    The next sweep tries it again.
    """
    done = []
    for job_id in ids:
        with surviving("sweeper", SQLAlchemyError):
            if act(job_id):
                done.append(job_id)
    return done


def settle_one(session: Session, job_id: str) -> None:
    """Let a job go on that waited for a ranking, unless another process does so.

    It takes the ranking's result. If there is none, the first ranking that waited is computed
    instead, and the others wait for that one.
    """
    row = session.execute(select(Job.project, Job.digest).where(Job.id == job_id)).one_or_none()
    if row is None:
        return
    # Whoever holds one of these locks settles by itself, or a sweep does later.
    if not try_lock_name(session, RankingKey(*row).lock):
        return
    if not try_lock_comparison(session, job_id):
        return
    query = select(Job).where(Job.id == job_id, shared_rankings.may_go_on())
    job = session.scalar(query.with_for_update(key_share=True, skip_locked=True, of=Job))
    if job is None:
        return
    awaited = session.get(Job, job.waits_for)
    if awaited is None or awaited.status != Status.SUCCEEDED:
        go_on_alone(session, job)
    elif job.kind == JobKind.RANKING:
        take_result(session, job, awaited)
    else:
        take_choice(session, job, awaited.kind, awaited.result_of or awaited.id)


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
