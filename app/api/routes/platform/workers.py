"""What runs the jobs: the workers, and the queue in front of them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy import Select, and_, func, select
from sqlalchemy.orm import Session

from app.api.deps import ServiceDep
from app.api.examples.answers import QUEUE, WORKERS, answers
from app.api.pages import Page, PagingDep
from app.db import db_now
from app.db.tables import WORKER_KINDS, Attempt, Job, JobKind, Status, Worker
from app.submissions.fleet import is_alive
from surgery.schemas.jobs.estimate import Probe

Json = dict[str, Any]
router = APIRouter(prefix="/v1", tags=["platform"])
RATE_SECONDS = 3600  # of the past, over which the rate of starts is counted
FEWEST_STARTS = 10  # from which a rate says something


class DeviceView(BaseModel):
    """A device of a worker."""

    name: str = Field(description="The GPU's name, or `cpu`.")
    memory_bytes: int = Field(description="Its memory; of a CPU the machine's.")


class WorkerView(BaseModel):
    """A worker: a process that runs one job at a time."""

    id: str = Field(description="The machine and the process.")
    kinds: list[str] = Field(description="The kinds of jobs that it runs.")
    devices: list[DeviceView] = Field(description="What its jobs run on.")
    precisions: list[str] = Field(
        description="The number formats in which all of its devices can multiply."
    )
    exports: list[str] = Field(
        description="Where it can export models to: `folder`, `mlflow`, `hub`."
    )
    max_processes: int = Field(description="The most processes that one job can have on it.")
    version: str = Field(description="The version of Layer Surgeon that it runs.")
    alive: bool = Field(
        description="Whether it was heard of within the time of a lease and has not been stopped."
    )
    busy: bool = Field(description="Whether it runs a job.")
    job: str | None = Field(
        description="The job that it runs, if that is one of the caller's project."
    )
    started_at: datetime = Field(description="When it started.")
    heartbeat_at: datetime = Field(description="When it was last heard of.")
    stopped_at: datetime | None = Field(
        description="When it was stopped; null while it runs, and if it died."
    )
    probe: Probe | None = Field(
        None,
        description="How fast its device trains, as it measured when it started, or as another "
        "worker of the same machine and device did within the last day; null until then.",
    )
    probed_at: datetime | None = Field(None, description="When that was measured.")


class QueueCounts(BaseModel):
    """Jobs that have not ended."""

    queued: int = Field(0, description="Jobs that wait, also those that wait for a ranking.")
    running: int = Field(0, description="Jobs that run.")
    paused: int = Field(0, description="Jobs that were set aside.")
    oldest_queued_at: datetime | None = Field(
        None, description="When the queued job that waits longest entered the queue."
    )


class KindQueue(BaseModel):
    """The queue of one kind of job."""

    project: QueueCounts = Field(description="Jobs of the caller's project.")
    all: QueueCounts = Field(description="Jobs of all projects.")
    workers_alive: int = Field(description="Workers that run this kind and are alive.")
    workers_idle: int = Field(description="Those of them that run no job now.")
    expected_wait_seconds: float | None = Field(
        description="How long a job submitted now would wait if jobs of its kind were started at "
        "the rate of the last hour; 0 if an idle worker is left for it. Null if no worker is alive "
        "or fewer than 10 were started."
    )


class QueueReport(BaseModel):
    """What waits and what runs, by kind of job. Comparisons run as jobs of the other kinds."""

    kinds: dict[JobKind, KindQueue] = Field(description="The queue of each kind that workers run.")


@router.get("/workers", summary="List the workers", responses=answers(WORKERS))
def get_workers(service: ServiceDep, paging: PagingDep) -> Page[WorkerView]:
    """Lists the workers of the last 7 days, the one that started last first.

    Each says what it can run. One that died stays in the list, with `alive` false.
    """
    own = and_(Job.id == Worker.job, Job.project == service.project)
    query: Any = select(Worker, is_alive(service.settings.lease), Job.id)
    query = query.outerjoin(Job, own)
    with service.database.read() as session:
        found = session.execute(paging.limited(query, [Worker.started_at, Worker.id])).all()
    rows, following = paging.split(found, lambda row: [row[0].started_at, row[0].id])
    data = [_worker_view(row, alive=alive, job=job) for row, alive, job in rows]
    return Page(data=data, next_cursor=following, has_more=following is not None)


def _worker_view(row: Worker, *, alive: bool, job: str | None) -> WorkerView:
    known = {name: getattr(row, name) for name in WorkerView.model_fields if hasattr(row, name)}
    return WorkerView(**known | {"alive": alive, "busy": row.job is not None, "job": job})


@router.get("/queue", summary="Show the queue", responses=answers(QUEUE))
def get_queue(service: ServiceDep) -> QueueReport:
    """Counts the jobs that wait and that run, and the workers that run them, by kind."""
    with service.database.read() as session:
        own, all_jobs = (_counts(session, project) for project in (service.project, None))
        workers = session.execute(
            select(Worker.kinds, Worker.job).where(is_alive(service.settings.lease))
        ).all()
        starts, ready = _starts(session), _ready(session)
    kinds = {}
    for kind in WORKER_KINDS:
        serving = [job for kinds_of, job in workers if kind in kinds_of]
        idle = sum(job is None for job in serving)
        kinds[kind] = KindQueue(
            project=own.get(kind, QueueCounts()),
            all=all_jobs.get(kind, QueueCounts()),
            workers_alive=len(serving),
            workers_idle=idle,
            expected_wait_seconds=expected_wait(
                len(serving), idle, ready.get(kind, 0), starts.get(kind, 0)
            ),
        )
    return QueueReport(kinds=kinds)


def expected_wait(alive: int, idle: int, waiting: int, starts: int) -> float | None:
    """Seconds that a job submitted now is expected to wait; None if nothing can be said.

    ``starts`` is how many jobs were started during the last hour.
    """
    if not alive:
        return None
    ahead = waiting + 1 - idle  # of the starts after which it is running
    if ahead <= 0:
        return 0.0
    if starts < FEWEST_STARTS:
        return None
    return round(ahead * RATE_SECONDS / starts, 1)


def _counts(session: Session, project: str | None) -> dict[str, QueueCounts]:
    """The jobs of a project, or of all projects, by kind."""
    first = func.min(Job.queued_at).filter(Job.status == Status.QUEUED)
    states = {
        status: func.count().filter(Job.status == status)
        for status in (Status.QUEUED, Status.RUNNING, Status.PAUSED)
    }
    query = select(Job.kind, first, *states.values()).where(Job.status.in_(states))
    if project is not None:
        query = query.where(Job.project == project)
    counts = {}
    for kind, oldest, *numbers in session.execute(query.group_by(Job.kind)):
        by_state = dict(zip((status.value for status in states), numbers, strict=True))
        counts[kind] = QueueCounts(**by_state, oldest_queued_at=oldest)
    return counts


def _ready(session: Session) -> dict[str, int]:
    """How many queued jobs wait for nothing but a worker, by kind."""
    ready = and_(Job.status == Status.QUEUED, Job.waits_for.is_(None))
    query = select(Job.kind, func.count()).where(ready).group_by(Job.kind)
    return _by_kind(session, query)


def _starts(session: Session) -> dict[str, int]:
    """How many attempts were begun in the last hour, by kind."""
    query = select(Job.kind, func.count()).join(Attempt, Attempt.job_id == Job.id)
    recent = Attempt.started_at > db_now(-RATE_SECONDS)
    return _by_kind(session, query.where(recent).group_by(Job.kind))


def _by_kind(session: Session, query: Select[str, int]) -> dict[str, int]:
    return {row[0]: row[1] for row in session.execute(query)}
