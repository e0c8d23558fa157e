"""Jobs of every kind: list and read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from sqlalchemy import ColumnElement, exists, func, select

from app.api.deps import JobDep, ServiceDep
from app.api.examples.answers import JOB, JOBS, answers
from app.api.http.request_checks import MetadataFilter
from app.api.pages import Page, Paging, PagingDep
from app.api.views import JobView, job_views
from app.db import Database
from app.service import Service
from app.tables import Job, JobKind, Status

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
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
    paging: Paging


async def job_filter(
    metadata: MetadataFilter,
    paging: PagingDep,
    status: StatusFilter = None,
    model: ModelFilter = None,
    dataset: DatasetFilter = None,
) -> JobFilter:
    """The query parameters that every list of jobs takes."""
    columns = {Job.status: status, Job.model: model, Job.dataset: dataset}
    return JobFilter(columns, metadata, paging)


JobFilterDep = Annotated[JobFilter, Depends(job_filter)]


def list_jobs(
    service: Service, filters: JobFilter, kind: JobKind | None, parent: str | None = None
) -> Page[JobView]:
    """A page of the jobs that pass the filters, newest first."""
    query = select(Job).where(Job.project == service.project)
    for column, value in {**filters.columns, Job.kind: kind, Job.parent: parent}.items():
        if value is not None:
            query = query.where(column == value)
    for name, value in filters.metadata.items():
        query = query.where(_labelled(service.database, name, value))
    # Not by id alone: ids begin with the kind of job.
    query = filters.paging.limited(query, (Job.created_at, Job.id))
    with service.database.read() as session:
        found = session.scalars(query).all()
        rows, following = filters.paging.split(found, lambda job: (job.created_at, job.id))
        views = job_views(session, rows)
    return Page(data=views, next_cursor=following, has_more=following is not None)


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


@router.get("/{job_id}", summary="Get a job", responses=answers(JOB, 404))
def get_job(job: JobDep, service: ServiceDep) -> JobView:
    """Answers the current state of a job. Poll until `terminal` is true."""
    with service.database.read() as session:
        return job_views(session, [job])[0]
