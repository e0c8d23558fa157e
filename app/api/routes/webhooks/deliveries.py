"""Routes that show what webhooks were sent, and send again."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from sqlalchemy import select

from app.api.deps import ServiceDep
from app.api.examples.answers import answers
from app.api.examples.webhooks import DELIVERIES, DELIVERY
from app.api.http.idempotency import IdempotentRoute
from app.api.pages import Page, PagingDep
from app.api.routes.webhooks.rows import (
    DeliveryDep,
    WebhookDep,
    WebhookId,
    check_enabled,
    locked_webhook,
)
from app.api.routes.webhooks.shapes import DeliveryStatus, DeliveryView, delivery_view
from app.db import db_now
from app.db.tables import WebhookDelivery
from app.errors import NotFound
from app.jobs.webhooks import deliveries, notices
from app.jobs.webhooks.notices import WebhookTest

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], route_class=IdempotentRoute)


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
        hook = locked_webhook(session, service, webhook_id)
        check_enabled(hook)
        now = session.scalar(select(db_now()))
        assert now is not None
        notice = WebhookTest(timestamp=now, data={"webhook": hook.id})
        row = notices.add_delivery(session, hook, notices.TEST, notice.model_dump_json())
        session.flush()
        session.refresh(row)
    return _accepted(row, response)


def _accepted(row: WebhookDelivery, response: Response) -> DeliveryView:
    response.headers["Location"] = f"/v1/webhooks/{row.webhook}/deliveries/{row.id}"
    response.headers["Retry-After"] = "1"
    return delivery_view(row)


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
    return paging.page(service.database, query, order, delivery_view)


@router.get(
    "/{webhook_id}/deliveries/{delivery}",
    summary="Get a delivery",
    responses=answers(DELIVERY, 404),
)
def get_delivery(row: DeliveryDep) -> DeliveryView:
    """Answers a delivery with its payload and its attempts."""
    return delivery_view(row)


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
        check_enabled(locked_webhook(session, service, found.webhook))
        row = session.get(WebhookDelivery, found.id, with_for_update=True)
        if row is None:
            raise NotFound(f"delivery {found.id} was removed from the log")
        deliveries.replay(row)
        session.flush()
        session.refresh(row)
    return _accepted(row, response)
