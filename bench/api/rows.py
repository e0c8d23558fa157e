"""Fills a database with finished jobs, and with a short queue."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import text

from app.api.examples.answers import FINETUNE, RANKING
from app.db import Database
from app.db.tables import WORKER_KINDS, Job, JobKind, new_id
from app.jobs import state_machine
from surgery.schemas.resolved import Learned

QUEUED = 20
LEASE = timedelta(hours=1)
EXAMPLES: dict[JobKind, dict[str, Any]] = {JobKind.RANKING: RANKING, JobKind.FINETUNE: FINETUNE}

BATCH = 20_000  # jobs that one statement inserts
# Every column as the template has it, but for those that tell jobs apart. They are inserted in the
# order of their age, as a service would have.
COPY = """
INSERT INTO jobs ({columns}) SELECT {values}
FROM generate_series(CAST(:first AS integer), CAST(:last AS integer)) AS number
JOIN jobs AS template ON template.id = CASE WHEN number % 4 = 0 THEN :finetune ELSE :ranking END
ORDER BY number
"""
DIFFERENT = {
    "id": "left(template.id, 3) || 'seeded' || lpad(number::text, 12, '0')",
    "created_at": "template.created_at - (:count - number + 1) * interval '1 second'",
    "status": "CASE number % 50 WHEN 7 THEN 'failed' WHEN 8 THEN 'cancelled' ELSE 'succeeded' END",
    "model": "'owner/model-' || (number % 40)",
    "labels": "jsonb_build_object('team', 'team-' || (number % 40))",
}


LENGTHEN = """
INSERT INTO jobs ({columns}) SELECT {values}
FROM generate_series(1, :count) AS number JOIN jobs AS template ON template.id = :template
"""
QUEUED_DIFFERENT = {
    "id": "left(template.id, 3) || 'queued' || lpad(number::text, 12, '0')",
    "created_at": "template.created_at + number * interval '1 millisecond'",
    "queued_at": "template.queued_at + number * interval '1 millisecond'",
}


def lengthen(database: Database, queued: str, count: int) -> str:
    """Add so many jobs to the queue, all like the one with this id; the id of the last one."""
    names = [column.name for column in Job.__table__.columns]
    values = [QUEUED_DIFFERENT.get(name, f"template.{name}") for name in names]
    statement = LENGTHEN.format(columns=", ".join(names), values=", ".join(values))
    with database.write() as session:
        session.execute(text(statement), {"count": count, "template": queued})
    with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("VACUUM ANALYZE jobs"))
    return f"{queued[:3]}queued{count:012d}"


def finished(database: Database, kind: JobKind) -> str:
    """One job that went through the state machine and has a result of a usual size."""
    example = EXAMPLES[kind]
    job = Job(
        id=new_id({JobKind.RANKING: "rk", JobKind.FINETUNE: "ft"}[kind]), kind=kind, labels={},
        model="m", dataset="d", digest="x", max_attempts=3, spec=example["spec"],
        resolved=example["resolved"],
    )  # fmt: skip
    with database.write() as session:
        state_machine.enqueue(session, job)
    claimed = state_machine.claim(database, "bench", WORKER_KINDS, LEASE)
    assert claimed is not None
    state_machine.finish(database, claimed[0], example["result"], Learned())
    return job.id


def fill(database: Database, count: int) -> tuple[str, list[str]]:
    """So many finished jobs and a queue; the ids of a finished job, and of the queue in its order.

    Half of the seeded jobs are older than the one that is read, so that nothing stands at an end.
    """
    templates = {str(kind): finished(database, kind) for kind in EXAMPLES}
    names = [column.name for column in Job.__table__.columns]
    values = [DIFFERENT.get(name, f"template.{name}") for name in names]
    statement = COPY.format(columns=", ".join(names), values=", ".join(values))
    for first in range(1, count + 1, BATCH):  # no statement may take longer than ten seconds
        part = {"first": first, "last": min(first + BATCH - 1, count), "count": count}
        with database.write() as session:
            session.execute(text(statement), {**part, **templates})
    queue = []
    with database.write() as session:
        for _ in range(QUEUED):
            job = Job(
                id=new_id("rk"), kind=JobKind.RANKING, labels={}, model="m", dataset="d",
                digest="x", max_attempts=3, spec=RANKING["spec"], resolved=RANKING["resolved"],
            )  # fmt: skip
            state_machine.enqueue(session, job)
            queue.append(job.id)
    with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("VACUUM ANALYZE jobs"))
    return f"rk_seeded{count // 4 * 2 + 1:012d}", queue
