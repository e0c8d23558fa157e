"""What a project has used: jobs, seconds of devices and stored bytes, by day or month.

Jobs and their attempts say it themselves, also attempts that run, as of their latest heartbeat. Of
jobs that are deleted the sums are kept, by day.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Float, Select, cast, func, literal, select, true
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import InstrumentedAttribute, Session
from sqlalchemy.sql.selectable import TableValuedAlias

from app.db import MICROSECOND
from app.db.tables import Attempt, Dataset, Job, PastUsage

DATASET = "dataset"  # beside the kinds of jobs


class Period(StrEnum):
    """How usage is summed up. Days and months are those of UTC."""

    DAY = "day"
    MONTH = "month"


LENGTHS = {Period.DAY: len("2026-11-23"), Period.MONTH: len("2026-11")}


@dataclass
class Used:
    """What was used in one period by one kind of job, or stored by uploads."""

    jobs: int = 0
    worker_seconds: dict[str, float] = field(default_factory=dict)
    stored_bytes: int = 0


Moment = InstrumentedAttribute[datetime]
Rows = Iterator[tuple[Any, ...]]
Report = dict[tuple[str, str], Used]  # by period and kind


def usage_of(session: Session, project: str, start: datetime, end: datetime, by: Period) -> Report:
    """What a project has used from ``start`` to before ``end``, by period and kind.

    A job, its bytes and a dataset count where they were created, an attempt where it began.
    """
    report: Report = {}
    created = _period(session, Job.created_at, by)
    counted = select(created, Job.kind, func.count(), func.sum(Job.stored_bytes))
    for period, kind, jobs, size in _within(session, counted, Job.created_at, start, end, project):
        report[period, kind] = Used(jobs=jobs, stored_bytes=int(size or 0))
    device = _devices(session)
    began, seconds = _period(session, Attempt.started_at, by), _seconds(device)
    spent = _of_attempts(select(began, Job.kind, device.c.key, seconds), device)
    rows = _within(session, spent, Attempt.started_at, start, end, project, device.c.key)
    for period, kind, name, value in rows:
        report.setdefault((period, kind), Used()).worker_seconds[name] = round(value, 3)
    for period, kind, name, jobs, value in _past(session, project, start, end, by):
        used = report.setdefault((period, kind), Used())
        if name:
            used.worker_seconds[name] = round(used.worker_seconds.get(name, 0.0) + value, 3)
        used.jobs += jobs
    for period, size in _uploads(session, project, start, end, by):
        report[period, DATASET] = Used(stored_bytes=int(size or 0))
    return report


def device_seconds(session: Session, project: str, since: datetime) -> float:
    """The seconds of all devices in a project's attempts that began since a day's beginning."""
    device = _devices(session)
    spent = _of_attempts(select(_seconds(device)), device)
    since_then = spent.where(Job.project == project, Attempt.started_at >= since)
    past = select(func.sum(PastUsage.seconds)).where(
        PastUsage.project == project, PastUsage.day >= f"{since:%Y-%m-%d}"
    )
    return (session.scalar(since_then) or 0.0) + (session.scalar(past) or 0.0)


def stored_bytes(session: Session, project: str) -> int:
    """The bytes of a project's datasets, checkpoints, resume states and logs."""
    of_jobs = select(func.sum(Job.stored_bytes)).where(Job.project == project)
    of_datasets = select(func.sum(Dataset.bytes)).where(Dataset.project == project)
    return int(session.scalar(of_jobs) or 0) + int(session.scalar(of_datasets) or 0)


def keep_usage(session: Session, job_ids: Sequence[str]) -> None:
    """Keep what jobs have used, in the transaction that deletes them."""
    insert = sqlite_insert if session.get_bind().dialect.name == "sqlite" else postgres_insert
    device, doomed = _devices(session), Job.id.in_(job_ids)
    created = select(Job.project, _period(session, Job.created_at, Period.DAY), Job.kind)
    began = select(
        Job.project, _period(session, Attempt.started_at, Period.DAY), Job.kind, device.c.key
    )
    keys = [*created.selected_columns], [*began.selected_columns]
    jobs = created.add_columns(literal(""), func.count(), literal(0.0)).group_by(*keys[0])
    spent = _of_attempts(began.add_columns(literal(0), _seconds(device)), device)
    rows = [
        *session.execute(jobs.where(doomed)),
        *session.execute(spent.where(doomed).group_by(*keys[1])),
    ]
    names = ("project", "day", "kind", "device", "jobs", "seconds")
    # In one order, so that no two deletions wait for each other.
    for values in sorted(map(tuple, rows)):
        statement = insert(PastUsage).values(dict(zip(names, values, strict=True)))
        new = statement.excluded
        more = {"jobs": PastUsage.jobs + new.jobs, "seconds": PastUsage.seconds + new.seconds}
        added = statement.on_conflict_do_update(index_elements=names[:4], set_=more)
        session.execute(added)


def _past(session: Session, project: str, start: datetime, end: datetime, by: Period) -> Rows:
    """What deleted jobs had used: period, kind, device, jobs and seconds."""
    period = func.substr(PastUsage.day, 1, LENGTHS[by])
    keys = (period, PastUsage.kind, PastUsage.device)
    query = select(*keys, func.sum(PastUsage.jobs), func.sum(PastUsage.seconds)).where(
        PastUsage.project == project,
        PastUsage.day >= f"{start:%Y-%m-%d}",
        PastUsage.day < f"{end:%Y-%m-%d}",
    )
    yield from map(tuple, session.execute(query.group_by(*keys)))


def _uploads(session: Session, project: str, start: datetime, end: datetime, by: Period) -> Rows:
    period = _period(session, Dataset.created_at, by)
    query = select(period, func.sum(Dataset.bytes)).where(
        Dataset.project == project, Dataset.created_at >= start, Dataset.created_at < end
    )
    yield from map(tuple, session.execute(query.group_by(period)))


def _within(
    session: Session,
    query: Select[*tuple[Any, ...]],
    moment: Moment,
    start: datetime,
    end: datetime,
    project: str,
    *groups: ColumnElement[Any],
) -> Rows:
    """The rows of a query over jobs, grouped by its first column, the kind and ``groups``."""
    chosen = query.where(Job.project == project, moment >= start, moment < end)
    found = session.execute(chosen.group_by(query.selected_columns[0], Job.kind, *groups))
    yield from map(tuple, found)


def _period(session: Session, moment: Moment, by: Period) -> ColumnElement[str]:
    """The day or month of a moment, such as 2026-11-23 or 2026-11."""
    if session.get_bind().dialect.name == "sqlite":
        seconds = cast(moment, Float) * MICROSECOND.total_seconds()
        day: ColumnElement[str] = func.date(seconds, "unixepoch")
    else:
        day = func.to_char(func.timezone("UTC", moment), "YYYY-MM-DD")
    return func.substr(day, 1, LENGTHS[by]).label("period")


def _devices(session: Session) -> TableValuedAlias:
    """The seconds of each device in an attempt's usage, as rows of ``key`` and ``value``."""
    if session.get_bind().dialect.name == "sqlite":
        each = func.json_each(Attempt.usage, "$.worker_seconds")
    else:
        each = func.jsonb_each_text(Attempt.usage["worker_seconds"])
    return each.table_valued("key", "value", name="device")


def _seconds(device: TableValuedAlias) -> ColumnElement[float]:
    return func.sum(cast(device.c.value, Float))


def _of_attempts(
    query: Select[*tuple[Any, ...]], device: TableValuedAlias
) -> Select[*tuple[Any, ...]]:
    joined = query.select_from(Attempt).join(Job, Job.id == Attempt.job_id)
    return joined.join(device, true())
