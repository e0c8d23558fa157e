"""Jobs in a database as workers see them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from app.db import Database
from app.db.tables import WORKER_KINDS, Job, JobEvent, JobKind, new_id
from app.jobs import state_machine
from app.jobs.state_machine import Lease, enqueue

LEASE = timedelta(seconds=60)
PREFIX = {JobKind.RANKING: "rk", JobKind.FINETUNE: "ft"}
RESOLVED: dict[str, Any] = {
    "model": {"id": "m", "revision": None, "fingerprint": "sha256:m"},
    "dataset": {
        "id": "d", "revision": None, "fingerprint": "sha256:d", "rows": {"train": 8},
        "problem": "classification",
    },
    "digest": "x",
}  # fmt: skip
"""What any job remembers."""


def insert_jobs(database: Database, count: int, **values: Any) -> list[str]:
    """So many queued jobs of both kinds, made as fast as can be; their ids, oldest first."""
    ids = []
    with database.write() as session:
        for number in range(count):
            kind = JobKind.RANKING if number % 3 else JobKind.FINETUNE
            fields = {"labels": {}, "model": "m", "dataset": "d", "digest": "x", **values}
            job = Job(
                id=new_id(PREFIX[kind]),
                kind=kind,
                spec={},
                max_attempts=1,
                resolved=RESOLVED,
                **fields,
            )
            enqueue(session, job)
            ids.append(job.id)
    return ids


def submit(database: Database, kind: JobKind = JobKind.RANKING, **values: object) -> str:
    """Queue a job that nobody asked for."""
    fields = {"labels": {}, "model": "m", "dataset": "d", "digest": "x", "max_attempts": 3,
              "spec": {}, "resolved": {}}  # fmt: skip
    prefix = {JobKind.RANKING: "rk", JobKind.FINETUNE: "ft"}[kind]
    job = Job(id=new_id(prefix), kind=kind, **{**fields, **values})
    with database.write() as session:
        enqueue(session, job)
    return job.id


def submit_many(database: Database, count: int, **values: object) -> list[str]:
    """Queue so many fine-tunes at once; their ids."""
    fields = {"labels": {}, "model": "m", "dataset": "d", "digest": "x", **values}
    jobs = [Job(id=new_id("ft"), kind=JobKind.FINETUNE, **fields) for _ in range(count)]
    with database.write() as session:
        for job in jobs:
            enqueue(session, job)
    return [job.id for job in jobs]


def take(database: Database, lease: timedelta = LEASE) -> Lease:
    """Claim the next job, whatever its kind."""
    claimed = state_machine.claim(database, "worker", WORKER_KINDS, lease)
    assert claimed is not None
    return claimed[0]


def look(database: Database, job_id: str) -> Job:
    """The row as it is now."""
    with database.read() as session:
        job = session.get(Job, job_id)
    assert job is not None
    return job


def statuses(database: Database, job_id: str) -> list[str]:
    """Every status that a job had, from the first."""
    with database.read() as session:
        events = session.query(JobEvent).filter_by(job_id=job_id, type="status")
        return [event.data["status"] for event in events.order_by(JobEvent.seq)]
