"""Writes what a running job records, only while its lease holds, and reads it back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from app.db import Database, db_now
from app.db.tables import Attempt, Checkpoint, Dataset, GivenRows, Job, JobKind, Metric, new_id
from app.jobs.attempts import count_stored_bytes
from app.jobs.outputs.checkpoints import unfinished_users
from app.jobs.shared_rankings import RankingKey, computed_ranking
from app.jobs.state_machine import Lease, locked_job, record_event, store_finished
from app.jobs.webhooks import notices
from surgery.io.reporter import CheckpointSummary
from surgery.schemas.resolved import Resolved, ResolvedFinetune, ResolvedSelection, completed

Json = dict[str, Any]
IDS_AT_ONCE = 1000  # in one statement; databases limit its parameters


def record_metrics(
    database: Database, lease: Lease, step: int, epoch: float, values: Mapping[str, float | None]
) -> None:
    """Store the numbers measured at a step, over those of the same step. Raises Fenced."""
    insert = sqlite_insert if database.engine.dialect.name == "sqlite" else postgres_insert
    with database.write() as session:
        locked_job(session, lease)  # so that the numbers become visible in their order
        of_job = select(func.max(Metric.seq)).where(Metric.job_id == lease.job_id)
        written = session.scalar(of_job) or 0
        for seq, (name, value) in enumerate(sorted(values.items()), written + 1):
            measured = {"seq": seq, "epoch": epoch, "value": value, "at": db_now()}
            statement = insert(Metric).values(job_id=lease.job_id, name=name, step=step, **measured)
            session.execute(
                statement.on_conflict_do_update(
                    index_elements=["job_id", "name", "step"], set_=measured
                )
            )


def record(database: Database, lease: Lease, kind: str, data: Json) -> None:
    """Add an event to the job's history. Raises Fenced."""
    with database.write() as session:
        locked_job(session, lease)
        record_event(session, lease.job_id, lease.epoch, kind, data)


def commit_checkpoint(
    database: Database, lease: Lease, path: str, files: Json, summary: CheckpointSummary
) -> tuple[str, str | None]:
    """Write the row of a checkpoint whose files are stored. Raises Fenced.

    An earlier attempt may have left a checkpoint of the same step. Its row is reused, so that its
    id and its pin stay. Returns the checkpoint's id, and the path of the earlier files if they can
    be deleted.
    """
    with database.write() as session:
        job = locked_job(session, lease)
        of_step = (Checkpoint.job_id == lease.job_id, Checkpoint.step == summary.step)
        row = session.scalar(select(Checkpoint).where(*of_step).with_for_update())
        if row is not None and _is_stored(row, lease, path, files, summary):
            return row.id, None  # this statement is repeated: its first reply was lost
        if summary.is_best:
            session.execute(
                update(Checkpoint).where(Checkpoint.job_id == lease.job_id).values(is_best=False)
            )
        if row is None:
            row = Checkpoint(id=new_id("ck"), job_id=lease.job_id, step=summary.step, path=path)
            session.add(row)
        # A job that continues from it may be reading the old files; the sweeper deletes them later.
        free = row.path != path and not unfinished_users(session, row.id)
        replaced = row.path if free else None
        row.lease_epoch, row.path, row.files = lease.epoch, path, files
        row.bytes = sum(file["bytes"] for file in files.values())
        row.epoch, row.form, row.is_best = summary.epoch, summary.form, summary.is_best
        row.metrics = dict(summary.metrics)
        row.created_at = db_now()
        data = {"id": row.id, "step": row.step, "epoch": row.epoch}
        record_event(session, lease.job_id, lease.epoch, "checkpoint", data)
        notices.post_checkpoint(session, job, data | {"is_best": row.is_best})
        count_stored_bytes(session, job)
        return row.id, replaced


def _is_stored(
    row: Checkpoint, lease: Lease, path: str, files: Json, summary: CheckpointSummary
) -> bool:
    """Whether a row is exactly what this attempt would write into it."""
    stored = (row.lease_epoch, row.path, row.files, row.epoch, row.form, row.is_best, row.metrics)
    told = (summary.epoch, summary.form, summary.is_best, dict(summary.metrics))
    return stored == (lease.epoch, path, files, *told)


def referenced_paths(database: Database) -> set[str]:
    """The paths of datasets, checkpoints, states and logs that rows of the database name."""
    with database.read() as session:
        datasets = session.scalars(select(Dataset.path)).all()
        checkpoints = session.scalars(select(Checkpoint.path)).all()
        states = session.scalars(select(Job.state).where(Job.state.is_not(None))).all()
        logs = session.scalars(select(Attempt.log_path).where(Attempt.log_path.is_not(None))).all()
    return {
        *datasets,
        *checkpoints,
        *(path for path in logs if path),
        *(state["path"] for state in states if state),
    }


def unknown_jobs(database: Database, job_ids: Collection[str]) -> set[str]:
    """Those of the ids that no job has: never, or not any more."""
    unknown = set(job_ids)
    ids = sorted(unknown)
    with database.read() as session:
        for start in range(0, len(ids), IDS_AT_ONCE):
            some = ids[start : start + IDS_AT_ONCE]
            unknown.difference_update(session.scalars(select(Job.id).where(Job.id.in_(some))))
    return unknown


def commit_state(database: Database, lease: Lease, path: str, step: int, size: int) -> str | None:
    """Record the state from which an interrupted run resumes. Raises Fenced.

    ``size`` is that of its files in bytes. Returns the path of the state that it replaces.
    """
    with database.write() as session:
        job = locked_job(session, lease)
        before = job.state["path"] if job.state else None
        job.state = {"path": path, "step": step, "bytes": size}
        count_stored_bytes(session, job)
        return before


def pin_selection(database: Database, lease: Lease, selection: ResolvedSelection) -> None:
    """Store the selection that a worker resolved, for this and later attempts. Raises Fenced."""
    with database.write() as session:
        job = locked_job(session, lease)
        job.resolved = completed(job.resolved, selection)


def _finished_child(
    job: Job, kind: JobKind, prefix: str, digest: str, spec: Json, result: Json
) -> Job:
    """A ranking or a search that a fine-tune has computed, as a job of its own."""
    resolved = ResolvedFinetune.of(job.resolved)
    own = Resolved(model=resolved.model, dataset=resolved.dataset, digest=digest)
    return Job(
        id=new_id(prefix),
        project=job.project,
        kind=kind,
        labels=job.labels,
        request_id=job.request_id,
        model=job.model,
        dataset=job.dataset,
        digest=digest,
        parent=job.id,
        max_attempts=1,
        spec=spec,
        resolved=own.stored(),
        result=result,
    )


def store_ranking(database: Database, lease: Lease, digest: str, spec: Json, result: Json) -> str:
    """Store a fine-tune's ranking as a finished job, and return its id. Raises Fenced."""
    with database.write() as session:
        job = locked_job(session, lease)
        known = ResolvedFinetune.of(job.resolved).ranking
        if known is not None and session.get(Job, known) is not None:
            return known  # this statement is repeated: its first reply was lost
        ranking = _finished_child(job, JobKind.RANKING, "rk", digest, spec, result)
        store_finished(session, ranking)
        job.resolved = completed(job.resolved, ResolvedSelection(ranking=ranking.id))
        record_event(session, job.id, lease.epoch, "ranking", {"id": ranking.id})
        return ranking.id


def store_search(
    database: Database,
    lease: Lease,
    digest: str,
    spec: Json,
    result: Json,
    selection: ResolvedSelection,
) -> str | None:
    """Store a fine-tune's search as a finished job, and what it found. Raises Fenced.

    From then on the fine-tune trains: the state that the search would have resumed from is of no
    use any more. Returns that state's path.
    """
    with database.write() as session:
        job = locked_job(session, lease)
        if ResolvedFinetune.of(job.resolved).layers is not None:
            return None  # this statement is repeated: its first reply was lost
        search = _finished_child(job, JobKind.SEARCH, "se", digest, spec, result)
        store_finished(session, search)
        found = selection.model_copy(update={"search": search.id})
        job.resolved = completed(job.resolved, found)
        before, job.state = (job.state or {}).get("path"), None
        count_stored_bytes(session, job)
        record_event(session, job.id, lease.epoch, "search", {"id": search.id})
        return before


def checkpoints_of(database: Database, job_id: str) -> Sequence[Checkpoint]:
    """A job's checkpoints in order of their steps."""
    with database.read() as session:
        query = select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.step)
        return session.scalars(query).all()


def rows_of(database: Database, job_id: str) -> list[Json]:
    """The rows that a prediction is asked for."""
    with database.read() as session:
        return session.get_one(GivenRows, job_id).rows


def checkpoint_path(database: Database, checkpoint_id: str) -> str | None:
    """The current path of a checkpoint's files; None if there is no such checkpoint."""
    with database.read() as session:
        row = session.get(Checkpoint, checkpoint_id)
    return row.path if row else None


def selection_of(database: Database, job_id: str) -> ResolvedSelection:
    """What a fine-tune trains, with the ranking or the search that chose it, as stored by now."""
    with database.read() as session:
        job = session.get(Job, job_id)
    return ResolvedSelection.of(job.resolved) if job else ResolvedSelection()


def awaited_result(database: Database, job: Job, kind: JobKind) -> Json | None:
    """The result of the ranking, or of the search, that still has to choose a fine-tune's layers.

    None if they are chosen already, or by the other of the two.
    """
    resolved = ResolvedFinetune.of(job.resolved)
    awaited = resolved.search if kind is JobKind.SEARCH else resolved.ranking
    if awaited is None or resolved.layers is not None:
        return None
    with database.read() as session:
        chooser = session.get(Job, awaited)
    return chooser.result if chooser else None


def stored_ranking(database: Database, project: str, digest: str) -> Job | None:
    """A project's newest ranking with this digest that was computed."""
    with database.read() as session:
        return computed_ranking(session, RankingKey(project, digest))
