"""The finished jobs that estimates learn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select

from app.db import Database
from app.db.tables import Job, Status

NEWEST = 50  # finished jobs that are looked at


def newest_finished(database: Database, *where: Any) -> Sequence[Job]:
    """The jobs that succeeded last, by their own computation, of those that ``where`` leaves."""
    done = (Job.status == Status.SUCCEEDED, Job.result_of.is_(None), Job.finished_at.is_not(None))
    query = select(Job).where(*done, *where)
    with database.read() as session:
        return session.scalars(query.order_by(Job.finished_at.desc()).limit(NEWEST)).all()
