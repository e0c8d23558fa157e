"""The heartbeat of an attempt. It has its own thread, so that slow storage cannot delay it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any, Self

from sqlalchemy.exc import SQLAlchemyError

from app.db import Database, is_outage
from app.jobs import state_machine
from app.jobs.state_machine import Fenced, Lease
from app.process.restarts import lasting_thread
from app.settings import Settings
from surgery.errors import encodable
from surgery.schemas.answers.usage import Usage

log = logging.getLogger("surgeon.worker")
Json = dict[str, Any]
PROGRESS_SECONDS = 1.0  # between two writes of progress
REASON_CHARACTERS = 300  # of the database's own words in a job's error


class WriteRefused(Exception):
    """The database will never take a write of this attempt. The message has its words."""

    @classmethod
    def by(cls, error: Exception) -> WriteRefused:
        """For this error of the database."""
        words = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        return cls(encodable(words)[:REASON_CHARACTERS])


class Heartbeat:
    """Renews a lease, writes the job's progress, and learns whether the job shall stop."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        lease: Lease,
        claimed_at: float,
        usage: Callable[[], Usage],
    ) -> None:
        self._settings, self._database, self._lease = settings, database, lease
        self._usage = usage
        self._phase: str | None = "starting"
        self._progress: Json | None = None
        self._news = threading.Event()
        self._stop = threading.Event()
        self._fenced = threading.Event()
        self._refused: WriteRefused | None = None
        self.cancel_requested = threading.Event()
        self.pause_requested = threading.Event()
        self._deadline: float | None = None  # of the job, on this process's monotonic clock
        # The time before the request was sent, so never later than the database's own time.
        self._renewed = claimed_at
        # In a copy of this context, so that its messages say which job they are about.
        beat = partial(copy_context().run, self._beat)
        self._thread = lasting_thread("heartbeat", beat, self._stop)

    @contextmanager
    def guard(self, kill: Callable[[], None]) -> Iterator[None]:
        """Call ``kill`` when the lease may be lost soon, unless the block has ended by then.

        A thread of its own does so, by this process's clock, whatever calls of the database or of
        the storage do meanwhile.
        """
        over = threading.Event()

        def watch() -> None:
            while not over.wait(max(0.0, self._fence_at() - time.monotonic())):
                if time.monotonic() >= self._fence_at():
                    self._fenced.set()
                    kill()
                    return

        lasting_thread("fence", watch, over).start()
        try:
            yield
        finally:
            over.set()

    def _fence_at(self) -> float:
        left = self._settings.lease - self._settings.fence_margin
        return self._renewed + left.total_seconds()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._news.set()
        self._thread.join(timeout=self._settings.heartbeat.total_seconds())

    def set_progress(self, phase: str | None, progress: Json | None) -> None:
        """Note the phase and the progress that the next heartbeat writes."""
        self._phase, self._progress = phase, progress
        self._news.set()

    def check(self) -> None:
        """Raise Fenced if the lease is lost, or so close to its end that it may be lost soon.

        Raises WriteRefused, once, if the database will never take what the heartbeat writes.
        """
        if self._refused is not None:
            refused, self._refused = self._refused, None
            raise refused
        if self._fenced.is_set() or time.monotonic() >= self._fence_at():
            raise Fenced

    def is_overdue(self) -> bool:
        """Whether the job's deadline has passed."""
        return self._deadline is not None and time.monotonic() > self._deadline

    def _beat(self) -> None:
        while not self._stop.is_set():
            since = time.monotonic() - self._renewed
            self._news.wait(max(0.0, self._settings.heartbeat.total_seconds() - since))
            if self._stop.wait(max(0.0, PROGRESS_SECONDS - since)):
                return
            self._news.clear()
            self._renew()

    def _renew(self) -> None:
        sent = time.monotonic()
        try:
            renewal = state_machine.renew(
                self._database,
                self._lease,
                self._settings.lease,
                self._phase,
                self._progress,
                self._usage(),
            )
        except Fenced:
            self._fenced.set()
            self._stop.set()
        except SQLAlchemyError as error:
            if not is_outage(error):
                self._refused = WriteRefused.by(error)
                self._stop.set()
                return
            where = {"job_id": self._lease.job_id, "epoch": self._lease.epoch}
            text = "%s: heartbeat failed, trying again: %s"
            log.warning(text, self._lease.job_id, error, extra=where)
            self._stop.wait(PROGRESS_SECONDS)
        else:
            self._renewed = sent
            if renewal.seconds_left is not None:
                self._deadline = time.monotonic() + renewal.seconds_left
            if renewal.cancel_requested:
                self.cancel_requested.set()
            if renewal.pause_requested:
                self.pause_requested.set()
