"""Routes that create, show, change and delete webhooks."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from sqlalchemy import delete, func, select

from app.api.deps import ServiceDep, require_json
from app.api.examples.answers import answers, body_examples, problems
from app.api.examples.webhooks import (
    NEW_WEBHOOK,
    ROTATE_BODIES,
    UPDATE_BODIES,
    WEBHOOK,
    WEBHOOK_BODIES,
    WEBHOOKS,
)
from app.api.http.idempotency import IdempotentRoute
from app.api.pages import Page, PagingDep
from app.api.routes.webhooks.rows import WebhookDep, WebhookId, existing, locked_webhook
from app.api.routes.webhooks.shapes import (
    NewSecretView,
    Rotation,
    WebhookSpec,
    WebhookUpdate,
    WebhookView,
    webhook_fields,
    webhook_view,
)
from app.db import db_now
from app.db.tables import Webhook, WebhookDelivery, new_id
from app.errors import Conflict, Unprocessable
from app.jobs.webhooks import deliveries, notices
from app.jobs.webhooks.addresses import Blocked, checked_url
from app.service import Service

MOST = 20  # webhooks of one project
router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], route_class=IdempotentRoute)


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
    return NewSecretView(**webhook_fields(row), secret=row.secret)


@router.get("", summary="List webhooks", responses=answers(WEBHOOKS))
def get_webhooks(service: ServiceDep, paging: PagingDep) -> Page[WebhookView]:
    """Lists the project's webhooks, newest first."""
    query = select(Webhook).where(Webhook.project == service.project)
    order = (Webhook.created_at, Webhook.id)
    return paging.page(service.database, query, order, webhook_view)


@router.get("/{webhook_id}", summary="Get a webhook", responses=answers(WEBHOOK, 404))
def get_webhook(row: WebhookDep) -> WebhookView:
    """Answers a webhook, without its secret."""
    return webhook_view(row)


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
        row = locked_webhook(session, service, webhook_id)
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
        return webhook_view(row)


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
        row = existing(session.scalar(query.with_for_update()), webhook_id)
        session.execute(delete(WebhookDelivery).where(WebhookDelivery.webhook == row.id))
        session.delete(row)


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
        row = locked_webhook(session, service, webhook_id)
        row.old_secret, row.secret = row.secret, notices.new_secret()
        _expire_old(row, spec.old_secret_seconds)
        session.flush()
        session.refresh(row)
    return _with_secret(row, response)
