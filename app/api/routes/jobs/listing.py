"""Jobs of every kind: list, read and cancel them, and read what they recorded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from sqlalchemy import ColumnElement, exists, func, select

from app.api.deps import JobDep, ServiceDep
from app.api.examples.answers import JOB, JOBS, answers
from app.api.following.waiting import WAITS, WaitingRoute
from app.api.http.request_checks import MetadataFilter
from app.api.pages import (
    Cursor,
    Limit,
    Page,
    decode_moment,
    encode_moment,
    first_page,
)
from app.api.views import JobView, job_views
from app.db import Database
from app.jobs import state_machine as machine
from app.service import Service
from app.tables import Job, JobKind, Status

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=WaitingRoute)
StatusFilter = Annotated[Status | None, Query(description="Only jobs with this status.")]
ModelFilter = Annotated[
    str | None, Query(max_length=300, description="Only jobs on the model with this id.")
]
DatasetFilter = Annotated[
    str | None, Query(max_length=300, description="Only jobs on the dataset with this id.")
]
KindFilter = Annotated[JobKind | None, Query(description="Only jobs of this kind.")]
ParentFilter = Annotated[
    str | None, Query(max_length=64, description="Only the children of the job with this id.")
]


@dataclass(frozen=True)
class JobFilter:
    """Which jobs a list has, and where its page begins."""

    columns: dict[Any, Any]  # a column and the value that it must have; None for any value
    metadata: dict[str, str]
    limit: int
    cursor: str | None


def job_filter(
    metadata: MetadataFilter,
    status: StatusFilter = None,
    model: ModelFilter = None,
    dataset: DatasetFilter = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> JobFilter:
    """The query parameters that every list of jobs takes."""
    columns = {Job.status: status, Job.model: model, Job.dataset: dataset}
    return JobFilter(columns, metadata, limit, cursor)


JobFilterDep = Annotated[JobFilter, Depends(job_filter)]


def list_jobs(
    service: Service, filters: JobFilter, kind: JobKind | None, parent: str | None = None
) -> Page[JobView]:
    """A page of the jobs that pass the filters, newest first."""
    # Not by id alone: ids begin with the kind of job.
    query = select(Job).where(Job.project == service.project)
    query = query.order_by(Job.created_at.desc(), Job.id.desc()).limit(filters.limit + 1)
    for column, value in {**filters.columns, Job.kind: kind, Job.parent: parent}.items():
        if value is not None:
            query = query.where(column == value)
    for name, value in filters.metadata.items():
        query = query.where(_labelled(service.database, name, value))
    if filters.cursor is not None:
        moment, last = decode_moment(filters.cursor)
        older = Job.created_at < moment
        query = query.where(older | ((Job.created_at == moment) & (Job.id < last)))
    with service.database.read() as session:
        rows, more = first_page(session.scalars(query).all(), filters.limit)
        views = job_views(session, rows)
    following = encode_moment(rows[-1].created_at, rows[-1].id) if more else None
    return Page(data=views, next_cursor=following, has_more=more)


def _labelled(database: Database, name: str, value: str) -> ColumnElement[bool]:
    """Whether a job has a label of this name and value.

    A JSON path would be shorter, but would interpret quotes and dots in the name.
    """
    each = func.json_each if database.engine.dialect.name == "sqlite" else func.jsonb_each_text
    label = each(Job.labels).table_valued("key", "value")
    return exists().where(label.c.key == name, label.c.value == value)


@router.get("", summary="List jobs", responses=answers(JOBS))
def get_jobs(
    service: ServiceDep, filters: JobFilterDep, kind: KindFilter = None, parent: ParentFilter = None
) -> Page[JobView]:
    """Lists jobs of every kind, newest first.

    Parameters `metadata[key]=value` leave only the jobs that were submitted with these labels.
    """
    return list_jobs(service, filters, kind, parent)


@router.get("/{job_id}", summary="Get a job", responses=answers(JOB, 404), dependencies=[WAITS])
def get_job(job: JobDep, service: ServiceDep) -> JobView:
    """Answers the current state of a job. Poll until `terminal` is true.

    With `Prefer: wait=n` the answer comes as soon as the job has changed since the request came or,
    with `If-None-Match`, since the answer with that ETag.
    """
    with service.database.read() as session:
        return job_views(session, [job])[0]


@router.post("/{job_id}/cancel", summary="Cancel a job", responses=answers(JOB, 404))
def cancel_job(job: JobDep, service: ServiceDep) -> JobView:
    """Ends a queued job at once and a running one after its current step.

    Cancelling a comparison cancels all its children, and it ends with the last of them. A job that
    has ended already stays as it is.
    """
    row = machine.cancel(service.database, job.id)
    assert row is not None
    with service.database.read() as session:
        return job_views(session, [row])[0]
