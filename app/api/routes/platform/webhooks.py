"""Webhooks: addresses that are told of what happens to a project's jobs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BaseModel, Field
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app.api.deps import ServiceDep, require_json
from app.api.examples.answers import answers, body_examples, problems
from app.api.examples.webhooks import (
    DELIVERIES,
    DELIVERY,
    NEW_WEBHOOK,
    ROTATE_BODIES,
    UPDATE_BODIES,
    WEBHOOK,
    WEBHOOK_BODIES,
    WEBHOOKS,
)
from app.api.http.idempotency import IdempotentRoute
from app.api.pages import Page, PagingDep
from app.db import db_now
from app.errors import Conflict, NotFound, Unprocessable
from app.jobs.webhooks import deliveries, notices
from app.jobs.webhooks.addresses import Blocked, checked_url
from app.jobs.webhooks.notices import ENDINGS, EventType, Notice, WebhookTest
from app.service import Service
from app.tables import Webhook, WebhookDelivery, new_id
from surgery.schemas import Strict

MOST = 20  # webhooks of one project
DAY, WEEK = 24 * 3600, 7 * 24 * 3600
router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], route_class=IdempotentRoute)
documented = APIRouter()  # what receivers are sent, for the OpenAPI document

Events = Annotated[
    list[EventType],
    Field(min_length=1, description="The types of events that it is told of."),
]
Description = Annotated[
    str | None, Field(max_length=200, description="A note for people, such as who receives it.")
]
Url = Annotated[
    str,
    Field(
        max_length=2000,
        description="Where events are sent: an `https://` URL of a public address. Addresses of "
        "private networks, and `http://` for them, need the setting SURGEON_WEBHOOK_NETWORKS.",
    ),
]
OldSecretSeconds = Annotated[int, Field(ge=0, le=WEEK)]


DeliveryStatus = Literal["pending", "delivered", "failed"]


class WebhookSpec(Strict):
    """Create a webhook."""

    url: Url
    events: Events = Field(
        list(ENDINGS),
        description="The types of events that it is told of. Default: the ends of jobs.",
    )
    description: Description = None


class WebhookUpdate(Strict):
    """Change a webhook. Fields that are left out stay as they are."""

    url: Url | None = None
    events: Events | None = None
    description: Description = None
    enabled: bool | None = Field(
        None,
        description="false: tell it nothing more, and give up what has not been delivered yet. "
        "true: tell it again of what happens from now on.",
    )
    old_secret_seconds: OldSecretSeconds | None = Field(
        None,
        description="Seconds from now for which the replaced secret goes on signing; 0 ends it at "
        "once. It has no effect when no secret is being replaced.",
    )


class Rotation(Strict):
    """Replace the secret of a webhook."""

    old_secret_seconds: OldSecretSeconds = Field(
        DAY, description="Seconds for which the old secret goes on signing beside the new one."
    )


class WebhookView(BaseModel):
    """A webhook."""

    id: str = Field(description="The webhook's id.")
    url: str = Field(description="Where events are sent.")
    events: list[str] = Field(description="The types of events that it is told of.")
    description: str | None = Field(description="A note for people.")
    enabled: bool = Field(description="Whether it is told of events.")
    disabled_reason: str | None = Field(
        description="Why the service disabled it; null if it did not."
    )
    consecutive_failures: int = Field(
        description="Attempts that have failed since one last succeeded. The service goes on "
        "trying, whatever their number."
    )
    old_secret_expires_at: datetime | None = Field(
        description="Until when a replaced secret goes on signing; null if none does."
    )
    created_at: datetime = Field(description="When it was created.")
    links: dict[str, str] = Field(description="Paths of the webhook and of its deliveries.")


class NewSecretView(WebhookView):
    """A webhook together with its new secret, which is shown in this answer only."""

    secret: str = Field(description="Verifies what the webhook is sent. It is not shown again.")


class DeliveryAttempt(BaseModel):
    """One attempt to deliver an event."""

    at: datetime = Field(description="When it ended.")
    status: int | None = Field(description="The HTTP status of the answer; null without an answer.")
    error: str | None = Field(description="Why there was no answer; null if there was one.")
    seconds: float = Field(description="How long it took.")
    body: str = Field(description="The first 1,000 bytes of the answer's body.")


class DeliveryView(BaseModel):
    """One event for one webhook, and the attempts to deliver it."""

    id: str = Field(description="The delivery's id, sent as `webhook-id` with every attempt.")
    webhook: str = Field(description="The webhook's id.")
    type: str = Field(description="The type of the event.")
    job: str | None = Field(description="The job that it is about; null for a test.")
    status: DeliveryStatus = Field(
        description="`pending`: an attempt is due or being made. `delivered`: an answer was 2xx. "
        "`failed`: a day has passed, or the webhook was disabled; a replay tries again."
    )
    attempts: list[DeliveryAttempt] = Field(description="The latest attempts, oldest first.")
    next_attempt_at: datetime | None = Field(
        description="When the next attempt is due; null if none is."
    )
    payload: dict[str, Any] = Field(description="What is sent.")
    created_at: datetime = Field(description="When the event happened.")
    ended_at: datetime | None = Field(description="When it was delivered or given up.")


def _view(row: Webhook) -> dict[str, Any]:
    expiry = row.old_secret_expires_at
    own = f"/v1/webhooks/{row.id}"
    return {
        "id": row.id,
        "url": row.url,
        "events": row.events,
        "description": row.description,
        "enabled": row.enabled,
        "disabled_reason": row.disabled_reason,
        "consecutive_failures": row.failures,
        "old_secret_expires_at": expiry if expiry and expiry > datetime.now(UTC) else None,
        "created_at": row.created_at,
        "links": {"self": own, "deliveries": f"{own}/deliveries"},
    }


def _shown(row: Webhook) -> WebhookView:
    return WebhookView(**_view(row))


def _delivery_view(row: WebhookDelivery) -> DeliveryView:
    return DeliveryView(
        id=row.id,
        webhook=row.webhook,
        type=row.type,
        job=row.job_id,
        status=row.status,
        attempts=[DeliveryAttempt(**each) for each in row.attempts],
        next_attempt_at=row.next_at,
        payload=json.loads(row.body),
        created_at=row.created_at,
        ended_at=row.ended_at,
    )


WebhookId = Annotated[str, Path(max_length=64, description="The id of a webhook, such as `wh_…`.")]
DeliveryId = Annotated[
    str, Path(max_length=64, description="The id of a delivery, such as `msg_…`.")
]


def _locked(session: Session, service: Service, webhook_id: str) -> Webhook:
    """The webhook's row, locked. Raises NotFound."""
    query = select(Webhook).where(Webhook.id == webhook_id, Webhook.project == service.project)
    # Not as strong as a lock for a deletion: jobs that insert deliveries need not wait.
    return _existing(session.scalar(query.with_for_update(key_share=True)), webhook_id)


def _existing(row: Webhook | None, webhook_id: str) -> Webhook:
    if row is None:
        raise NotFound(f"no webhook {webhook_id!r}; GET /v1/webhooks lists them")
    return row


def find_webhook(webhook_id: WebhookId, service: ServiceDep) -> Webhook:
    """The webhook that the path names. Raises NotFound."""
    with service.database.read() as session:
        row = session.get(Webhook, webhook_id)
    return _existing(row if row and row.project == service.project else None, webhook_id)


WebhookDep = Annotated[Webhook, Depends(find_webhook)]


def find_delivery(hook: WebhookDep, delivery: DeliveryId, service: ServiceDep) -> WebhookDelivery:
    """The delivery that the path names. Raises NotFound."""
    with service.database.read() as session:
        row = session.get(WebhookDelivery, delivery)
    if row is None or row.webhook != hook.id:
        raise NotFound(
            f"webhook {hook.id} has no delivery {delivery!r}; it may be older than 30 days"
        )
    return row


DeliveryDep = Annotated[WebhookDelivery, Depends(find_delivery)]


def _checked(service: Service, url: str) -> str:
    try:
        return checked_url(url, service.settings.webhook_networks)
    except Blocked as error:
        detail = str(error)
        raise Unprocessable(detail, errors=[{"pointer": "/url", "detail": detail}]) from error


@router.post(
    "",
    summary="Create a webhook",
    status_code=201,
    responses=answers(NEW_WEBHOOK, 400, 409, 413, 415, status=201),
    dependencies=[Depends(require_json)],
)
def create_webhook(
    service: ServiceDep,
    response: Response,
    spec: Annotated[WebhookSpec, body_examples(WEBHOOK_BODIES)],
) -> NewSecretView:
    """Creates a webhook, which is told of events from now on, and answers its secret once.

    Requests to it follow the Standard Webhooks specification and are signed with the secret.
    """
    url = _checked(service, spec.url)
    with service.database.write() as session:
        count = select(func.count()).where(Webhook.project == service.project)
        if (session.scalar(count) or 0) >= MOST:
            raise Conflict(f"a project has at most {MOST} webhooks; delete one first")
        row = Webhook(
            id=new_id("wh"),
            project=service.project,
            url=url,
            events=list(dict.fromkeys(spec.events)),
            description=spec.description,
            secret=notices.new_secret(),
            created_at=db_now(),
        )
        session.add(row)
        session.flush()
        session.refresh(row)
    response.headers["Location"] = f"/v1/webhooks/{row.id}"
    return _with_secret(row, response)


def _with_secret(row: Webhook, response: Response) -> NewSecretView:
    response.headers["Cache-Control"] = "no-store"  # the secret is shown once
    return NewSecretView(**_view(row), secret=row.secret)


@router.get("", summary="List webhooks", responses=answers(WEBHOOKS))
def get_webhooks(service: ServiceDep, paging: PagingDep) -> Page[WebhookView]:
    """Lists the project's webhooks, newest first."""
    query = select(Webhook).where(Webhook.project == service.project)
    order = (Webhook.created_at, Webhook.id)
    return paging.page(service.database, query, order, _shown)


@router.get("/{webhook_id}", summary="Get a webhook", responses=answers(WEBHOOK, 404))
def get_webhook(row: WebhookDep) -> WebhookView:
    """Answers a webhook, without its secret."""
    return _shown(row)


@router.patch(
    "/{webhook_id}",
    summary="Change a webhook",
    responses=answers(WEBHOOK, 400, 404, 413, 415),
    dependencies=[Depends(require_json)],
)
def update_webhook(
    webhook_id: WebhookId,
    service: ServiceDep,
    spec: Annotated[WebhookUpdate, body_examples(UPDATE_BODIES)],
) -> WebhookView:
    """Changes what is given. Deliveries that are pending go to the new URL."""
    given = spec.model_dump(exclude_unset=True)
    with service.database.write() as session:
        row = _locked(session, service, webhook_id)
        if spec.url is not None:
            row.url = _checked(service, spec.url)
        if spec.events is not None:
            row.events = list(dict.fromkeys(spec.events))
        if "description" in given:
            row.description = spec.description
        if spec.enabled:
            row.enabled, row.disabled_reason = True, None
        elif spec.enabled is not None and row.enabled:
            deliveries.disable(session, row, None)
        if spec.old_secret_seconds is not None:
            _expire_old(row, spec.old_secret_seconds)
        session.flush()
        session.refresh(row)
        return _shown(row)


def _expire_old(row: Webhook, seconds: int) -> None:
    if row.old_secret is None:
        return
    if seconds:
        row.old_secret_expires_at = db_now(seconds)
    else:
        row.old_secret, row.old_secret_expires_at = None, None


@router.delete(
    "/{webhook_id}",
    summary="Delete a webhook",
    status_code=204,
    response_description="The webhook was deleted.",
    responses=problems(404),
)
def delete_webhook(webhook_id: WebhookId, service: ServiceDep) -> None:
    """Deletes a webhook with its log. What has not been delivered yet never will be."""
    query = select(Webhook).where(Webhook.id == webhook_id, Webhook.project == service.project)
    with service.database.write() as session:
        row = _existing(session.scalar(query.with_for_update()), webhook_id)
        session.execute(delete(WebhookDelivery).where(WebhookDelivery.webhook == row.id))
        session.delete(row)


@router.post(
    "/{webhook_id}/test",
    summary="Send a test event",
    status_code=202,
    responses=answers(DELIVERY, 404, 409, status=202),
)
def test_webhook(webhook_id: WebhookId, service: ServiceDep, response: Response) -> DeliveryView:
    """Sends an event of type `webhook.test` in the way of any other. Poll the delivery it answers.

    A worker sends it, so without a running worker it stays pending.
    """
    with service.database.write() as session:
        hook = _locked(session, service, webhook_id)
        _check_enabled(hook)
        now = session.scalar(select(db_now()))
        assert now is not None
        notice = WebhookTest(timestamp=now, data={"webhook": hook.id})
        row = notices.add_delivery(session, hook, notices.TEST, notice.model_dump_json())
        session.flush()
        session.refresh(row)
    return _accepted(row, response)


def _check_enabled(hook: Webhook) -> None:
    if not hook.enabled:
        raise Conflict(f"webhook {hook.id} is disabled; enable it first with PATCH")


def _accepted(row: WebhookDelivery, response: Response) -> DeliveryView:
    response.headers["Location"] = f"/v1/webhooks/{row.webhook}/deliveries/{row.id}"
    response.headers["Retry-After"] = "1"
    return _delivery_view(row)


@router.post(
    "/{webhook_id}/rotate",
    summary="Replace a webhook's secret",
    responses=answers(NEW_WEBHOOK, 400, 404, 413, 415),
    dependencies=[Depends(require_json)],
)
def rotate_secret(
    webhook_id: WebhookId,
    service: ServiceDep,
    response: Response,
    spec: Annotated[Rotation, body_examples(ROTATE_BODIES)],
) -> NewSecretView:
    """Makes a new secret and answers it once. The old one signs beside it for some time.

    While both sign, every request has two signatures, so a receiver can change its secret at any
    moment in between. `PATCH` with `old_secret_seconds` ends the old one earlier or later.
    """
    with service.database.write() as session:
        row = _locked(session, service, webhook_id)
        row.old_secret, row.secret = row.secret, notices.new_secret()
        _expire_old(row, spec.old_secret_seconds)
        session.flush()
        session.refresh(row)
    return _with_secret(row, response)


StatusFilter = Annotated[
    list[DeliveryStatus] | None,
    Query(description="Only deliveries with this status. Repeated: with any of these."),
]


@router.get(
    "/{webhook_id}/deliveries",
    summary="List a webhook's deliveries",
    responses=answers(DELIVERIES, 404),
)
def get_deliveries(
    hook: WebhookDep, service: ServiceDep, paging: PagingDep, status: StatusFilter = None
) -> Page[DeliveryView]:
    """Lists what the webhook was sent in the last 30 days, newest first, with every answer."""
    query = select(WebhookDelivery).where(WebhookDelivery.webhook == hook.id)
    if status:
        query = query.where(WebhookDelivery.status.in_(status))
    order = (WebhookDelivery.created_at, WebhookDelivery.id)
    return paging.page(service.database, query, order, _delivery_view)


@router.get(
    "/{webhook_id}/deliveries/{delivery}",
    summary="Get a delivery",
    responses=answers(DELIVERY, 404),
)
def get_delivery(row: DeliveryDep) -> DeliveryView:
    """Answers a delivery with its payload and its attempts."""
    return _delivery_view(row)


@router.post(
    "/{webhook_id}/deliveries/{delivery}/replay",
    summary="Send a delivery again",
    status_code=202,
    responses=answers(DELIVERY, 404, 409, status=202),
)
def replay_delivery(found: DeliveryDep, service: ServiceDep, response: Response) -> DeliveryView:
    """Sends a delivery again now, under the same id, and retries it for another day if it fails.

    A receiver that knows the id can tell that it has had the event before.
    """
    with service.database.write() as session:
        _check_enabled(_locked(session, service, found.webhook))
        row = session.get(WebhookDelivery, found.id, with_for_update=True)
        if row is None:
            raise NotFound(f"delivery {found.id} was removed from the log")
        deliveries.replay(row)
        session.flush()
        session.refresh(row)
    return _accepted(row, response)


def _document(event: EventType, text: str) -> None:
    @documented.post(
        event.value,
        summary=text,
        status_code=204,
        response_description="Any 2xx takes the delivery. Anything else, redirects included, and "
        "no answer within 10 seconds are tried again for a day.",
        responses={"4XX": {"description": "Tried again for a day; 410 disables the webhook."}},
        tags=["webhooks"],
    )
    def receive(body: Notice) -> None:
        """Sent to webhooks with the headers `webhook-id`, `webhook-timestamp` and
        `webhook-signature` of the Standard Webhooks specification. An event may arrive more than
        once, with the same `webhook-id`, and events may arrive in another order.
        """


for _event, _text in {
    EventType.QUEUED: "A job was accepted, or is back in the queue",
    EventType.RUNNING: "A worker has begun with a job",
    EventType.PAUSED: "A job was paused",
    EventType.SUCCEEDED: "A job has succeeded",
    EventType.FAILED: "A job has failed",
    EventType.CANCELLED: "A job was cancelled",
    EventType.CHECKPOINT: "A job has stored a checkpoint",
}.items():
    _document(_event, _text)
