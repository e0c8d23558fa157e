"""Celery is the doorbell: its messages say that something waits, never what.

A lost, late, repeated or forged message does no harm: whoever hears it claims from the database and
may find nothing. So messages are acknowledged early and no result is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from celery import Celery
from kombu.entity import Queue
from kombu.exceptions import OperationalError
from sqlalchemy import and_, or_, select

from app.db import Database, db_now
from app.settings import Settings
from app.tables import WORKED, Job, Kind, Status

log = logging.getLogger("surgeon.queue")
RING = "surgeon.ring"


def queue_name(kind: Kind | str) -> str:
    """The Celery queue of a kind of job."""
    return f"surgeon.{kind}"


def make_celery(settings: Settings) -> Celery:
    """A Celery application for ringing and for being rung."""
    if settings.redis_url is None:
        raise ValueError("SURGEON_REDIS_URL is not set: there is no broker")
    celery = Celery("surgeon", broker=settings.redis_url.get_secret_value())
    celery.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_acks_late=False,
        task_publish_retry=False,  # a submission does not wait for a broker that is down
        task_queues=[Queue(queue_name(kind)) for kind in WORKED],  # type: ignore[no-untyped-call]
        task_default_queue=queue_name(Kind.RANKING),
        worker_prefetch_multiplier=1,
        worker_concurrency=1,
        worker_pool="threads",
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # for ever: without a broker workers still poll
        broker_transport_options={
            # A hung Redis blocks a publish for ever by default.
            "socket_timeout": 2.0,
            "socket_connect_timeout": 2.0,
            "health_check_interval": 25,
            "global_keyprefix": "surgeon:",
        },
    )
    return celery


def make_ring(settings: Settings) -> Callable[[Job], None]:
    """How the API tells workers that a job waits. Returns at once, never fails."""
    if settings.redis_url is None:
        return lambda _: None  # embedded workers look for themselves
    celery = make_celery(settings)
    # One thread: a broker that hangs delays hints, not answers; workers also poll.
    ringer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ring")

    def ring(job: Job) -> None:
        ringer.submit(ring_bell, celery, job.kind)

    return ring


def ring_bell(celery: Celery, kind: str) -> bool:
    """Send one hint; False when the broker did not take it."""
    try:
        celery.send_task(RING, queue=queue_name(kind), retry=False)
    except (OperationalError, OSError) as error:
        log.warning("could not ring for a %s, workers will find it by themselves: %s", kind, error)
        return False
    return True


def unrung(database: Database, seconds: float = 30.0) -> Sequence[Job]:
    """Queued jobs that nobody rang for lately, marked as rung now."""
    waiting = and_(
        Job.status == Status.QUEUED,
        or_(Job.rung_at.is_(None), Job.rung_at < db_now(-seconds)),
        Job.queued_at < db_now(-seconds),
        Job.waits_for.is_(None),
    )
    with database.write() as session:
        rows = session.scalars(select(Job).where(waiting).limit(100)).all()
        for job in rows:
            job.rung_at = db_now()
        return rows
