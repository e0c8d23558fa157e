"""Deliveries that are due: claimed by one worker at a time, sent, and repeated until they arrive.

A delivery is sent at least once. Its claim moves its next time forward before anything is sent, so
a worker that dies while it sends leaves the delivery to be claimed again, under the same id.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import and_, delete, select, update
from sqlalchemy.orm import Session

from app.db import Database, db_now
from app.db.tables import Webhook, WebhookDelivery
from app.jobs.webhooks.notices import RETRY_SECONDS
from app.jobs.webhooks.sender import Answer

log = logging.getLogger("surgeon.webhooks")
CLAIM_SECONDS = 90.0  # well above the time that sending can take, a slow resolver included
FIRST_RETRY_SECONDS = 5.0
SLOWEST_RETRY_SECONDS = 4 * 3600.0
KEPT_ATTEMPTS = 50  # of one delivery; a day has some 14, and each replay may add as many
KEPT_SECONDS = 30 * 24 * 3600.0
BATCH = 1000  # old deliveries that are removed in one transaction


@dataclass(frozen=True)
class Claim:
    """A delivery that this worker may send now."""

    id: str
    webhook: str
    number: int  # of the attempt, since the delivery became due first
    url: str
    secrets: tuple[str, ...]
    body: str


def retry_delay(number: int, spread: float) -> float:
    """Seconds from the attempt of this number to the next: 5, 15, 45 … and four hours at most.

    ``spread``, from 0 to 1, varies it by a fifth, so that deliveries do not come in waves.
    """
    growing = FIRST_RETRY_SECONDS * 3 ** min(number - 1, 10)
    return float(min(growing, SLOWEST_RETRY_SECONDS) * (0.8 + 0.4 * spread))


def claim(database: Database, busy: Collection[str] = ()) -> Claim | None:
    """Take the delivery that has been due for longest; None if there is none.

    Webhooks in ``busy`` are left out: a receiver that answers slowly holds up nobody else's.
    """
    due = and_(
        WebhookDelivery.status == "pending",
        WebhookDelivery.next_at <= db_now(),
        WebhookDelivery.webhook.not_in(busy),
    )
    query = select(WebhookDelivery).where(due).order_by(WebhookDelivery.next_at).limit(1)
    with database.read() as session:
        if session.scalar(query) is None:
            return None  # the usual case, checked without SQLite's write lock
    with database.write() as session:
        row = session.scalar(query.with_for_update(skip_locked=True))
        if row is None:
            return None
        hook = session.get_one(Webhook, row.webhook)
        if not hook.enabled:  # it was disabled at the moment in which the event happened
            _end(row, "failed")
            return None
        row.tries += 1
        row.next_at = db_now(CLAIM_SECONDS)
        return Claim(row.id, hook.id, row.tries, hook.url, _secrets(session, hook), row.body)


def _secrets(session: Session, hook: Webhook) -> tuple[str, ...]:
    """The secrets that sign now: the newest, and the one that it replaces until that expires."""
    old = select(Webhook.old_secret).where(
        Webhook.id == hook.id,
        Webhook.old_secret.is_not(None),
        Webhook.old_secret_expires_at > db_now(),
    )
    return (hook.secret, *filter(None, session.scalars(old)))


def record(database: Database, sent: Claim, answer: Answer) -> None:
    """Store what became of an attempt, and when the next one is due if it was no success."""
    with database.write() as session:
        # The webhook's row first, as whoever deletes or disables a webhook locks it first.
        hook = session.get(Webhook, sent.webhook, with_for_update={"key_share": True})
        row = session.get(WebhookDelivery, sent.id, with_for_update=True)
        if hook is None or row is None:
            return  # deleted meanwhile
        now = session.scalar(select(db_now()))
        assert now is not None
        attempt = {
            "at": now.isoformat().replace("+00:00", "Z"),
            "status": answer.status,
            "error": answer.error,
            "seconds": answer.seconds,
            "body": answer.body,
        }
        row.attempts = [*row.attempts, attempt][-KEPT_ATTEMPTS:]
        if row.tries != sent.number:
            return  # it was replayed or claimed anew, which decides about it from now on
        if answer.delivered:
            _end(row, "delivered")
            if hook.failures:
                hook.failures = 0
        elif answer.gone:
            disable(session, hook, "its receiver answered 410 Gone")
        elif row.status == "pending":
            hook.failures += 1
            wait = timedelta(seconds=retry_delay(sent.number, random.random()))  # noqa: S311
            row.next_at = now + wait
            if row.next_at > row.retry_until:
                _end(row, "failed")


def _end(row: WebhookDelivery, status: str) -> None:
    row.status, row.next_at = status, None
    row.ended_at = db_now()


def disable(session: Session, hook: Webhook, reason: str | None) -> None:
    """Tell a webhook nothing more, and give up what has not been delivered yet.

    The caller has locked its row.
    """
    hook.enabled, hook.disabled_reason = False, reason
    session.flush()
    session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.webhook == hook.id, WebhookDelivery.status == "pending")
        .values(status="failed", next_at=None, ended_at=db_now())
        .execution_options(synchronize_session=False)
    )
    log.warning("webhook %s is disabled: %s", hook.id, reason or "on request")


def replay(row: WebhookDelivery) -> None:
    """Make a delivery due again at once, whatever became of it before."""
    row.status, row.tries, row.ended_at = "pending", 0, None
    row.next_at, row.retry_until = db_now(), db_now(RETRY_SECONDS)


def forget_old(database: Database) -> None:
    """Remove deliveries from the log that are older than 30 days."""
    old = (
        select(WebhookDelivery.id)
        .where(
            WebhookDelivery.created_at < db_now(-KEPT_SECONDS), WebhookDelivery.status != "pending"
        )
        .limit(BATCH)
    )
    removed = BATCH
    while removed == BATCH:
        with database.write() as session:
            ids = session.scalars(old).all()
            session.execute(delete(WebhookDelivery).where(WebhookDelivery.id.in_(ids)))
            removed = len(ids)
