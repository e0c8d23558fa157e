"""The folders of the object store that exports write under names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db import Database, lock_name
from app.db.tables import TERMINAL, ExportFolder, Job
from app.jobs.attempts import count_stored_bytes
from app.jobs.state_machine import Lease, locked_job
from surgery.errors import ExportRefused


@dataclass(frozen=True)
class Reserved:
    """A name that a job may write under. ``complete``: this very content is there already."""

    path: str
    complete: bool


def reserve_folder(
    database: Database, lease: Lease, project: str, name: str, digest: str, size: int
) -> Reserved:
    """Take a name in the job's project for content with this digest. Raises Fenced.

    The name stays the job's until the job is deleted, or has ended without writing the folder.
    Raises ExportRefused if other content has the name, or a job that has not ended.
    """
    with database.write() as session:
        lock_name(session, f"export/{project}/{name}")  # before any row, as everybody does here
        job = locked_job(session, lease)
        row = session.get(ExportFolder, (project, name))
        former = None
        if row is not None and row.job_id not in {None, job.id}:
            former = session.get(Job, row.job_id, with_for_update={"key_share": True})
            row = session.get(ExportFolder, (project, name), populate_existing=True)
        if row is None:
            row = ExportFolder(project=project, name=name, complete=False, digest=digest)
            session.add(row)
        elif row.job_id != job.id:
            _check_free(row, former, digest)
        row.complete = row.complete and row.digest == digest
        row.job_id, row.digest, row.bytes = job.id, digest, size
        for each in (job, former):
            if each is not None:
                count_stored_bytes(session, each)
        return Reserved(row.path, row.complete)


def _check_free(row: ExportFolder, holder: Job | None, digest: str) -> None:
    """Raises ExportRefused if a folder must not be written, or taken over, by another job."""
    if row.job_id is None:
        raise ExportRefused(f"folder {row.name} is being removed; try again in a moment")
    if row.complete and row.digest != digest:
        raise ExportRefused(
            f"folder {row.name} has other content, exported by {row.job_id}; choose another name, "
            f"or DELETE /v1/jobs/{row.job_id} removes that folder"
        )
    if not row.complete and holder is not None and holder.status not in TERMINAL:
        raise ExportRefused(
            f"{row.job_id} exports to folder {row.name} at this moment; choose another name, or "
            "cancel that job"
        )


def complete_folder_of(database: Database, lease: Lease, name: str) -> None:
    """Note that the reserved folder is written whole. Raises Fenced."""
    with database.write() as session:
        job = locked_job(session, lease)
        session.get_one(ExportFolder, (job.project, name)).complete = True


def disown_folders(session: Session, job_ids: Sequence[str]) -> None:
    """Mark the folders of jobs that are deleted, for `remove_folders` to remove."""
    of_jobs = ExportFolder.job_id.in_(job_ids)
    session.execute(update(ExportFolder).where(of_jobs).values(job_id=None, complete=False))


def disown_abandoned_folders(database: Database) -> None:
    """Mark the folders whose jobs have ended without writing them.

    An object store may hold a part of such a folder, which lacks its manifest.
    """
    ended = select(Job.id).where(Job.id == ExportFolder.job_id, Job.status.in_(TERMINAL)).exists()
    abandoned = update(ExportFolder).where(ExportFolder.complete.is_(False), ended)
    with database.write() as session:
        session.execute(abandoned.values(job_id=None).execution_options(synchronize_session=False))


def remove_folders(database: Database, remove: Callable[[str], None]) -> None:
    """Remove the marked folders, and free their names.

    The rows are locked until their folders are gone, so that no export writes one meanwhile, and
    no two processes remove the same.
    """
    marked = select(ExportFolder).where(ExportFolder.job_id.is_(None))
    with database.read() as session:
        if session.scalar(marked.limit(1)) is None:
            return
    with database.write() as session:
        for row in session.scalars(marked.with_for_update(skip_locked=True)).all():
            remove(row.path)
            session.delete(row)
