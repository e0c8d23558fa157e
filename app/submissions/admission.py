"""Whether a project's quotas allow new jobs and datasets, asked where they are inserted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, String, bindparam, select
from sqlalchemy.orm import Session

from app.access import quotas
from app.access.limits import Limits, limits_in_force
from app.db.tables import WORKER_KINDS, Dataset, Job, Project
from app.jobs.webhooks.notices import Look, looked_at
from app.service import Service


@dataclass(frozen=True)
class Present:
    """What a transaction that inserts a job has to know, read by one statement.

    ``dataset`` is None if the dataset was deleted; otherwise its row is locked until the end of
    the transaction.
    """

    limits: Mapping[str, Any]
    seen: Look
    dataset: str | None


def _present_query() -> Select[Any]:
    project, dataset = bindparam("project", type_=String), bindparam("dataset", type_=String)
    named = select(Dataset.id).where(Dataset.id == dataset).with_for_update(read=True)
    query = select(Project.limits, named.scalar_subquery(), *looked_at(project))
    return query.where(Project.id == project)


PRESENT = _present_query()  # built once, as building it takes longer than the database does


def present(session: Session, project: str, dataset: str | None) -> Present:
    """The project's own limits, its webhooks, the time, and an uploaded dataset's id, locked."""
    asked = {"project": project, "dataset": dataset}
    limits, found, *seen = session.execute(PRESENT, asked).one()
    return Present(limits, Look(*seen), found)


def admit(
    session: Session,
    service: Service,
    jobs: Sequence[Job],
    own: Mapping[str, Any] | None = None,
) -> None:
    """Raises QuotaExceeded if the project's quotas do not allow these jobs, children included.

    The caller inserts them in the same transaction. Submissions of one project wait for each other
    here, so together they cannot queue more than the quota allows. ``own`` are the project's own
    limits, if they were read.
    """
    limits = _locked_limits(session, service, own)
    waiting = sum(job.kind in WORKER_KINDS for job in jobs)
    if limits.queued_jobs is not None:
        quotas.queued_jobs(session, service.project, limits).check(waiting)
    # What a job will use is not known before it has run: it may begin while anything is left.
    if limits.device_hours_per_month is not None:
        quotas.device_hours(session, service.project, limits).check_left()
    if limits.stored_bytes is not None:
        quotas.storage(session, service.project, limits).check_left()


def admit_bytes(session: Session, service: Service, size: int) -> None:
    """Raises QuotaExceeded if the project may not store so many bytes more."""
    limits = _locked_limits(session, service)
    if limits.stored_bytes is not None:
        quotas.storage(session, service.project, limits).check(size)


def _locked_limits(
    session: Session, service: Service, own: Mapping[str, Any] | None = None
) -> Limits:
    """The project's limits; its row is locked until the end of the transaction if there are any."""
    query = select(Project.limits).where(Project.id == service.project)
    if own is None:
        own = session.execute(query).scalar_one()
    limits = limits_in_force(service.settings, own)
    if limits.model_dump(exclude={"requests_per_minute", "running_jobs"}, exclude_none=True):
        # Not more than this: rows that refer to the project can still be inserted.
        session.scalar(query.with_for_update(key_share=True))
    return limits
