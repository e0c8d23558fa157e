"""Periodic repairs that every worker makes.

The sweeper takes jobs back from lost workers, takes the next step of comparisons and of jobs that
waited for a ranking where it was left undone, notifies workers of waiting jobs, and removes files
that no row of the database names.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from app.access.audit import forget_old_changes
from app.artifacts.machine import remove_unused
from app.artifacts.storage import Storage
from app.db import Database
from app.db.tables import Job
from app.jobs import state_machine
from app.jobs.outputs.exports import disown_abandoned_folders, remove_folders
from app.jobs.outputs.records import referenced_paths, unknown_jobs
from app.jobs.queue import unannounced_jobs
from app.jobs.webhooks.deliveries import forget_old
from app.process.restarts import lasting_thread, surviving
from app.settings import Settings
from app.submissions.fleet import forget_workers
from app.submissions.idempotency import forget_old_keys
from surgery.io.folders import remove_older
from worker.supervisor.environments import WorkerFolders

log = logging.getLogger("surgeon.sweeper")
GARBAGE_EVERY_SECONDS = 3600.0
GARBAGE_AGE_SECONDS = 24 * 3600.0  # an attempt names its files in a row much sooner
# Where the folders are that a row should name by now, and how many levels below: checkpoints,
# states and logs (jobs/ft_…/2/checkpoint-90), and datasets.
NAMED_BY_ROWS = {"jobs": 3, "datasets": 1}


class Sweeper:
    """A thread of each worker. Any number of sweepers may run at the same time.

    ``ring`` notifies the workers of a waiting job; it is None where workers poll the database.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        storage: Storage,
        folders: WorkerFolders,
        ring: Callable[[Job], Any] | None,
    ) -> None:
        self._settings, self._database, self._storage = settings, database, storage
        self._folders, self._ring = folders, ring
        self._stop = threading.Event()
        self._thread = lasting_thread("sweeper", self._loop, self._stop)
        self._collected = float("-inf")  # never yet

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop when the current sweep is done."""
        self._stop.set()
        self._thread.join(timeout=5)

    def _loop(self) -> None:
        while not self._stop.wait(self._settings.sweep.total_seconds()):
            self.sweep()

    def sweep(self) -> None:
        """Make every repair once. One that fails is tried again by the next sweep."""
        for repair in (
            self._end_lost_and_overdue,
            lambda: state_machine.settle_waiting(self._database),
            lambda: state_machine.advance_comparisons(self._database),
            self._announce,
            self._tidy,
        ):
            with surviving("sweeper", SQLAlchemyError, OSError):
                repair()

    def _end_lost_and_overdue(self) -> None:
        for job_id in state_machine.reap(self._database, self._settings.retry_backoff):
            log.warning("%s: taken back from a worker that was lost", job_id)
        for job_id in state_machine.end_overdue(self._database):
            log.info("%s: its deadline has passed", job_id)

    def _announce(self) -> None:
        """Ring for the jobs that have waited for a while."""
        if self._ring is not None:
            for job in unannounced_jobs(self._database):
                self._ring(job)

    def _tidy(self) -> None:
        if time.monotonic() - self._collected > GARBAGE_EVERY_SECONDS:
            self._collected = time.monotonic()
            forget_workers(self._database)
            self.collect_garbage()

    def collect_garbage(self) -> None:
        """Remove what nobody needs: old rows of logs, files that no row names, unused caches.

        One of these that fails is tried again by the next collection.
        """
        for remove in (self._forget_rows, self._collect_artifacts, self._tidy_machine):
            with surviving("sweeper", SQLAlchemyError, OSError):
                remove()

    def _forget_rows(self) -> None:
        forget_old(self._database)
        forget_old_keys(self._database)
        forget_old_changes(self._database, self._settings.audit_days)

    def _collect_artifacts(self) -> None:
        named = referenced_paths(self._database)
        for prefix, depth in NAMED_BY_ROWS.items():
            for path in self._storage.stale_folders(prefix, depth, GARBAGE_AGE_SECONDS):
                if path not in named:
                    log.info("removing %s: no row of the database names it", path)
                    self._storage.delete(path)
        disown_abandoned_folders(self._database)
        remove_folders(self._database, self._storage.delete)
        event_files = self._storage.stale_folders("logs", 2, GARBAGE_AGE_SECONDS)
        deleted = unknown_jobs(self._database, {path.split("/")[1] for path in event_files})
        for path in event_files:
            if path.split("/")[1] in deleted:
                log.info("removing %s: its job was deleted", path)
                self._storage.delete(path)
        self._storage.remove_unfinished(GARBAGE_AGE_SECONDS)

    def _tidy_machine(self) -> None:
        self._storage.sweep_fetched()
        self._folders.mark_used()
        for folder in (self._folders.scratch, self._folders.inputs):
            remove_older(folder.parent, GARBAGE_AGE_SECONDS)
        remove_unused(self._settings)
