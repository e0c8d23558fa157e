"""Jobs of every kind: list, read and cancel them, and read what they recorded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import ColumnElement, exists, func, select

from app.api.deps import JobDep, ServiceDep
from app.api.example_answers import EVENTS, JOB, JOBS, METRICS, answers, problems
from app.api.pages import (
    Cursor,
    Limit,
    Page,
    decode_moment,
    decode_position,
    encode_cursor,
    encode_moment,
    first_page,
)
from app.api.request_checks import MetadataFilter
from app.api.views import EventView, JobView, MetricView, job_views
from app.artifacts.event_files import event_files
from app.artifacts.tar import Member, tar_size, tar_stream
from app.db import Database
from app.errors import NotFound
from app.jobs import state_machine as machine
from app.service import Service
from app.tables import Job, JobEvent, JobKind, Metric, Status

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
TAR = {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}}
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
NameFilter = Annotated[
    str | None, Query(max_length=300, description="Only the measurements with this name.")
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


@router.get("/{job_id}", summary="Get a job", responses=answers(JOB, 404))
def get_job(job: JobDep, service: ServiceDep) -> JobView:
    """Answers the current state of a job. Poll until `terminal` is true."""
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


@router.get("/{job_id}/events", summary="List a job's events", responses=answers(EVENTS, 404))
def get_events(
    job: JobDep, service: ServiceDep, limit: Limit = 50, cursor: Cursor = None
) -> Page[EventView]:
    """Lists what happened to a job, oldest first: changes of status, checkpoints, requests."""
    query = select(JobEvent).where(JobEvent.job_id == job.id).order_by(JobEvent.seq)
    if cursor is not None:
        query = query.where(JobEvent.seq > decode_position(cursor))
    with service.database.read() as session:
        rows, more = first_page(session.scalars(query.limit(limit + 1)).all(), limit)
    events = [EventView.model_validate(row, from_attributes=True) for row in rows]
    following = encode_cursor(str(rows[-1].seq)) if more else None
    return Page(data=events, next_cursor=following, has_more=more)


@router.get(
    "/{job_id}/metrics", summary="List a job's measurements", responses=answers(METRICS, 404)
)
def get_metrics(
    job: JobDep,
    service: ServiceDep,
    name: NameFilter = None,
    limit: Limit = 200,
    cursor: Cursor = None,
) -> Page[MetricView]:
    """Lists the loss, the learning rate and the validation metrics in order of their steps."""
    query = select(Metric).where(Metric.job_id == job.id).order_by(Metric.step, Metric.name)
    if name is not None:
        query = query.where(Metric.name == name)
    start = decode_position(cursor) if cursor is not None else 0
    with service.database.read() as session:
        rows, more = first_page(session.scalars(query.offset(start).limit(limit + 1)).all(), limit)
    data = [MetricView.model_validate(row, from_attributes=True) for row in rows]
    following = encode_cursor(str(start + limit)) if more else None
    return Page(data=data, next_cursor=following, has_more=more)


@router.get(
    "/{job_id}/tensorboard",
    summary="Download a fine-tune's TensorBoard log",
    response_class=Response,
    responses={**problems(404, 409), 200: {"content": TAR, "description": "The archive."}},
)
def get_tensorboard(job: JobDep, service: ServiceDep) -> Response:
    """Answers a tar archive of event files: unpack it and run `tensorboard --logdir` on the folder.

    The files have the numbers that `metrics` lists. While the job runs, they are as of its latest
    checkpoint.
    """
    members = [
        Member(f"{job.id}/{name}", len(content), partial(_once, content))
        for name, content in event_files(service.storage, job)
    ]
    if not members:
        raise NotFound(
            f"{job.id} has no TensorBoard log; a fine-tune has one from its first checkpoint"
        )
    headers = {
        "Content-Length": str(tar_size(members)),
        "Content-Disposition": f'attachment; filename="{job.id}-tensorboard.tar"',
    }
    stream = tar_stream(members, job.updated_at.timestamp())
    return StreamingResponse(stream, headers=headers, media_type="application/x-tar")


def _once(content: bytes) -> Iterator[bytes]:
    yield content
