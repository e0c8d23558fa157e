"""Reads what changed about the jobs that are followed: one query for all of them together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, FromClause, Row, Text, bindparam, cast, func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from app.api.answers.job_documents import document, select_jobs
from app.db import Database
from app.db.tables import TERMINAL, Job, JobEvent, Status
from surgery.schemas.answers.records import EventView

EVENTS_A_READ = 2000  # more are read in further transactions
NEVER = -1  # the version that a job has never had
SHOWN = ("status", "phase", "progress")
EVENT = (JobEvent.seq, JobEvent.type, JobEvent.data, JobEvent.at)


@dataclass(frozen=True)
class JobState:
    """What followers see of a job beside its events."""

    version: int
    status: str
    phase: str | None
    progress: dict[str, Any] | None  # of a running job

    @property
    def terminal(self) -> bool:
        """Whether the job has ended."""
        return self.status in TERMINAL


@dataclass(frozen=True)
class Cursor:
    """What is known of a job already."""

    version: int = NEVER
    seq: int | None = None  # of its newest event; None: read only which one that is


@dataclass(frozen=True)
class StoredEvent:
    """An event as it is sent: its number, its type and the JSON of the whole of it."""

    seq: int
    type: str
    json: str


@dataclass(frozen=True)
class Changes:
    """What is new about some jobs. ``events`` are in the order of their numbers."""

    states: Mapping[str, JobState | None]  # None: there is no such job (any more)
    newest: Mapping[str, int]  # the number of the newest event of each of these jobs
    events: Sequence[tuple[str, StoredEvent]]  # with the id of the job
    complete: bool  # whether no event was left out


def read_changes(database: Database, cursors: Mapping[str, Cursor]) -> Changes:
    """What is new about these jobs.

    The rows are read before the events, so that whoever sees that a job has ended sees every event
    up to its end.
    """
    with database.read() as session:
        states, newest = _read_states(session, {key: each.version for key, each in cursors.items()})
        seqs = {key: each.seq for key, each in cursors.items() if each.seq is not None}
        events = _read_events(session, seqs) if seqs else []
    return Changes(states, newest, events, complete=len(events) < EVENTS_A_READ)


def _read_states(
    session: Session, versions: Mapping[str, int]
) -> tuple[dict[str, JobState | None], dict[str, int]]:
    known = _pairs(session)
    newest = select(func.max(JobEvent.seq)).where(JobEvent.job_id == Job.id).scalar_subquery()
    rows = session.execute(
        select_jobs(SHOWN, known.c.key, newest.label("newest"), Job.id, Job.version)
        .select_from(known)
        .outerjoin(Job, Job.id == known.c.key)
        .where(Job.id.is_(None) | (Job.version != cast(known.c.value, BigInteger))),
        {"pairs": json.dumps(versions)},
    ).all()
    states = {row.key: _state(row) for row in rows}
    return states, {row.key: row.newest or 0 for row in rows}


def _state(row: Row[Any]) -> JobState | None:
    if row.id is None:
        return None
    shown = document(row, SHOWN)
    progress = shown["progress"] if row.status == Status.RUNNING else None
    return JobState(row.version, row.status, row.phase, progress)


def _read_events(session: Session, seqs: Mapping[str, int]) -> list[tuple[str, StoredEvent]]:
    known = _pairs(session)
    rows = session.execute(
        select(JobEvent.job_id, *EVENT)
        .select_from(known)
        .join(JobEvent, JobEvent.job_id == known.c.key)
        .where(JobEvent.seq > cast(known.c.value, BigInteger))
        .order_by(JobEvent.seq)
        .limit(EVENTS_A_READ),
        {"pairs": json.dumps(seqs)},
    )
    return [(row.job_id, stored_event(row)) for row in rows]


def _pairs(session: Session) -> FromClause:
    """A table of keys and values from one JSON object, so that the statement stays the same."""
    given = bindparam("pairs", type_=Text())
    if session.get_bind().dialect.name == "sqlite":
        return func.json_each(given).table_valued("key", "value", name="known")
    return func.jsonb_each_text(cast(given, JSONB)).table_valued("key", "value", name="known")


def stored_event(row: Any) -> StoredEvent:
    """An event as it is sent; its JSON is that of a page."""
    view = EventView.model_validate(row, from_attributes=True)
    return StoredEvent(view.seq, view.type, view.model_dump_json())


def read_events_after(database: Database, job_id: str, seq: int, limit: int) -> list[StoredEvent]:
    """The next events of one job."""
    query = select(*EVENT).where(JobEvent.job_id == job_id, JobEvent.seq > seq)
    with database.read() as session:
        rows = session.execute(query.order_by(JobEvent.seq).limit(limit)).all()
    return [stored_event(row) for row in rows]
