"""Deletes a job that has ended, with everything that belongs to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from app.access.usage import keep_usage
from app.db import Database, lock_name
from app.db.tables import TERMINAL, Attempt, Checkpoint, GivenRows, Job, JobEvent, JobKind, Metric
from app.errors import Conflict, NotFound
from app.jobs.actions import Action, is_child, refusal
from app.jobs.outputs.checkpoints import unfinished_users
from app.jobs.outputs.exports import disown_folders
from app.jobs.shared_rankings import RankingKey
from app.jobs.state_machine import locked_for_request

FOLDERS = ("jobs", "logs")  # each has a folder of its own for every job
CHOOSERS = (JobKind.RANKING, JobKind.SEARCH)  # what fine-tunes choose their layers by
RECORDS = (JobEvent, Metric, Checkpoint, Attempt, GivenRows)


def delete_job(database: Database, job_id: str, check: Callable[[Job], None]) -> list[str]:
    """Delete the rows of a job that has ended, and return the folders that may be deleted now.

    The folders that exports have written are left to `remove_folders`.

    With a comparison go its children, with a fine-tune the ranking or the search that it computed
    for itself, unless another job has chosen its layers by that. ``check`` may refuse the locked
    row. Raises NotFound; and Conflict if the job has not ended, belongs to a comparison, or is
    needed.
    """
    with database.write() as session:
        _lock_shared_rankings(session, job_id)  # before any row, as whoever shares one does
        job = locked_for_request(session, job_id)
        if job is None:
            raise NotFound(f"no job {job_id!r}; GET /v1/jobs lists them")
        check(job)
        if job.status not in TERMINAL:
            raise Conflict(refusal(job, Action.DELETE))
        if is_child(job):
            raise Conflict(
                f"{job.id} is a part of comparison {job.parent}, which its table names; "
                f"DELETE /v1/jobs/{job.parent} deletes all of it"
            )
        _lock_shared_rankings(session, job_id)  # also of a fine-tune that has ended just now
        doomed = _with_dependants(session, job)
        _check_not_needed(session, doomed)
        ids = [each.id for each in doomed]
        for each in doomed:
            _hand_over_result(session, each)
        keep_usage(session, ids)
        disown_folders(session, ids)
        for table in RECORDS:
            session.execute(delete(table).where(table.job_id.in_(ids)))
        session.execute(delete(Job).where(Job.id.in_(ids), Job.id != job.id))
        session.execute(delete(Job).where(Job.id == job.id))  # last: the others refer to it
        return [f"{folder}/{each}" for each in ids for folder in FOLDERS]


def _lock_shared_rankings(session: Session, job_id: str) -> None:
    """Let nobody begin to use the rankings that would go with a job.

    Those that did so already are seen by what is read from now on.
    """
    own = or_(Job.id == job_id, Job.parent == job_id)
    rankings = select(Job.project, Job.digest).where(own, Job.kind == JobKind.RANKING)
    # In one order, so that no two transactions wait for each other.
    for key in session.execute(rankings.distinct().order_by(Job.digest)):
        lock_name(session, RankingKey(*key).lock)


def _with_dependants(session: Session, job: Job) -> list[Job]:
    """The job and the jobs that go with it, locked. What others chose by is let go instead."""
    query = select(Job).where(Job.parent == job.id).order_by(Job.id)
    created = session.scalars(query.with_for_update(key_share=True)).all()
    if job.kind == JobKind.COMPARISON:
        return [job, *created]
    used = {each.id for each in created if _choosing_by(session, [each.id], except_for=job.id)}
    for each in created:
        if each.id in used:
            each.parent = None
    return [job, *(each for each in created if each.id not in used)]


def _hand_over_result(session: Session, job: Job) -> None:
    """Let another ranking store a result that equal rankings share, if there is one."""
    if job.kind != JobKind.RANKING or job.own_result is None:
        return
    sharing = select(Job).where(Job.result_of == job.id).order_by(Job.id)
    heir = session.scalar(sharing.limit(1).with_for_update(key_share=True, of=Job))
    if heir is None:
        return
    result, heir.result_of = job.own_result, None
    heir.own_result = result
    session.flush()
    others = update(Job).where(Job.result_of == job.id)
    session.execute(others.values(result_of=heir.id).execution_options(synchronize_session=False))


def _choosing_by(
    session: Session, choosers: Sequence[str], except_for: str, *, unfinished: bool = False
) -> Sequence[str]:
    """The jobs that choose, or have chosen, their layers by one of these rankings or searches."""
    named = [Job.resolved[kind].as_string().in_(choosers) for kind in CHOOSERS]
    query = select(Job.id).where(or_(Job.waits_for.in_(choosers), *named), Job.id != except_for)
    if unfinished:
        query = query.where(Job.status.not_in(TERMINAL))
    return session.scalars(query.order_by(Job.id)).all()


def _check_not_needed(session: Session, doomed: Sequence[Job]) -> None:
    """Raises Conflict if a checkpoint is pinned, or a job that has not ended needs one of these."""
    ids = [job.id for job in doomed]
    query = select(Checkpoint).where(Checkpoint.job_id.in_(ids)).order_by(Checkpoint.id)
    checkpoints = session.scalars(query.with_for_update()).all()
    pinned = [row.id for row in checkpoints if row.pinned]
    if pinned:
        raise Conflict(
            f"checkpoint {pinned[0]} is pinned; DELETE /v1/checkpoints/{pinned[0]}/pin lets it go",
            errors=[{"detail": f"checkpoint {row} is pinned"} for row in pinned],
        )
    needed = [
        f"{user} needs checkpoint {row.id}"
        for row in checkpoints
        for user in unfinished_users(session, row.id)
    ]
    for kind in CHOOSERS:
        choosers = [job.id for job in doomed if job.kind == kind]
        users = _choosing_by(session, choosers, except_for=ids[0], unfinished=True)
        needed += [f"{user} chooses its layers by a {kind}" for user in users if choosers]
    if needed:
        raise Conflict(
            f"{needed[0]} that would be deleted; cancel that job or wait until it has ended",
            errors=[{"detail": each} for each in needed],
        )
