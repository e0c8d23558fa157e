"""What a running job records, each write fenced by its lease."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from app.db import Database, db_now
from app.jobs.checkpoints import unfinished_users
from app.jobs.state_machine import Json, Lease, holding, record_event, store_finished_ranking
from app.tables import Checkpoint, Job, Kind, Metric, Status, new_id
from surgery.io.reporter import CheckpointSummary
from surgery.schemas.resolved import Resolved, ResolvedFinetune, ResolvedSelection, completed


def record_metrics(
    database: Database, lease: Lease, step: int, epoch: float, values: Mapping[str, float | None]
) -> None:
    """Store numbers measured at a step; a repeated step replaces them. Raises Fenced."""
    insert = sqlite_insert if database.engine.dialect.name == "sqlite" else postgres_insert
    with database.write() as session:
        holding(session, lease)
        for name, value in values.items():
            row = {
                "job_id": lease.job_id,
                "name": name,
                "step": step,
                "epoch": epoch,
                "value": value,
            }
            statement = insert(Metric).values(**row, at=db_now())
            session.execute(
                statement.on_conflict_do_update(
                    index_elements=["job_id", "name", "step"],
                    set_={"epoch": epoch, "value": value, "at": db_now()},
                )
            )


def record(database: Database, lease: Lease, kind: str, data: Json) -> None:
    """Add an event to the job's history. Raises Fenced."""
    with database.write() as session:
        holding(session, lease)
        record_event(session, lease.job_id, lease.epoch, kind, data)


def commit_checkpoint(
    database: Database, lease: Lease, path: str, files: Json, summary: CheckpointSummary
) -> tuple[str, str | None]:
    """Write the row that makes a stored checkpoint exist. Raises Fenced.

    Returns its id, and the path of an earlier attempt's checkpoint of the same step that it
    replaces, whose files may go. Such a checkpoint keeps its id, and stays pinned if it was.
    """
    with database.write() as session:
        holding(session, lease)
        if summary.is_best:
            session.execute(
                update(Checkpoint).where(Checkpoint.job_id == lease.job_id).values(is_best=False)
            )
        row = session.scalar(
            select(Checkpoint)
            .where(Checkpoint.job_id == lease.job_id, Checkpoint.step == summary.step)
            .with_for_update()
        )
        if row is None:
            row = Checkpoint(id=new_id("ck"), job_id=lease.job_id, step=summary.step, path=path)
            session.add(row)
        # A job that continues from it may be reading the old files: they are left to the sweeper.
        free = row.path != path and not unfinished_users(session, row.id)
        replaced = row.path if free else None
        row.lease_epoch, row.path, row.files = lease.epoch, path, files
        row.bytes = sum(file["bytes"] for file in files.values())
        row.epoch, row.form, row.is_best = summary.epoch, summary.form, summary.is_best
        row.metrics = dict(summary.metrics)
        row.created_at = db_now()
        data = {"id": row.id, "step": row.step, "epoch": row.epoch}
        record_event(session, lease.job_id, lease.epoch, "checkpoint", data)
        return row.id, replaced


def referenced_paths(database: Database) -> set[str]:
    """Every path of a checkpoint or a state that some row still names."""
    with database.read() as session:
        checkpoints = session.scalars(select(Checkpoint.path)).all()
        states = session.scalars(select(Job.state).where(Job.state.is_not(None))).all()
    return {*checkpoints, *(state["path"] for state in states if state)}


def commit_state(database: Database, lease: Lease, path: str, step: int) -> str | None:
    """Remember where an interrupted run goes on; the path of the state before. Raises Fenced."""
    with database.write() as session:
        job = holding(session, lease)
        before = job.state["path"] if job.state else None
        job.state = {"path": path, "step": step}
        return before


def resolve_further(database: Database, lease: Lease, selection: ResolvedSelection) -> None:
    """Pin what only the worker could know, for this attempt and the next. Raises Fenced."""
    with database.write() as session:
        job = holding(session, lease)
        job.resolved = completed(job.resolved, selection)


def keep_ranking(database: Database, lease: Lease, digest: str, spec: Json, result: Json) -> str:
    """Store the ranking a fine-tune computed as a ranking of its own; its id. Raises Fenced."""
    with database.write() as session:
        job = holding(session, lease)
        own = ResolvedFinetune.of(job.resolved)
        ranking = Job(
            id=new_id("rk"),
            kind=Kind.RANKING,
            labels=job.labels,
            model=job.model,
            dataset=job.dataset,
            digest=digest,
            parent=job.id,
            max_attempts=1,
            spec=spec,
            resolved=Resolved(model=own.model, dataset=own.dataset, digest=digest).stored(),
            result=result,
        )
        store_finished_ranking(session, ranking)
        job.resolved = completed(job.resolved, ResolvedSelection(ranking=ranking.id))
        record_event(session, job.id, lease.epoch, "ranking", {"id": ranking.id})
        return ranking.id


def checkpoints_of(database: Database, job_id: str) -> Sequence[Checkpoint]:
    """A job's checkpoints in order of their step."""
    with database.read() as session:
        query = select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.step)
        return session.scalars(query).all()


def checkpoint_path(database: Database, checkpoint_id: str) -> str | None:
    """Where a checkpoint's files are now."""
    with database.read() as session:
        row = session.get(Checkpoint, checkpoint_id)
    return row.path if row else None


def ranking_of(database: Database, job_id: str) -> str | None:
    """The ranking behind a fine-tune's selection."""
    with database.read() as session:
        job = session.get(Job, job_id)
    return ResolvedFinetune.of(job.resolved).ranking if job else None


def waited_for(database: Database, job: Job) -> Json | None:
    """The result of the ranking that a fine-tune waited for, and has to choose its layers by."""
    resolved = ResolvedFinetune.of(job.resolved)
    if resolved.ranking is None or resolved.layers is not None:
        return None
    with database.read() as session:
        ranking = session.get(Job, resolved.ranking)
    return ranking.result if ranking else None


def stored_ranking(database: Database, digest: str) -> Job | None:
    """The newest succeeded ranking with this very content."""
    with database.read() as session:
        return session.scalar(
            select(Job)
            .where(Job.digest == digest, Job.kind == Kind.RANKING, Job.status == Status.SUCCEEDED)
            .order_by(Job.id.desc())
            .limit(1)
        )
