"""How rows look in answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.tables import TERMINAL, Checkpoint, Dataset, Job, JobEvent, Kind, Status
from surgery.schemas.comparison import ComparisonResult
from surgery.schemas.dataset import DatasetReport
from surgery.schemas.finetune import FinetuneResult
from surgery.schemas.ranking import RankingResult
from surgery.schemas.resolved import shown

Json = dict[str, Any]


class Transition(BaseModel):
    """A change of status."""

    status: str
    at: datetime
    reason: str | None = None


class ProgressView(BaseModel):
    """How far the present phase is; what is not known is null."""

    percent: float | None = None
    step: int | None = None
    total_steps: int | None = None
    unit: str | None = None
    eta_seconds: float | None = None


class QueueView(BaseModel):
    """Where a queued job stands."""

    ahead: int


class ResultShapes:
    """Documents what a stored result looks like; it is answered as it was stored."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """A ranking's, a fine-tune's or a comparison's."""
        kinds = (RankingResult, FinetuneResult, ComparisonResult)
        shapes = [handler(kind.__pydantic_core_schema__) for kind in kinds]
        return {"anyOf": [*shapes, {"type": "null"}]}


class JobView(BaseModel):
    """A job of any kind: what `GET /v1/jobs/{id}` and `GET /v1/rankings/{id}` return alike."""

    id: str
    kind: str
    name: str | None
    metadata: dict[str, str]
    priority: int
    status: str
    phase: str | None
    terminal: bool
    progress: ProgressView | None
    queue: QueueView | None
    attempt: int
    max_attempts: int
    cancel_requested: bool
    error: Json | None
    spec: Json
    resolved: Json
    result: Annotated[Json | None, ResultShapes]
    cached: bool = Field(False, description="Whether this answer came from a stored result.")
    parent: str | None = Field(None, description="The job that made this one.")
    created_at: datetime
    queued_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime
    heartbeat_at: datetime | None
    transitions: list[Transition]
    links: dict[str, str]


COLLECTION = {"ranking": "rankings", "finetune": "finetunes", "comparison": "comparisons"}


def job_views(session: Session, jobs: Sequence[Job], *, cached: bool = False) -> list[JobView]:
    """Jobs as answers, with three queries however many there are."""
    transitions = _transitions(session, [job.id for job in jobs])
    return [
        JobView(
            **{name: getattr(job, name) for name in _SAME},
            metadata=job.labels,
            terminal=job.status in TERMINAL,
            progress=_progress(session, job),
            queue=QueueView(ahead=_ahead(session, job)) if job.status == Status.QUEUED else None,
            attempt=min(job.crashes + 1, job.max_attempts),
            resolved=shown(job.resolved),
            cached=cached,
            transitions=transitions[job.id],
            links=_links(job),
        )
        for job in jobs
    ]


_SAME = (
    "id", "kind", "name", "priority", "status", "phase", "max_attempts", "cancel_requested",
    "error", "spec", "result", "parent", "created_at", "queued_at", "started_at", "finished_at",
    "updated_at", "heartbeat_at",
)  # fmt: skip


def _links(job: Job) -> dict[str, str]:
    links = {"self": f"/v1/{COLLECTION[job.kind]}/{job.id}", "events": f"/v1/jobs/{job.id}/events"}
    if job.kind == Kind.COMPARISON:
        return {**links, "children": f"/v1/jobs?parent={job.id}"}
    names = ("metrics", "checkpoints")
    return {**links, **{name: f"/v1/jobs/{job.id}/{name}" for name in names}}


def _progress(session: Session, job: Job) -> ProgressView | None:
    """As the worker told it; of a running comparison, by how many of its children are over."""
    if job.kind != Kind.COMPARISON or job.status in TERMINAL:
        return ProgressView(**job.progress) if job.progress else None
    over = Job.status.in_(TERMINAL)
    counted = (func.count(), func.count().filter(over), func.max(Job.finished_at).filter(over))
    total, done, last = session.execute(select(*counted).where(Job.parent == job.id)).one()
    eta = None
    if last is not None and job.started_at is not None:
        eta = round((last - job.started_at).total_seconds() / done * (total - done), 1)
    return ProgressView(
        percent=round(100 * done / total, 1), step=done, total_steps=total, unit="runs",
        eta_seconds=eta,
    )  # fmt: skip


def _transitions(session: Session, ids: list[str]) -> dict[str, list[Transition]]:
    found = defaultdict(list)
    query = (
        select(JobEvent)
        .where(JobEvent.job_id.in_(ids), JobEvent.type == "status")
        .order_by(JobEvent.seq)
    )
    for event in session.scalars(query):
        reason = event.data.get("reason") or event.data.get("code")
        change = Transition(status=event.data["status"], at=event.at, reason=reason)
        found[event.job_id].append(change)
    return found


def _ahead(session: Session, job: Job) -> int:
    first = (Job.priority > job.priority) | (
        (Job.priority == job.priority) & (Job.queued_at < job.queued_at)
    )
    query = select(func.count()).select_from(Job)
    return session.scalar(query.where(Job.status == Status.QUEUED, first)) or 0


class EventView(BaseModel):
    """Something that happened to a job."""

    seq: int
    type: str
    data: Json
    at: datetime


class MetricView(BaseModel):
    """One number measured at one step."""

    name: str
    step: int
    epoch: float
    value: float | None
    at: datetime


class FileView(BaseModel):
    """One file of a checkpoint."""

    name: str
    bytes: int
    sha256: str
    href: str


class CheckpointView(BaseModel):
    """A checkpoint and its files."""

    id: str
    job: str
    step: int
    epoch: float = Field(description="Passes over the training rows so far.")
    form: Literal["delta", "full", "adapter"] = Field(
        description="`adapter`: LoRA, as PEFT reads it."
    )
    is_best: bool
    pinned: bool = Field(description="Whether it stays whatever its job keeps.")
    metrics: dict[str, float | None]
    bytes: int
    files: list[FileView]
    created_at: datetime
    links: dict[str, str]


def checkpoint_view(row: Checkpoint) -> CheckpointView:
    """A checkpoint as an answer."""
    own = f"/v1/checkpoints/{row.id}"
    return CheckpointView(
        id=row.id, job=row.job_id, step=row.step, epoch=row.epoch, form=row.form,
        is_best=row.is_best, pinned=row.pinned, metrics=row.metrics, bytes=row.bytes,
        created_at=row.created_at,
        files=[
            FileView(name=name, **entry, href=f"{own}/files/{name}")
            for name, entry in row.files.items()
        ],
        links={"self": own, "archive": f"{own}/archive", "job": f"/v1/jobs/{row.job_id}"},
    )  # fmt: skip


class DatasetView(DatasetReport):
    """An uploaded dataset: what reading it found."""

    id: str
    created_at: datetime


def dataset_view(row: Dataset) -> DatasetView:
    """A dataset as an answer."""
    return DatasetView(id=row.id, created_at=row.created_at, **row.report)
