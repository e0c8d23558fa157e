"""Numbers about all jobs, attempts, workers and webhooks, read from the database for /metrics.

What stands in the database now is counted as it is: few rows, by an index. What has happened is
added up from one look to the next, by when it happened, so that no look counts a million old rows.
These sums begin with the process, as counters of Prometheus do.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.db import Database, db_now
from app.db.tables import TERMINAL, Attempt, Job, Status, WebhookDelivery, Worker, has_status
from surgery.schemas.answers.usage import Usage

FRESH_SECONDS = 5.0  # numbers this old are answered again
LATE = timedelta(seconds=5)  # by which a transaction may be committed after the time it notes
WAIT_BUCKETS = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400)


@dataclass
class Sums:
    """What has happened since this process began."""

    jobs: Counter[tuple[str, str]] = field(default_factory=Counter)  # ended, by kind and status
    attempts: Counter[str] = field(default_factory=Counter)  # ended, by outcome
    device_seconds: Counter[str] = field(default_factory=Counter)  # of attempts that ended
    deliveries: Counter[str] = field(default_factory=Counter)  # ended, by status
    restarts: Counter[str] = field(default_factory=Counter)  # of workers' threads, by part
    waits: Counter[int] = field(default_factory=Counter)  # first attempts, by bucket of their wait
    wait_seconds: float = 0.0


@dataclass(frozen=True)
class Now:
    """What stands in the database now."""

    jobs: dict[tuple[str, str], int]  # not ended, by kind and status
    oldest_seconds: dict[str, float]  # the longest wait in the queue, by kind
    workers: dict[str, int]  # alive, busy or idle
    deliveries: int  # pending


class Statistics:
    """Reads the numbers; any number of threads may ask."""

    def __init__(self, database: Database, lease: timedelta) -> None:
        self._database, self._lease = database, lease
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._summed: datetime | None = None  # until when, by the database's clock
        self._read_at = float("-inf")
        self._now: Now | None = None
        self._restarts: dict[tuple[str, datetime, str], int] | None = None  # as last read
        self.sums = Sums()

    def read(self) -> tuple[Now, Sums]:
        """The numbers, at most some seconds old. Raises SQLAlchemyError."""
        with self._lock:
            if self._now is None or time.monotonic() - self._read_at > FRESH_SECONDS:
                with self._database.read() as session:
                    self._now = self._look(session)
                self._read_at = time.monotonic()
            return self._now, self.sums

    def _look(self, session: Session) -> Now:
        clock = session.scalar(select(db_now()))
        assert clock is not None
        since = self._summed
        if since is None:
            since = clock - timedelta(seconds=time.monotonic() - self._began)
        until = clock - LATE
        if until > since:
            self._add(session, since, until)
            self._summed = until
        self._add_restarts(session)
        return Now(
            *_unfinished_jobs(session, clock),
            workers=_workers(session, clock - self._lease),
            deliveries=_count(session, WebhookDelivery.status == "pending"),
        )

    def _add(self, session: Session, since: datetime, until: datetime) -> None:
        """Add what happened in this time. The sums change together, or not at all on an error."""

        def within(moment: InstrumentedAttribute[Any]) -> ColumnElement[bool]:
            return (moment > since) & (moment <= until)

        ended = (Job.kind, Job.status)
        jobs = session.execute(
            select(*ended, func.count()).where(within(Job.finished_at)).group_by(*ended)
        ).all()
        attempts = session.execute(
            select(Attempt.outcome, Attempt.usage).where(within(Attempt.ended_at))
        ).all()
        first = (Attempt.epoch == 1) & within(Attempt.started_at)
        waits = session.execute(
            select(Attempt.started_at, Job.queued_at)
            .join(Job, Job.id == Attempt.job_id)
            .where(first)
        ).all()
        delivered = WebhookDelivery.status
        deliveries = session.execute(
            select(delivered, func.count())
            .where(within(WebhookDelivery.ended_at))
            .group_by(delivered)
        ).all()
        for kind, status, count in jobs:
            self.sums.jobs[kind, status] += count
        for outcome, usage in attempts:
            self.sums.attempts[outcome] += 1
            for device, seconds in Usage.of(usage).worker_seconds.items():
                self.sums.device_seconds[device] += seconds  # type: ignore[assignment]  # a float
        for status, count in deliveries:
            self.sums.deliveries[status] += count
        self._add_waits((started - queued).total_seconds() for started, queued in waits)

    def _add_restarts(self, session: Session) -> None:
        """Add how often workers' threads have died since the last look, or since the first."""
        rows = session.execute(select(Worker.id, Worker.started_at, Worker.restarts)).all()
        counts = {
            (row.id, row.started_at, part): count
            for row in rows
            for part, count in row.restarts.items()
        }
        before = counts if self._restarts is None else self._restarts
        for worker, count in counts.items():
            self.sums.restarts[worker[2]] += max(0, count - before.get(worker, 0))
        self._restarts = counts

    def _add_waits(self, waits: Iterable[float]) -> None:
        for wait in waits:
            self.sums.waits[bisect_left(WAIT_BUCKETS, wait)] += 1
            self.sums.wait_seconds += max(0.0, wait)


def _unfinished_jobs(
    session: Session, clock: datetime
) -> tuple[dict[tuple[str, str], int], dict[str, float]]:
    rows: list[Any] = []
    for status in Status:
        if status not in TERMINAL:  # each by the index of its status
            of_kind = (Job.kind, Job.status, func.count(), func.min(Job.queued_at))
            query = select(*of_kind).where(has_status(Job, status)).group_by(Job.kind, Job.status)
            rows += session.execute(query).all()
    jobs = {(kind, status): count for kind, status, count, _ in rows}
    oldest = {
        kind: (clock - queued).total_seconds()
        for kind, status, _, queued in rows
        if status == Status.QUEUED
    }
    return jobs, oldest


def _workers(session: Session, since: datetime) -> dict[str, int]:
    alive = Worker.stopped_at.is_(None) & (Worker.heartbeat_at > since)
    busy = func.count(Worker.job)
    every, working = session.execute(select(func.count(), busy).where(alive)).one()
    return {"busy": working, "idle": every - working}


def _count(session: Session, condition: ColumnElement[bool]) -> int:
    return session.scalar(select(func.count()).where(condition)) or 0
