"""The registry of workers: what each can run, and when it was last heard of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, select, update

from app.db import Database, db_now
from app.tables import Worker

Json = dict[str, Any]
KEPT = timedelta(days=7)
"""Workers that were not heard of for longer are forgotten."""


@dataclass(frozen=True)
class WorkerFacts:
    """What a worker says about itself."""

    id: str
    kinds: list[str]
    devices: list[Json]  # name, and memory_bytes
    precisions: list[str]  # number formats in which the devices multiply
    max_processes: int
    version: str


def register(database: Database, facts: WorkerFacts) -> None:
    """Enter a worker that starts, over one that had the same name."""
    with database.write() as session:
        row = session.get(Worker, facts.id) or Worker(id=facts.id)
        for name, value in asdict(facts).items():
            setattr(row, name, value)
        row.job = row.stopped_at = None
        row.started_at = row.heartbeat_at = db_now()
        session.add(row)


def beat(database: Database, worker: str, job: str | None) -> bool:
    """Note that a worker is alive and which job it runs; False if it is not registered."""
    with database.write() as session:
        changed = update(Worker).where(Worker.id == worker).values(heartbeat_at=db_now(), job=job)
        return session.scalar(changed.returning(Worker.id)) is not None


def mark_stopped(database: Database, worker: str) -> None:
    """Note that a worker has ended as it should."""
    with database.write() as session:
        ended = {"heartbeat_at": db_now(), "stopped_at": db_now(), "job": None}
        session.execute(update(Worker).where(Worker.id == worker).values(**ended))


def forget_workers(database: Database) -> None:
    """Remove the workers that were not heard of for a long time."""
    old = Worker.heartbeat_at < db_now(-KEPT.total_seconds())
    with database.read() as session:
        if session.scalar(select(Worker.id).where(old).limit(1)) is None:
            return
    with database.write() as session:
        session.execute(delete(Worker).where(old))


def is_alive(lease: timedelta) -> ColumnElement[bool]:
    """Whether a worker was heard of within the time of a lease, by the database's clock."""
    heard = Worker.heartbeat_at > db_now(-lease.total_seconds())
    return and_(Worker.stopped_at.is_(None), heard)


def heard_within(
    database: Database, age: timedelta, lease: timedelta
) -> Sequence[tuple[Worker, bool]]:
    """The workers that were heard of within this time, newest first, and whether they are alive."""
    recent = Worker.heartbeat_at > db_now(-age.total_seconds())
    query = select(Worker, is_alive(lease)).where(recent)
    with database.read() as session:
        rows = session.execute(query.order_by(Worker.started_at.desc(), Worker.id.desc()))
        return [(row, alive) for row, alive in rows]
