"""The rows of webhooks and deliveries that a request's path names."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.api.deps import ServiceDep
from app.db.tables import Webhook, WebhookDelivery
from app.errors import Conflict, NotFound
from app.service import Service

WebhookId = Annotated[str, Path(max_length=64, description="The id of a webhook, such as `wh_…`.")]
DeliveryId = Annotated[
    str, Path(max_length=64, description="The id of a delivery, such as `msg_…`.")
]


def locked_webhook(session: Session, service: Service, webhook_id: str) -> Webhook:
    """The webhook's row, locked. Raises NotFound."""
    query = select(Webhook).where(Webhook.id == webhook_id, Webhook.project == service.project)
    # Not as strong as a lock for a deletion: jobs that insert deliveries need not wait.
    return existing(session.scalar(query.with_for_update(key_share=True)), webhook_id)


def existing(row: Webhook | None, webhook_id: str) -> Webhook:
    """The row, if there is one. Raises NotFound."""
    if row is None:
        raise NotFound(f"no webhook {webhook_id!r}; GET /v1/webhooks lists them")
    return row


def find_webhook(webhook_id: WebhookId, service: ServiceDep) -> Webhook:
    """The webhook that the path names. Raises NotFound."""
    with service.database.read() as session:
        row = session.get(Webhook, webhook_id)
    return existing(row if row and row.project == service.project else None, webhook_id)


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


def check_enabled(hook: Webhook) -> None:
    """Raises Conflict if a webhook is disabled."""
    if not hook.enabled:
        raise Conflict(f"webhook {hook.id} is disabled; enable it first with PATCH")
