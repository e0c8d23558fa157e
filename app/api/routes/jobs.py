"""Every job, whatever its kind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import ColumnElement, exists, func, select

from app.api.deps import JobDep, ServiceDep
from app.api.example_answers import EVENTS, JOB, JOBS, METRICS, answers
from app.api.pages import (
    Cursor,
    Limit,
    Page,
    cut,
    decode_moment,
    decode_position,
    encode_cursor,
    encode_moment,
)
from app.api.request_checks import MetadataFilter
from app.api.views import EventView, JobView, MetricView, job_views
from app.artifacts.event_files import event_files
from app.artifacts.tar import Member, tar_size, tar_stream
from app.db import Database
from app.errors import NotFound
from app.jobs import state_machine as machine
from app.service import Service
from app.tables import Job, JobEvent, Kind, Metric, Status

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
TAR = {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}}
StatusFilter = Annotated[Status | None, Query(description="Only jobs that stand here.")]
Filter = Annotated[str | None, Query(max_length=300)]
ParentFilter = Annotated[
    str | None, Query(max_length=64, description="Only the children of this comparison.")
]


@dataclass(frozen=True)
class Listing:
    """Which jobs of a list, and from where on."""

    wanted: dict[Any, Any]  # column → value
    metadata: dict[str, str]
    limit: int
    cursor: str | None


def listing(
    metadata: MetadataFilter, status: StatusFilter = None, model: Filter = None,
    dataset: Filter = None, limit: Limit = 50, cursor: Cursor = None,
) -> Listing:  # fmt: skip
    """What every list of jobs can be asked for."""
    wanted = {Job.status: status, Job.model: model, Job.dataset: dataset}
    return Listing(wanted, metadata, limit, cursor)


ListingDep = Annotated[Listing, Depends(listing)]


def list_jobs(
    service: Service, asked: Listing, kind: Kind | None, parent: str | None = None
) -> Page[JobView]:
    """Newest first; ``metadata[key]=value`` filters by the caller's own labels."""
    # Ids of different kinds do not sort by time together: the moment does.
    query = select(Job).order_by(Job.created_at.desc(), Job.id.desc()).limit(asked.limit + 1)
    for column, value in {**asked.wanted, Job.kind: kind, Job.parent: parent}.items():
        if value is not None:
            query = query.where(column == value)
    for name, value in asked.metadata.items():
        query = query.where(_labelled(service.database, name, value))
    if asked.cursor is not None:
        moment, last = decode_moment(asked.cursor)
        older = Job.created_at < moment
        query = query.where(older | ((Job.created_at == moment) & (Job.id < last)))
    with service.database.read() as session:
        rows, more = cut(session.scalars(query).all(), asked.limit)
        views = job_views(session, rows)
    following = encode_moment(rows[-1].created_at, rows[-1].id) if more else None
    return Page(data=views, next_cursor=following, has_more=more)


def _labelled(database: Database, name: str, value: str) -> ColumnElement[bool]:
    """By name and value as they are: a JSON path would read quotes and dots of the name."""
    each = func.json_each if database.engine.dialect.name == "sqlite" else func.jsonb_each_text
    label = each(Job.labels).table_valued("key", "value")
    return exists().where(label.c.key == name, label.c.value == value)


@router.get("", summary="List jobs", responses=answers(JOBS))
def get_jobs(
    service: ServiceDep, asked: ListingDep, kind: Kind | None = None, parent: ParentFilter = None
) -> Page[JobView]:
    """All jobs, newest first. `metadata[key]=value` filters by your own labels."""
    return list_jobs(service, asked, kind, parent)


@router.get("/{job_id}", summary="Get a job", responses=answers(JOB, 404))
def get_job(job: JobDep, service: ServiceDep) -> JobView:
    """The job as it stands now. Poll until `terminal` is true."""
    with service.database.read() as session:
        return job_views(session, [job])[0]


@router.post("/{job_id}/cancel", summary="Cancel a job", responses=answers(JOB, 404))
def cancel_job(job: JobDep, service: ServiceDep) -> JobView:
    """A queued job ends at once, a running one within a step; a finished one stays as it is.

    A comparison's children are all cancelled, and it ends with the last of them.
    """
    row = machine.cancel(service.database, job.id)
    assert row is not None
    with service.database.read() as session:
        return job_views(session, [row])[0]


@router.get("/{job_id}/events", summary="What happened to a job", responses=answers(EVENTS, 404))
def get_events(
    job: JobDep, service: ServiceDep, limit: Limit = 50, cursor: Cursor = None
) -> Page[EventView]:
    """Every change of status, checkpoint and request, oldest first."""
    query = select(JobEvent).where(JobEvent.job_id == job.id).order_by(JobEvent.seq)
    if cursor is not None:
        query = query.where(JobEvent.seq > decode_position(cursor))
    with service.database.read() as session:
        rows, more = cut(session.scalars(query.limit(limit + 1)).all(), limit)
    events = [EventView.model_validate(row, from_attributes=True) for row in rows]
    following = encode_cursor(str(rows[-1].seq)) if more else None
    return Page(data=events, next_cursor=following, has_more=more)


@router.get("/{job_id}/metrics", summary="A job's measurements", responses=answers(METRICS, 404))
def get_metrics(
    job: JobDep, service: ServiceDep, name: Filter = None, limit: Limit = 200, cursor: Cursor = None
) -> Page[MetricView]:
    """Loss, learning rate and validation metrics by step."""
    query = select(Metric).where(Metric.job_id == job.id).order_by(Metric.step, Metric.name)
    if name is not None:
        query = query.where(Metric.name == name)
    start = decode_position(cursor) if cursor is not None else 0
    with service.database.read() as session:
        rows, more = cut(session.scalars(query.offset(start).limit(limit + 1)).all(), limit)
    data = [MetricView.model_validate(row, from_attributes=True) for row in rows]
    following = encode_cursor(str(start + limit)) if more else None
    return Page(data=data, next_cursor=following, has_more=more)


@router.get(
    "/{job_id}/tensorboard",
    summary="Download a fine-tune's TensorBoard log",
    response_class=Response,
    responses={**answers({}, 404, 409), 200: {"content": TAR, "description": "The archive."}},
)
def get_tensorboard(job: JobDep, service: ServiceDep) -> Response:
    """A tar archive of event files: unpack it and run `tensorboard --logdir` on the folder.

    They hold what `metrics` lists. While the job runs, as of its last checkpoint.
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
