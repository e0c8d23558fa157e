"""What a job recorded: its events, its measurements and its TensorBoard log."""

from __future__ import annotations

import hashlib
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Header, Query, Request, Response
from sqlalchemy import select

from app.api.deps import JobDep, ServiceDep
from app.api.examples.answers import EVENTS, METRICS, answers, problems
from app.api.following.event_stream import MEDIA_TYPE, event_stream, wants_event_stream
from app.api.http.ranges import Download, answer_download
from app.api.pages import PagingDep, TailPage
from app.artifacts.event_files import event_files
from app.artifacts.tar import Member, Tar, in_memory
from app.db.tables import JobEvent, Metric
from app.errors import NotFound
from surgery.schemas.answers.records import EventView, MetricView

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
STREAM_EXAMPLE = """id: 1
event: status
data: {"seq":1,"type":"status","data":{"status":"queued"},"at":"2026-11-23T10:00:00Z"}

event: progress
data: {"status": "running", "phase": "score", "progress": {"percent": 42.0, "step": 6}}

event: done
data: {"id": "rk_01kasz3v7d9q6m8x2c4n5b7t1w", "status": "succeeded"}
"""
EVENT_ANSWERS = answers(EVENTS, 404)
EVENT_ANSWERS[200]["content"][MEDIA_TYPE] = {
    "schema": {"type": "string"},
    "example": STREAM_EXAMPLE,
}
TAR = {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}}
LARGEST = 2**63 - 1  # that a column can hold
After = Annotated[
    int,
    Query(ge=0, le=LARGEST, description="Only the events after the one with this `seq`."),
]
LastEventId = Annotated[
    int | None,
    Header(
        ge=0,
        le=LARGEST,
        description="Of an event stream: the `id` of the last event that the client received. The "
        "stream goes on after it, whatever `after` says.",
    ),
]
AfterStep = Annotated[
    int | None,
    Query(ge=0, le=2**31 - 1, description="Only the measurements at later steps than this one."),
]
NameFilter = Annotated[
    str | None, Query(max_length=300, description="Only the measurements with this name.")
]


@router.get(
    "/{job_id}/events",
    summary="List or stream a job's events",
    response_model=TailPage[EventView],
    responses=EVENT_ANSWERS,
)
def get_events(
    request: Request,
    response: Response,
    job: JobDep,
    service: ServiceDep,
    paging: PagingDep,
    after: After = 0,
    last_event_id: LastEventId = None,
) -> TailPage[EventView] | Response:
    """Lists what happened to a job, oldest first: changes of status, checkpoints, requests.

    With `Accept: text/event-stream` the events are sent as Server-Sent Events instead, each as it
    happens: `id` is its `seq`, `event` its `type`, and `data` what a page has. `event: progress`
    tells of a running job's progress, at most once a second. After the job has ended comes
    `event: done` with its status, and the stream closes. A stream also closes after 15 minutes and
    when the service stops; a client that connects again with `Last-Event-ID` misses nothing.
    """
    if wants_event_stream(request.headers.get("accept", "")):
        position = paging.start(after) if last_event_id is None else last_event_id
        return event_stream(request, job.id, position)

    def link(last: int, _: str) -> str:
        return _going_on(request, after=last, limit=paging.limit)

    response.headers["Vary"] = "Accept"
    query = select(JobEvent).where(JobEvent.job_id == job.id)
    return paging.tail(service.database, query, JobEvent.seq, _event, link, after)


@router.get(
    "/{job_id}/metrics", summary="List a job's measurements", responses=answers(METRICS, 404)
)
def get_metrics(
    request: Request,
    job: JobDep,
    service: ServiceDep,
    paging: PagingDep,
    name: NameFilter = None,
    after_step: AfterStep = None,
) -> TailPage[MetricView]:
    """Lists the loss, the learning rate and the validation metrics in the order of writing.

    That is the order of their steps, unless an interrupted run went on from an earlier step: then
    the steps that it repeats are written again, over the old values, and come again at the end.
    Whoever asks for `next` again and again gets each measurement once each time it is written.
    """
    query = select(Metric).where(Metric.job_id == job.id)
    if name is not None:
        query = query.where(Metric.name == name)
    if after_step is not None:
        query = query.where(Metric.step > after_step)

    def link(_: int, cursor: str) -> str:
        return _going_on(request, cursor=cursor, limit=paging.limit)

    return paging.tail(service.database, query, Metric.seq, _metric, link)


def _event(row: JobEvent) -> EventView:
    return EventView.model_validate(row, from_attributes=True)


def _metric(row: Metric) -> MetricView:
    return MetricView.model_validate(row, from_attributes=True)


def _going_on(request: Request, **position: str | int) -> str:
    """The path of a request with the same filters and another position."""
    given = request.query_params.multi_items()
    filters = [(name, value) for name, value in given if name not in {*position, "cursor"}]
    return f"{request.scope['path']}?{urlencode([*filters, *position.items()])}"


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
