"""Finds, pins, deletes and prunes checkpoints, and says why a checkpoint's files are missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from app.db import Database
from app.db.tables import TERMINAL, Checkpoint, Job
from app.errors import Conflict, NotFound
from app.jobs.attempts import count_stored_bytes
from app.jobs.state_machine import Lease, locked_job, record_event
from surgery.errors import UnsafeWeights

Retention = str | int  # a value of CheckpointSpec.keep
NAMING = ("continue_from", "checkpoint")  # the fields of requests that name a checkpoint


@contextmanager
def explaining_missing_files(database: Database, row: Checkpoint) -> Iterator[None]:
    """Replaces FileNotFoundError by the result of ``missing_files_error``."""
    try:
        yield
    except FileNotFoundError as error:
        raise missing_files_error(database, row) from error


def checkpoint_of(database: Database, project: str, checkpoint_id: str) -> Checkpoint | None:
    """The checkpoint with this id, if a job of the project has it."""
    with database.read() as session:
        return session.scalar(
            select(Checkpoint)
            .join(Job, Job.id == Checkpoint.job_id)
            .where(Checkpoint.id == checkpoint_id, Job.project == project)
        )


def missing_files_error(database: Database, row: Checkpoint) -> Exception:
    """The error that says why files are missing that a row named when it was read."""
    with database.read() as session:
        now = session.get(Checkpoint, row.id)
    if now is None:
        return NotFound(f"checkpoint {row.id} was deleted meanwhile")
    if now.path != row.path:
        return Conflict(
            f"another attempt of {row.job_id} replaced checkpoint {row.id} meanwhile; ask again"
        )
    return UnsafeWeights(f"the stored files of checkpoint {row.id} are damaged")


def unfinished_users(session: Session, checkpoint_id: str) -> Sequence[str]:
    """The jobs that continue from a checkpoint, predict with it or export it, and have not ended.

    The caller holds a lock on the checkpoint. A submission holds one until its job is inserted, so
    that no job is missed.
    """
    named = [Job.spec[field].as_string() == checkpoint_id for field in NAMING]
    query = select(Job.id).where(or_(*named), Job.status.not_in(TERMINAL))
    return session.scalars(query.order_by(Job.id)).all()


def prune_checkpoints(database: Database, lease: Lease, keep: Retention) -> list[str]:
    """Delete the rows that ``keep`` does not name, and return the paths of their files.

    The rows are locked before they are read, so that no checkpoint is dropped that was pinned or
    continued from meanwhile. Raises Fenced.
    """
    if keep == "all":
        return []
    with database.write() as session:
        job = locked_job(session, lease)
        query = select(Checkpoint).where(Checkpoint.job_id == lease.job_id)
        rows = session.scalars(query.order_by(Checkpoint.step).with_for_update()).all()
        kept = _kept(rows, keep)
        dropped = [
            row
            for row in rows
            if row.id not in kept and not row.pinned and not unfinished_users(session, row.id)
        ]
        for row in dropped:
            session.delete(row)
        count_stored_bytes(session, job)
        return [row.path for row in dropped]


def _kept(rows: Sequence[Checkpoint], keep: Retention) -> set[str]:
    """The ids of the checkpoints that ``keep`` names; ``rows`` are sorted from old to new."""
    best = {row.id for row in rows if row.is_best}
    if isinstance(keep, int):
        return best | {row.id for row in rows[-keep:]}
    last = {row.id for row in rows[-1:]}
    return {"best": best, "last": last, "best_and_last": best | last}[keep]


def set_pinned(database: Database, checkpoint_id: str, *, pinned: bool) -> Checkpoint:
    """Pin a checkpoint or end its pin. Raises NotFound."""
    with database.write() as session:
        row = _locked(session, checkpoint_id)
        if row.pinned != pinned:
            row.pinned = pinned
            kind = "checkpoint_pinned" if pinned else "checkpoint_unpinned"
            record_event(session, row.job_id, row.lease_epoch, kind, {"id": row.id})
        return row


def delete_checkpoint(database: Database, checkpoint_id: str) -> str:
    """Delete a checkpoint's row, and return the path of its files.

    Raises NotFound; and Conflict if the checkpoint is pinned, if its job has not ended, or if a
    job that continues from it, predicts with it or exports it has not ended.
    """
    with database.write() as session:
        row = _locked(session, checkpoint_id)
        if row.pinned:
            raise Conflict(
                f"checkpoint {row.id} is pinned; DELETE /v1/checkpoints/{row.id}/pin lets it go"
            )
        job = session.get(Job, row.job_id)
        if job is not None and job.status not in TERMINAL:
            raise Conflict(
                f"job {row.job_id} is {job.status} and may need its checkpoints; cancel it or wait "
                "until it has ended"
            )
        users = unfinished_users(session, row.id)
        if users:
            raise Conflict(
                f"{', '.join(users[:10])} need checkpoint {row.id}; cancel them or wait",
                errors=[{"detail": f"{user} needs it"} for user in users],
            )
        session.delete(row)
        record_event(session, row.job_id, row.lease_epoch, "checkpoint_deleted", {"id": row.id})
        if job is not None:
            count_stored_bytes(session, job)
        return row.path


def _locked(session: Session, checkpoint_id: str) -> Checkpoint:
    owner = select(Checkpoint.job_id).where(Checkpoint.id == checkpoint_id).scalar_subquery()
    # The job is locked before its checkpoints, in the same order as by a worker.
    session.scalar(select(Job.id).where(Job.id == owner).with_for_update(key_share=True))
    query = select(Checkpoint).where(Checkpoint.id == checkpoint_id).with_for_update()
    row = session.scalar(query)
    if row is None:
        raise NotFound(f"no checkpoint {checkpoint_id!r}")
    return row
