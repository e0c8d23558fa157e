"""The entry point of a worker: it polls the database, or runs as Celery's worker in production."""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from celery import Celery
from celery.signals import worker_shutting_down

from app.artifacts.storage import open_storage
from app.db import open_database
from app.db.tables import WORKER_KINDS, Job, JobKind
from app.errors import Misconfigured, NotMigrated
from app.jobs.queue import RING, make_celery, queue_name, ring_bell
from app.process.logs import set_up_log
from app.process.restarts import surviving
from app.process.tracing import set_up_tracing
from app.process.workers import Workers
from app.settings import Settings, settings_from_environment
from worker.protocol import PR_SET_PDEATHSIG
from worker.supervisor.attempt.context import WorkerContext
from worker.supervisor.gpus import VISIBLE, Gpu, groups, visible_gpus
from worker.supervisor.supervisor import Supervisor

log = logging.getLogger("surgeon.worker")
THREADS = "OMP_NUM_THREADS"
CELERY_RESTART_SECONDS = 5.0  # before Celery's worker is started again, if it ended by itself


class CeleryEnded(Exception):
    """Celery's worker has ended although nobody has asked it to."""


def run_worker(settings: Settings, kinds: Sequence[JobKind], gpus: Sequence[Gpu] = ()) -> None:
    """Run jobs until SIGTERM or SIGINT; with Celery if a broker is configured.

    ``gpus`` are the GPUs that its jobs will see.
    """
    log.info("this worker has %s", "; ".join(map(str, gpus)) or "no GPU")
    database = open_database(settings)
    context = WorkerContext(settings, database, open_storage(settings), gpus)
    if settings.redis_url is None:
        run_poller(Supervisor(context, kinds))
    else:
        _run_celery(context, kinds)
    database.close()


def run_workers(shares: Sequence[Sequence[Gpu]], queues: str, cores: int | None) -> None:
    """Run one worker for each share of the GPUs and of the cores, until SIGTERM or SIGINT."""
    stopping = threading.Event()
    call_when_stopped(stopping.set)
    environments = [{VISIBLE: ",".join(gpu.key for gpu in share)} for share in shares]
    workers = Workers(environments, ["--queues", queues], cores)
    stopping.wait()
    workers.stop()


def call_when_stopped(stop: Callable[[], None]) -> None:
    """Call ``stop`` once, on a thread of its own, when SIGTERM or SIGINT arrives.

    A signal handler runs in the middle of whatever the main thread does, which may hold the lock
    that ``stop`` needs, for example that of an event it waits for. So the handler only writes to a
    pipe, which takes no lock.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def wait() -> None:
        os.read(reading, 1)
        stop()

    threading.Thread(target=wait, name="stop", daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _write_byte(writing))


def _write_byte(pipe: int) -> None:
    with suppress(BlockingIOError):  # full: a signal was heard long ago
        os.write(pipe, b"x")


def run_poller(supervisor: Supervisor) -> None:
    """Poll the database for jobs; the supervisor runs on the main thread."""
    call_when_stopped(supervisor.stop)
    supervisor.run()


def _run_celery(context: WorkerContext, kinds: Sequence[JobKind]) -> None:
    """Run Celery's worker for notifications, and the supervisor on a thread beside it."""
    celery = make_celery(context.settings)

    def ring(job: Job) -> bool:
        return ring_bell(celery, job.kind)

    supervisor = Supervisor(context, kinds, ring)
    thread = threading.Thread(target=_supervise, args=(supervisor,), name="supervisor")

    @celery.task(name=RING)  # type: ignore[untyped-decorator]
    def notified() -> None:
        supervisor.ring_and_wait()

    worker_shutting_down.connect(partial(_drain, supervisor), weak=False)
    thread.start()
    try:
        _receive(celery, supervisor, kinds)
    finally:
        supervisor.stop()
        thread.join()


def _receive(celery: Celery, supervisor: Supervisor, kinds: Sequence[JobKind]) -> None:
    """Receive notifications until the worker shall stop.

    Whatever ends Celery's worker before that, such as a message that nobody understands, the
    supervisor goes on by polling, and another one is started after a while.
    """
    while not supervisor.stopping.is_set():
        with surviving("celery"):
            _celery_worker(celery, supervisor, kinds).start()
            if not supervisor.stopping.is_set():
                raise CeleryEnded("no notifications are received; jobs are found by polling")
        # Not by waiting for the event, whose lock the handler of a signal may need.
        until = time.monotonic() + CELERY_RESTART_SECONDS
        while time.monotonic() < until and not supervisor.stopping.is_set():
            time.sleep(0.1)


def _celery_worker(celery: Celery, supervisor: Supervisor, kinds: Sequence[JobKind]) -> Any:
    return celery.Worker(
        queues=[queue_name(kind) for kind in kinds],
        concurrency=1,
        pool="threads",
        hostname=f"{supervisor.owner.replace(':', '-')}@surgeon",
        loglevel=supervisor.settings.log_level,
        without_gossip=True,
        without_mingle=True,
    )


def _supervise(supervisor: Supervisor) -> None:
    """Run the supervisor, and stop the worker if it dies: whatever started it starts a new one."""
    try:
        supervisor.run()
    finally:
        if not supervisor.stopping.is_set():
            log.critical("the supervisor failed; stopping the worker")
            os.kill(os.getpid(), signal.SIGTERM)


def _drain(supervisor: Supervisor, **_: object) -> None:
    supervisor.stop()


def stop_with_parent(parent: int) -> None:
    """Make this process stop when its parent dies, even by kill -9 (on Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit("the process that started this worker has ended")


def main() -> None:
    """``python -m worker.main [--queues ranking,search] [--parent PID] [--cores N]``."""
    parser = argparse.ArgumentParser(description="A Layer Surgeon worker.")
    parser.add_argument(
        "--queues", default=",".join(WORKER_KINDS), help="kinds of job to run, separated by commas"
    )
    parser.add_argument(
        "--parent", type=int, help="id of a process; the worker stops when that process ends"
    )
    parser.add_argument("--cores", type=int, help="processor cores for its jobs")
    given = parser.parse_args()
    unknown = set(given.queues.split(",")) - set(WORKER_KINDS)
    if unknown:
        parser.error(
            f"unknown queue {', '.join(sorted(unknown))}; there are: {', '.join(WORKER_KINDS)}"
        )
    try:
        settings = settings_from_environment()
    except Misconfigured as error:
        sys.exit(str(error))
    set_up_log(settings.log_level, settings.log_format)
    if given.parent is not None:
        stop_with_parent(given.parent)
    shares = groups(visible_gpus(), settings.gpus_per_worker)
    if len(shares) > 1:
        run_workers(shares, given.queues, given.cores)
        return
    if given.cores and not os.environ.get(THREADS):
        os.environ[THREADS] = str(given.cores)  # inherited by the processes that run its jobs
    try:
        set_up_tracing("worker")
        run_worker(settings, [JobKind(name) for name in given.queues.split(",")], *shares)
    except (Misconfigured, NotMigrated) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
