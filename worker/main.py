"""Entry of a worker process: the local poller, or Celery's worker in production."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Sequence
from functools import partial

from app.main import open_database
from app.queue import RING, make_celery, queue_name, ring_bell
from app.settings import Settings
from app.storage import Storage
from app.tables import Job, Kind
from worker.supervisor import Supervisor

log = logging.getLogger("surgeon.worker")


def run_worker(settings: Settings, kinds: Sequence[Kind]) -> None:
    """Serve jobs until SIGTERM or SIGINT: with Celery where a broker is configured."""
    database = open_database(settings)
    storage = Storage(settings.resolved_artifacts_url)
    if settings.redis_url is None:
        run_poller(Supervisor(settings, database, storage, kinds))
    else:
        _run_celery(settings, database, storage, kinds)
    database.close()


def run_poller(supervisor: Supervisor) -> None:
    """The embedded worker: the main thread is the supervisor's."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.stop())
    supervisor.run()


def _run_celery(settings: Settings, database, storage, kinds: Sequence[Kind]) -> None:  # type: ignore[no-untyped-def]
    """Celery hears the bell; the supervisor, on a thread that lives as long, does the work."""
    celery = make_celery(settings)

    def ring(job: Job) -> bool:
        return ring_bell(celery, job.kind)

    supervisor = Supervisor(settings, database, storage, kinds, ring)
    thread = threading.Thread(target=supervisor.run, name="supervisor")

    @celery.task(name=RING)  # type: ignore[untyped-decorator]
    def heard() -> None:
        supervisor.ring_and_wait()

    worker = celery.Worker(
        queues=[queue_name(kind) for kind in kinds],
        concurrency=1,
        pool="threads",
        hostname=f"{supervisor.owner.replace(':', '-')}@surgeon",
        loglevel=settings.log_level,
        without_gossip=True,
        without_mingle=True,
    )
    from celery.signals import worker_shutting_down

    worker_shutting_down.connect(partial(_drain, supervisor), weak=False)
    thread.start()
    try:
        worker.start()
    finally:
        supervisor.stop()
        thread.join()


def _drain(supervisor: Supervisor, **_: object) -> None:
    supervisor.stop()
