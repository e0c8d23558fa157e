"""What webhooks are told, and how it becomes a delivery in the transaction of the event itself."""

from __future__ import annotations

import base64
import secrets
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from pydantic import BaseModel, Field
from sqlalchemy import BindParameter, ColumnElement, exists, select
from sqlalchemy.orm import Session

from app.db import db_now
from app.db.tables import Job, Webhook, WebhookDelivery, new_id

RETRY_SECONDS = 24 * 3600.0


class Look(NamedTuple):
    """The time by the database's clock, and whether a project has webhooks that may be told."""

    now: datetime
    told: bool


class EventType(StrEnum):
    """What a webhook can be told of."""

    QUEUED = "job.queued"  # accepted, or back in the queue
    RUNNING = "job.running"
    PAUSED = "job.paused"
    SUCCEEDED = "job.succeeded"
    FAILED = "job.failed"
    CANCELLED = "job.cancelled"
    CHECKPOINT = "checkpoint.created"


ENDINGS = (EventType.SUCCEEDED, EventType.FAILED, EventType.CANCELLED)
"""What a webhook is told of unless it names other types."""
TEST = "webhook.test"  # sent on request only


class CheckpointNotice(BaseModel):
    """The checkpoint that a job stored."""

    id: str = Field(description="The checkpoint's id.")
    step: int = Field(description="Optimizer steps done by then.")
    epoch: float = Field(description="Passes over the training rows done by then.")
    is_best: bool = Field(description="Whether it has the job's best metric so far.")


class JobNotice(BaseModel):
    """The job that something happened to. Its result is not sent; `links.self` has it."""

    id: str = Field(description="The job's id.")
    kind: str = Field(description="The kind of the job, such as `ranking`.")
    status: str = Field(description="The status that the job has now.")
    name: str | None = Field(description="The name that the request gave the job.")
    metadata: dict[str, str] = Field(description="The labels that the request gave the job.")
    parent: str | None = Field(description="The job that created this one, if one did.")
    error_code: str | None = Field(description="The code of the error that a job failed with.")
    checkpoint: CheckpointNotice | None = Field(
        None, description="The checkpoint, in events of type `checkpoint.created`."
    )
    links: dict[str, str] = Field(description="Paths of the job on this service.")


class Notice(BaseModel):
    """The body of a delivery: one event."""

    type: EventType = Field(description="What happened.")
    timestamp: datetime = Field(description="When it happened.")
    data: JobNotice = Field(description="The job that it happened to.")


class WebhookTest(BaseModel):
    """The body of a delivery that was asked for with `POST /v1/webhooks/{id}/test`."""

    type: str = Field(TEST, description="Always `webhook.test`.")
    timestamp: datetime = Field(description="When the test was asked for.")
    data: dict[str, str] = Field(description="The id of the webhook, as `webhook`.")


def new_secret() -> str:
    """A new secret to sign with, in the form of the Standard Webhooks specification."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def look(session: Session, project: str) -> Look:
    """Look at the database's clock and a project's webhooks."""
    return Look(*session.execute(select(*looked_at(project))).one())


def looked_at(project: str | BindParameter[str]) -> tuple[ColumnElement[Any], ...]:
    """What a statement selects that looks at other things besides, as the fields of `Look`."""
    return db_now(), exists().where(Webhook.project == project, Webhook.enabled)


def post_status(session: Session, job: Job, status: str, at: datetime, code: str | None) -> None:
    """Tell webhooks that a job's status changed, in the caller's transaction."""
    post(session, job, EventType(f"job.{status}"), at, status=status, error_code=code)


def post_checkpoint(session: Session, job: Job, checkpoint: dict[str, Any]) -> None:
    """Tell webhooks that a job stored a checkpoint, in the caller's transaction."""
    post(session, job, EventType.CHECKPOINT, None, checkpoint=CheckpointNotice(**checkpoint))


def post(session: Session, job: Job, event: EventType, at: datetime | None, **details: Any) -> None:
    """Insert a delivery for each webhook of the job's project that wants this type of event."""
    query = select(Webhook).where(Webhook.project == job.project, Webhook.enabled)
    # The lock keeps a webhook from being deleted before its delivery is there, or skips it.
    hooks = session.scalars(query.with_for_update(read=True, key_share=True)).all()
    wanting = [hook for hook in hooks if event in hook.events]
    if not wanting:
        return
    moment = at or session.scalar(select(db_now()))
    assert moment is not None
    known = {"status": job.status, "error_code": None} | details
    links = {"self": f"/v1/jobs/{job.id}", "events": f"/v1/jobs/{job.id}/events"}
    data = JobNotice(
        id=job.id,
        kind=job.kind,
        name=job.name,
        metadata=job.labels,
        parent=job.parent,
        links=links,
        **known,
    )
    body = Notice(type=event, timestamp=moment, data=data).model_dump_json()
    for hook in wanting:
        add_delivery(session, hook, event, body, job.id)


def add_delivery(
    session: Session, hook: Webhook, kind: str, body: str, job_id: str | None = None
) -> WebhookDelivery:
    """Insert a delivery that is due at once."""
    delivery = WebhookDelivery(
        id=new_id("msg"),
        webhook=hook.id,
        type=kind,
        job_id=job_id,
        body=body,
        status="pending",
        attempts=[],
        tries=0,
    )
    delivery.created_at = delivery.next_at = db_now()
    delivery.retry_until = db_now(RETRY_SECONDS)
    session.add(delivery)
    return delivery
