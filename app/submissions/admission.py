"""Whether a project's quotas allow new jobs and datasets, asked where they are inserted."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.access import quotas
from app.access.limits import Limits, limits_in_force
from app.service import Service
from app.tables import WORKER_KINDS, Job, Project


def admit(session: Session, service: Service, jobs: Sequence[Job]) -> None:
    """Raises QuotaExceeded if the project's quotas do not allow these jobs, children included.

    The caller inserts them in the same transaction. Submissions of one project wait for each other
    here, so together they cannot queue more than the quota allows.
    """
    limits = _locked_limits(session, service)
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


def _locked_limits(session: Session, service: Service) -> Limits:
    """The project's limits; its row is locked until the end of the transaction if there are any."""
    own = select(Project.limits).where(Project.id == service.project)
    limits = limits_in_force(service.settings, session.execute(own).scalar_one())
    if limits.model_dump(exclude={"requests_per_minute", "running_jobs"}, exclude_none=True):
        # Not more than this: rows that refer to the project can still be inserted.
        session.scalar(own.with_for_update(key_share=True))
    return limits
