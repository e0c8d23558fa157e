"""The attempts at a job, and what they have used: written with the transitions of its status.

A worker that claims a job begins an attempt. Whatever takes the job from it again ends the attempt
in the same transaction, so that a job is running exactly while it has an attempt that has not
ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.artifacts.attempt_logs import LOG_LIMIT_BYTES, log_key
from app.db import Database, db_now
from app.db.tables import Attempt, Checkpoint, ExportFolder, Job
from surgery.schemas.answers.usage import Usage

Json = dict[str, Any]


class AttemptOutcome(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"  # the job's result was stored
    FAILED = "failed"  # the job has an error that another attempt would meet again
    CRASHED = "crashed"  # the job's process died; charged to the job
    LOST = "lost"  # its worker stopped answering; charged to the job
    # Its worker was stopped, or had not learned that it had the job, and gave it back.
    DRAINED = "drained"
    PAUSED = "paused"  # somebody paused the job
    CANCELLED = "cancelled"  # somebody cancelled the job


def begin_attempt(session: Session, job: Job) -> None:
    """Insert the attempt that a worker begins by claiming a job."""
    assert job.lease_owner is not None
    attempt = Attempt(
        job_id=job.id,
        epoch=job.lease_epoch,
        worker=job.lease_owner,
        log_path=log_key(job.id, job.lease_epoch),
    )
    attempt.started_at = db_now()
    session.add(attempt)
    session.flush()


def note_usage(session: Session, job_id: str, epoch: int, usage: Usage | None) -> None:
    """Store what a running attempt has used so far, also in its job; None changes nothing.

    The caller has locked the job's row under the attempt's lease.
    """
    if usage is None:
        return
    of_attempt = (Attempt.job_id == job_id, Attempt.epoch == epoch)
    session.execute(update(Attempt).where(*of_attempt).values(usage=usage.model_dump()))
    total = _total(session, job_id)
    session.execute(update(Job).where(Job.id == job_id).values(usage=total))


def end_attempt(
    session: Session, job: Job, outcome: AttemptOutcome, error: Json | None = None
) -> bool:
    """End the attempt that a job is in, and count what is stored for the job.

    Without an attempt, or if it has ended, nothing changes; then False.
    """
    attempt = session.get(Attempt, (job.id, job.lease_epoch))
    if attempt is None or attempt.ended_at is not None:
        return False
    attempt.ended_at, attempt.outcome, attempt.error = db_now(), outcome.value, error
    attempt.log_closed = outcome is AttemptOutcome.LOST  # any other has a worker that closes it
    session.flush()
    job.usage = _total(session, job.id)
    count_stored_bytes(session, job)
    return True


def has_ended_by_worker(database: Database, job_id: str, epoch: int) -> bool:
    """Whether the worker of an attempt has ended it, and nobody who took it for lost."""
    with database.read() as session:
        attempt = session.get(Attempt, (job_id, epoch))
    return attempt is not None and attempt.outcome not in {None, AttemptOutcome.LOST}


def _total(session: Session, job_id: str) -> Json:
    rows = session.scalars(select(Attempt.usage).where(Attempt.job_id == job_id)).all()
    return Usage.total(rows).model_dump()


def count_stored_bytes(session: Session, job: Job) -> None:
    """Count anew what is stored for a job: checkpoints, exported folder, resume state and logs."""
    session.flush()
    sizes = select(func.coalesce(func.sum(Checkpoint.bytes), 0))
    checkpoints = session.scalar(sizes.where(Checkpoint.job_id == job.id)) or 0
    exported = select(func.coalesce(func.sum(ExportFolder.bytes), 0))
    folders = session.scalar(exported.where(ExportFolder.job_id == job.id)) or 0
    logs = session.scalars(select(Attempt.log_bytes).where(Attempt.job_id == job.id))
    kept = sum(min(size, LOG_LIMIT_BYTES) for size in logs)
    state = int((job.state or {}).get("bytes", 0))
    job.stored_bytes = int(checkpoints) + int(folders) + kept + state


def add_up_children(session: Session, comparison: Job) -> None:
    """Store what a comparison's children have used, as what the comparison has."""
    rows = session.scalars(select(Job.usage).where(Job.parent == comparison.id)).all()
    comparison.usage = Usage.total(rows).model_dump()


def note_log(database: Database, job_id: str, epoch: int, size: int, *, closed: bool) -> bool:
    """Store how long an attempt's log is by now; False if the attempt's job was deleted.

    ``closed`` says that nothing will be added to it.

    This needs no lease: the row and the log belong to this attempt alone, and a worker that has
    lost its lease may still say so in the log.
    """
    with database.write() as session:
        lock = {"key_share": True}
        job = session.get(Job, job_id, with_for_update=lock) if closed else None
        statement = update(Attempt).where(Attempt.job_id == job_id, Attempt.epoch == epoch)
        changed = statement.values(log_bytes=size, log_closed=closed).returning(Attempt.epoch)
        found = session.scalar(changed) is not None
        if job is not None:
            count_stored_bytes(session, job)
        return found


def attempts_of(database: Database, job_id: str) -> Sequence[Attempt]:
    """A job's attempts, oldest first."""
    with database.read() as session:
        query = select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.epoch)
        return session.scalars(query).all()
