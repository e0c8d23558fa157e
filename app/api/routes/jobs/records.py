"""What a job recorded: its events, its measurements and its TensorBoard log."""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import select

from app.api.deps import JobDep, ServiceDep
from app.api.examples.answers import EVENTS, METRICS, answers, problems
from app.api.http.ranges import Download, answer_download
from app.api.pages import Cursor, Limit, Page, decode_position, encode_cursor, first_page
from app.api.views import EventView, MetricView
from app.artifacts.event_files import event_files
from app.artifacts.tar import Member, Tar, in_memory
from app.errors import NotFound
from app.tables import JobEvent, Metric

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
TAR = {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}}
NameFilter = Annotated[
    str | None, Query(max_length=300, description="Only the measurements with this name.")
]


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
    responses={
        **problems(404, 409, 412, 416),
        200: {"content": TAR, "description": "The archive."},
        206: {"content": TAR, "description": "The range of bytes that `Range` asked for."},
        304: {"description": "The archive's ETag is among those in `If-None-Match`."},
    },
)
def get_tensorboard(job: JobDep, service: ServiceDep, request: Request) -> Response:
    """Answers a tar archive of event files: unpack it and run `tensorboard --logdir` on the folder.

    The files have the numbers that `metrics` lists. While the job runs, they are as of its latest
    checkpoint, and the archive's ETag changes with them. `Range` is honoured, as for a checkpoint.
    """
    members = [
        Member(f"{job.id}/{name}", len(content), in_memory(content))
        for name, content in event_files(service.storage, job)
    ]
    if not members:
        raise NotFound(
            f"{job.id} has no TensorBoard log; a fine-tune has one from its first checkpoint"
        )
    tar = Tar(members, 0)  # the same numbers are the same bytes, whenever they are asked for
    digest = hashlib.sha256()
    for chunk in tar.chunks(0, tar.size):
        digest.update(chunk)
    download = Download(
        filename=f"{job.id}-tensorboard.tar",
        media_type="application/x-tar",
        etag=f'"{digest.hexdigest()}"',
        size=tar.size,
        chunks=tar.chunks,
        digest=digest.digest(),
        immutable=False,
    )
    return answer_download(request, download)
