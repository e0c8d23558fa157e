"""Which checkpoints stay, and what a reader is told whose checkpoint goes meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db import Database
from app.errors import Conflict, NotFound
from app.jobs.state_machine import Lease, holding, record_event
from app.tables import TERMINAL, Checkpoint, Job
from surgery.errors import UnsafeWeights

Keep = str | int  # as CheckpointSpec.keep has it


@contextmanager
def reading(database: Database, row: Checkpoint) -> Iterator[None]:
    """Raises what ``missing`` says where a file is not there."""
    try:
        yield
    except FileNotFoundError as error:
        raise missing(database, row) from error


def missing(database: Database, row: Checkpoint) -> Exception:
    """Why the files that a row names, as it was read a moment ago, are not there."""
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
    """The jobs that begin with a checkpoint's weights and are not over.

    Ask after locking the checkpoint: a submission holds it until its job is there to be seen.
    """
    return session.scalars(
        select(Job.id)
        .where(Job.spec["continue_from"].as_string() == checkpoint_id, Job.status.not_in(TERMINAL))
        .order_by(Job.id)
    ).all()


def prune_checkpoints(database: Database, lease: Lease, keep: Keep) -> list[str]:
    """Drop the rows a run does not keep; the paths whose files may go. Raises Fenced.

    The rows are locked before they are read, so that what was pinned or asked for until now stays.
    """
    if keep == "all":
        return []
    with database.write() as session:
        holding(session, lease)
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
        return [row.path for row in dropped]


def _kept(rows: Sequence[Checkpoint], keep: Keep) -> set[str]:
    """The ids that ``keep`` names; ``rows`` from the oldest to the newest."""
    best = {row.id for row in rows if row.is_best}
    if isinstance(keep, int):
        return best | {row.id for row in rows[-keep:]}
    last = {row.id for row in rows[-1:]}
    return {"best": best, "last": last, "best_and_last": best | last}[keep]


def set_pinned(database: Database, checkpoint_id: str, *, pinned: bool) -> Checkpoint:
    """Pin a checkpoint or let it go again; no effect where it is so already. Raises NotFound."""
    with database.write() as session:
        row = _locked(session, checkpoint_id)
        if row.pinned != pinned:
            row.pinned = pinned
            kind = "checkpoint_pinned" if pinned else "checkpoint_unpinned"
            record_event(session, row.job_id, row.lease_epoch, kind, {"id": row.id})
        return row


def delete_checkpoint(database: Database, checkpoint_id: str) -> str:
    """Remove a checkpoint's row; the path whose files may go.

    Raises NotFound, and Conflict where it is pinned, its own job still runs or another begins with
    it.
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
                f"job {row.job_id} is {job.status} and keeps what its checkpoints.keep says; "
                "cancel it or wait"
            )
        users = unfinished_users(session, row.id)
        if users:
            raise Conflict(
                f"{', '.join(users[:10])} continue from checkpoint {row.id}; cancel or wait",
                errors=[{"detail": f"{user} continues from it"} for user in users],
            )
        session.delete(row)
        record_event(session, row.job_id, row.lease_epoch, "checkpoint_deleted", {"id": row.id})
        return row.path


def _locked(session: Session, checkpoint_id: str) -> Checkpoint:
    owner = select(Checkpoint.job_id).where(Checkpoint.id == checkpoint_id).scalar_subquery()
    # First the job, then its checkpoints, as a worker that commits one locks them.
    session.execute(select(Job.id).where(Job.id == owner).with_for_update())
    query = select(Checkpoint).where(Checkpoint.id == checkpoint_id).with_for_update()
    row = session.scalar(query)
    if row is None:
        raise NotFound(f"no checkpoint {checkpoint_id!r}")
    return row
