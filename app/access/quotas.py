"""Quotas: how much of the service a project uses now, and whether its limits allow more."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session, aliased

from app.access.limits import Limits
from app.access.usage import device_seconds, stored_bytes
from app.db.tables import WORKER_KINDS, Job, Project, Status, has_status
from app.errors import QuotaExceeded

QUEUE_SECONDS = 30  # when to try again with a full queue
STORAGE_SECONDS = 3600  # when to try again with full storage, which only deleting empties


@dataclass(frozen=True)
class Quota:
    """One quota of a project, and how much of it is used."""

    name: str  # as in ``Limits``
    used: float
    limit: float | None
    frees: str  # what makes room, as a part of a sentence
    retry_seconds: int

    def check(self, more: float) -> None:
        """Raises QuotaExceeded if ``more`` does not fit beside what is used."""
        if self.limit is not None and self.used + more > self.limit:
            raise self._exceeded(f" and {_number(more)} more needed")

    def check_left(self) -> None:
        """Raises QuotaExceeded if nothing is left."""
        if self.limit is not None and self.used >= self.limit:
            raise self._exceeded("")

    def _exceeded(self, needed: str) -> QuotaExceeded:
        detail = (
            f"the project's quota {self.name} is {_number(self.limit or 0)}, with "
            f"{_number(self.used)} used{needed}; {self.frees}"
        )
        fault = {"quota": self.name, "limit": self.limit, "used": self.used, "detail": detail}
        headers = {"Retry-After": str(self.retry_seconds)}
        return QuotaExceeded(detail, errors=[fault], headers=headers)


def _number(value: float) -> str:
    return f"{value:,.2f}".rstrip("0").rstrip(".")


def queued_jobs(session: Session, project: str, limits: Limits) -> Quota:
    """The jobs that wait for a worker. A comparison counts by its runs."""
    used = _jobs(session, project, Status.QUEUED)
    frees = "room frees as jobs start or are cancelled"
    return Quota("queued_jobs", used, limits.queued_jobs, frees, QUEUE_SECONDS)


def running_jobs(session: Session, project: str, limits: Limits) -> Quota:
    """The jobs that workers run."""
    used = _jobs(session, project, Status.RUNNING)
    frees = "room frees as jobs end; the others wait in the queue"
    return Quota("running_jobs", used, limits.running_jobs, frees, QUEUE_SECONDS)


def _jobs(session: Session, project: str, status: Status) -> int:
    query = select(func.count()).where(
        has_status(Job, status), Job.kind.in_(WORKER_KINDS), Job.project == project
    )
    return session.scalar(query) or 0


def device_hours(session: Session, project: str, limits: Limits) -> Quota:
    """The hours of devices that attempts have used which began in this calendar month (UTC)."""
    now = datetime.now(UTC)
    start = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    following = start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
    used = round(device_seconds(session, project, start) / 3600, 4)
    frees = f"it frees with the next month, at {following:%Y-%m-%d} 00:00 UTC"
    wait = max(1, math.ceil((following - now).total_seconds()))
    limit = limits.device_hours_per_month
    return Quota("device_hours_per_month", used, limit, frees, wait)


def storage(session: Session, project: str, limits: Limits) -> Quota:
    """The bytes of datasets, checkpoints, resume states and logs."""
    frees = "room frees as datasets, checkpoints and jobs are deleted"
    used = stored_bytes(session, project)
    return Quota("stored_bytes", used, limits.stored_bytes, frees, STORAGE_SECONDS)


def projects_at_limit(default: int | None) -> Select[str]:
    """The projects of which as many jobs run as may; ``default`` is the limit of the others."""
    running = aliased(Job)
    limit = func.coalesce(Project.limits["running_jobs"].as_integer(), default)
    return (
        select(Project.id)
        .join(running, Project.id == running.project)
        .where(has_status(running, Status.RUNNING), running.kind.in_(WORKER_KINDS))
        .group_by(Project.id)
        .having(func.count() >= limit)
    )


QUOTAS = (queued_jobs, running_jobs, device_hours, storage)
