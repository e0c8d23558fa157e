"""Writes under a lease: repeated while the database fails for a while, and never for ever."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from app.db import Database, is_outage
from app.jobs.attempts import has_ended_by_worker
from app.jobs.state_machine import Fenced, Lease
from worker.supervisor.attempt.heartbeat import Heartbeat, WriteRefused

Value = TypeVar("Value")
Logger = logging.LoggerAdapter[logging.Logger]
RETRY_SECONDS = 0.5  # between two tries of a write while the database does not answer


class Interrupted(Exception):
    """The job shall stop, and what waits for the database is waited for no longer."""


class LeaseWrites:
    """The writes of one attempt.

    Between two tries ``hear`` is called, which raises Interrupted if the job shall stop.
    ``patience`` is for how many seconds the last write of a job that shall stop is tried.
    """

    def __init__(
        self,
        database: Database,
        lease: Lease,
        heartbeat: Heartbeat,
        hear: Callable[[], None],
        patience: float,
        logger: Logger,
    ) -> None:
        self._database, self._lease, self._heartbeat = database, lease, heartbeat
        self._hear, self._patience, self._log = hear, patience, logger

    def write(self, statement: Callable[[], Value]) -> Value:
        """Repeat a statement until the database takes it.

        Raises WriteRefused if it never will, Fenced if the lease is lost, and Interrupted.
        """
        return self._repeat(statement, self._hear)

    def end(self, statement: Callable[[], Value]) -> Value | None:
        """The same for the write that ends the attempt.

        None if it was carried out by an earlier try, whose reply was lost.
        """
        return self._end(statement, self._hear)

    def end_at_last(self, statement: Callable[[], Value]) -> Value | None:
        """The same, of a job that shall stop anyway. Raises Fenced if it takes too long."""
        until = time.monotonic() + self._patience

        def hear() -> None:
            if time.monotonic() > until:
                raise Fenced

        return self._end(statement, hear)

    def _end(self, statement: Callable[[], Value], hear: Callable[[], None]) -> Value | None:
        try:
            return self._repeat(statement, hear)
        except Fenced:
            if not self._is_over():
                raise
            return None

    def _is_over(self) -> bool:
        """Whether this worker has ended the attempt already, as far as the database tells."""
        try:
            return has_ended_by_worker(self._database, self._lease.job_id, self._lease.epoch)
        except SQLAlchemyError as error:
            self._log.warning("%s: how the attempt ended is not known: %s", self._job, error)
            return False

    @property
    def _job(self) -> str:
        return self._lease.job_id

    def _repeat(self, statement: Callable[[], Value], hear: Callable[[], Any]) -> Value:
        while True:
            try:
                return statement()
            except (UnicodeError, OverflowError) as error:  # a driver has no bytes for a value
                raise WriteRefused.by(error) from error
            except SQLAlchemyError as error:
                if not is_outage(error):
                    raise WriteRefused.by(error) from error
                self._log.warning("%s: a write failed, trying again: %s", self._job, error)
            self._heartbeat.check()
            hear()
            time.sleep(RETRY_SECONDS)
