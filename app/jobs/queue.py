"""Tells workers through Celery that a job waits, but not which one.

A message is only a doorbell: a worker that receives one claims a job from the database, and may
find none. A message that is lost, late, repeated or forged therefore does no harm, so messages are
acknowledged early and no results are stored.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore

from celery import Celery
from kombu.entity import Queue
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from sqlalchemy import and_, or_, select

from app.db import Database, db_now
from app.db.tables import WORKER_KINDS, Job, JobKind, Status, has_status
from app.process.restarts import surviving
from app.settings import Settings

log = logging.getLogger("surgeon.queue")
RING = "surgeon.ring"
MOST_RINGS = 1000  # that wait for a broker which hangs; for the others, workers poll


def queue_name(kind: JobKind | str) -> str:
    """The name of the Celery queue for a kind of job."""
    return f"surgeon.{kind}"


def make_celery(settings: Settings) -> Celery:
    """The Celery application that sends the messages, and that workers receive them with."""
    if settings.redis_url is None:
        raise ValueError("SURGEON_REDIS_URL is not set: there is no broker")
    celery = Celery("surgeon", broker=settings.redis_url.get_secret_value())
    celery.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_acks_late=False,
        task_publish_retry=False,  # a submission never waits for a broker that is down
        task_queues=[Queue(queue_name(kind)) for kind in WORKER_KINDS],  # type: ignore[no-untyped-call]
        task_default_queue=queue_name(JobKind.RANKING),
        worker_prefetch_multiplier=1,
        worker_concurrency=1,
        worker_pool="threads",
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # no limit: workers poll the database meanwhile
        broker_transport_options={
            # By default, sending to a Redis that hangs would block for ever.
            "socket_timeout": 2.0,
            "socket_connect_timeout": 2.0,
            "health_check_interval": 25,
            "global_keyprefix": "surgeon:",
        },
    )
    return celery


def make_ring(settings: Settings) -> Callable[[Job], None]:
    """A function that tells workers that a job waits. It returns at once and never fails."""
    if settings.redis_url is None:
        return lambda _: None  # embedded workers only poll
    celery = make_celery(settings)
    # Messages are sent by another thread: a broker that hangs does not delay any answer.
    ringer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ring")
    places = BoundedSemaphore(MOST_RINGS)

    def ring_safely(kind: str) -> None:
        with surviving("ring"):
            ring_bell(celery, kind)
        places.release()

    def ring(job: Job) -> None:
        if places.acquire(blocking=False):
            ringer.submit(ring_safely, job.kind)

    return ring


def ring_bell(celery: Celery, kind: str) -> bool:
    """Send one message; False if the broker did not accept it."""
    try:
        celery.send_task(RING, queue=queue_name(kind), retry=False)
    except (OperationalError, RedisError, OSError) as error:  # RedisError: it refuses to write
        log.warning("no message was sent for a %s; workers find it by polling: %s", kind, error)
        return False
    return True


def unannounced_jobs(database: Database, seconds: float = 30.0) -> Sequence[Job]:
    """Jobs queued for ``seconds`` without a message since, marked as if one was sent now."""
    waiting = and_(
        has_status(Job, Status.QUEUED),
        or_(Job.rung_at.is_(None), Job.rung_at < db_now(-seconds)),
        Job.queued_at < db_now(-seconds),
        Job.waits_for.is_(None),
    )
    with database.write() as session:
        rows = session.scalars(
            select(Job).where(waiting).limit(100).with_for_update(key_share=True, skip_locked=True)
        ).all()
        for job in rows:
            job.rung_at = db_now()
        return rows
