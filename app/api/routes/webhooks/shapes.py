"""What requests about webhooks say, and what they are answered."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from app.db.tables import Webhook, WebhookDelivery
from app.jobs.webhooks.notices import ENDINGS, EventType
from surgery.schemas import Strict

DAY, WEEK = 24 * 3600, 7 * 24 * 3600

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


def webhook_fields(row: Webhook) -> dict[str, Any]:
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


def webhook_view(row: Webhook) -> WebhookView:
    return WebhookView(**webhook_fields(row))


def delivery_view(row: WebhookDelivery) -> DeliveryView:
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
