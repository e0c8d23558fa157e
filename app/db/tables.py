"""The tables of the database.

Only ``app.jobs.state_machine`` changes a job's status.
"""

from __future__ import annotations

import secrets
import time
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    false,
    func,
    literal_column,
    or_,
    select,
    text,
    true,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, mapped_column, relationship

from app.db import Instant

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u

Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
# SQLite numbers rows by itself only if the primary key is an INTEGER.
Serial = BigInteger().with_variant(Integer(), "sqlite")


DEFAULT_PROJECT = "pr_default"
"""The project of a service without keys, and of the keys in its environment."""


def new_id(prefix: str) -> str:
    """A new id such as ``rk_01k9…``; ids of one prefix sort by the time they were made.

    As in a ULID, 48 bits are milliseconds and 80 bits are random.
    """
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    digits = [ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5)]
    return f"{prefix}_{''.join(digits)}"


class Status(StrEnum):
    """The status of a job."""

    QUEUED = "queued"  # waits for a worker, for its first attempt or another one
    RUNNING = "running"  # a worker holds its lease; a comparison's children run
    PAUSED = "paused"  # set aside until somebody resumes it; its state is saved, no worker has it
    SUCCEEDED = "succeeded"  # its result is stored
    FAILED = "failed"  # its error is stored
    CANCELLED = "cancelled"  # stopped because someone asked


TERMINAL = (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)


class JobKind(StrEnum):
    """The kind of a job."""

    RANKING = "ranking"
    FINETUNE = "finetune"
    SEARCH = "search"
    PREDICTION = "prediction"
    EXPORT = "export"
    COMPARISON = "comparison"  # runs as its children; no worker claims it


WORKER_KINDS = (
    *(JobKind.RANKING, JobKind.FINETUNE, JobKind.SEARCH, JobKind.PREDICTION),
    JobKind.EXPORT,
)
"""The kinds that workers claim. Each has a Celery queue."""


class Base(DeclarativeBase):
    """The base class of every table."""

    type_annotation_map = {  # noqa: RUF012
        dict[str, Any]: Json,
        list[Any]: Json,
        datetime: Instant(),
    }


class Project(Base):
    """A tenant: whatever belongs to one project does not exist for the keys of another."""

    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    limits: Mapped[dict[str, Any]]  # the quotas that differ from the service's
    created_at: Mapped[datetime]


class ApiKey(Base):
    """An API key, of which only the hash is kept."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    name: Mapped[str | None] = mapped_column(String(200))
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[list[Any]]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class SigningKey(Base):
    """A random key of this installation, by which it recognises what it has signed itself."""

    __tablename__ = "signing_keys"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    key: Mapped[str] = mapped_column(String(64))  # in hexadecimal digits


class AuditEvent(Base):
    """Who changed something through the API, what, and when."""

    __tablename__ = "audit_events"
    __table_args__ = (
        Index("audit_events_project", "project", "seq"),
        Index("audit_events_age", "at"),
    )

    seq: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    project: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    actor: Mapped[str] = mapped_column(String(200))  # a key's id, or the name of a bootstrap key
    action: Mapped[str] = mapped_column(String(80))
    target: Mapped[str | None] = mapped_column(String(300))
    request_id: Mapped[str | None] = mapped_column(String(100))
    data: Mapped[dict[str, Any]]
    at: Mapped[datetime]


class PastUsage(Base):
    """What jobs had used that were deleted since, summed up by day (UTC)."""

    __tablename__ = "past_usage"

    project: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    day: Mapped[str] = mapped_column(String(10), primary_key=True)  # such as 2026-11-23
    kind: Mapped[str] = mapped_column(String(20), primary_key=True)
    device: Mapped[str] = mapped_column(String(200), primary_key=True)  # empty: jobs are counted
    jobs: Mapped[int] = mapped_column(Integer, default=0)  # that were created on this day
    seconds: Mapped[float] = mapped_column(Float, default=0.0)  # of attempts that began on it


def where(condition: str) -> dict[str, Any]:
    """Options of an index on the rows that meet a condition."""
    return {"postgresql_where": text(condition), "sqlite_where": text(condition)}


def only(status: Status) -> dict[str, Any]:
    """Options of an index on the jobs of one status."""
    return where(f"status = '{status}'")


WAITING = f"(status = '{Status.QUEUED}' OR status = '{Status.PAUSED}')"


class Job(Base):
    """A job of any kind, with its place in the queue."""

    __tablename__ = "jobs"
    # Finished jobs are not in the indexes of queued, running and paused ones, so that claims and
    # sweeps take as long with a million of them as with none. No index has a column that heartbeats
    # write: Postgres then adds nothing to any index with each of them. A change of status adds a
    # row to every index that the job is in, so indexes hold only the jobs that are looked up there.
    __table_args__ = (
        Index("jobs_queue", text("priority DESC"), "queued_at", "id", **only(Status.QUEUED)),
        Index("jobs_running", "project", "id", **only(Status.RUNNING)),
        Index("jobs_paused", "id", **only(Status.PAUSED)),
        Index("jobs_deadline", "deadline_at", **where(f"deadline_at IS NOT NULL AND {WAITING}")),
        # Of equal rankings, only those that were computed: any number may share their result.
        Index("jobs_digest", "project", "digest", **where("result_of IS NULL")),
        Index("jobs_waiting", "waits_for", **where("waits_for IS NOT NULL")),
        Index("jobs_sharing", "result_of", **where("result_of IS NOT NULL")),
        Index("jobs_list", "project", "created_at", "id"),
        Index("jobs_by_status", "project", "status", "created_at", "id"),
        Index("jobs_by_kind", "project", "kind", "created_at", "id"),
        Index("jobs_by_model", "project", "model", "created_at", "id"),
        Index("jobs_by_dataset", "project", "dataset", "created_at", "id"),
        Index("jobs_parent", "parent", "created_at", "id", **where("parent IS NOT NULL")),
        Index("jobs_finished", "finished_at", **where("finished_at IS NOT NULL")),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project: Mapped[str] = mapped_column(
        String(40), default=DEFAULT_PROJECT, server_default=DEFAULT_PROJECT
    )
    kind: Mapped[str] = mapped_column(String(20))
    # Grows with every change of the row, whoever makes it, so that an ETag can be made of it.
    version: Mapped[int] = mapped_column(
        BigInteger, default=1, server_default="1", onupdate=text("version + 1")
    )
    name: Mapped[str | None] = mapped_column(String(200))
    labels: Mapped[dict[str, Any]]  # the caller's metadata
    priority: Mapped[int] = mapped_column(Integer, default=0)
    model: Mapped[str] = mapped_column(String(300))
    dataset: Mapped[str] = mapped_column(String(300))
    digest: Mapped[str] = mapped_column(String(80))
    parent: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    waits_for: Mapped[str | None] = mapped_column(String(40))  # what must end first
    retry_of: Mapped[str | None] = mapped_column(String(40))  # the job that this one repeats
    request_id: Mapped[str | None] = mapped_column(String(100))  # of the request that submitted it
    deadline_seconds: Mapped[int | None] = mapped_column(Integer)  # since it was accepted
    deadline_at: Mapped[datetime | None]  # when they have passed

    status: Mapped[str] = mapped_column(String(20))
    phase: Mapped[str | None] = mapped_column(String(40))
    progress: Mapped[dict[str, Any] | None]
    crashes: Mapped[int] = mapped_column(Integer, default=0)
    max_attempts: Mapped[int] = mapped_column(Integer)
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    pause_requested: Mapped[bool] = mapped_column(default=False, server_default=false())
    traceparent: Mapped[str | None] = mapped_column(String(55))  # of the request, W3C Trace Context

    lease_epoch: Mapped[int] = mapped_column(Integer, default=0)
    lease_owner: Mapped[str | None] = mapped_column(String(200))
    lease_expires_at: Mapped[datetime | None]
    not_before: Mapped[datetime | None]  # the earliest time of the next attempt
    rung_at: Mapped[datetime | None]  # when workers were last told that it waits

    spec: Mapped[dict[str, Any]]
    resolved: Mapped[dict[str, Any]]
    own_result: Mapped[dict[str, Any] | None] = mapped_column("result", Json)
    result_of: Mapped[str | None] = mapped_column(String(40))  # the equal ranking that was computed
    error: Mapped[dict[str, Any] | None]
    usage: Mapped[dict[str, Any] | None]  # what its attempts have used so far
    stored_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    warnings: Mapped[list[Any]] = mapped_column(default=list, server_default=text("'[]'"))
    # Every change of status, oldest first, as answers show them; job_events has them too.
    transitions: Mapped[list[Any]] = mapped_column(default=list, server_default=text("'[]'"))
    state: Mapped[dict[str, Any] | None]  # where an interrupted job resumes: path and step

    created_at: Mapped[datetime]
    queued_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    updated_at: Mapped[datetime]
    heartbeat_at: Mapped[datetime | None]

    origin: Mapped[Job | None] = relationship(
        primaryjoin="foreign(Job.result_of) == remote(Job.id)",
        viewonly=True,
        lazy="selectin",  # costs a query only where a job has the result of another
        join_depth=1,
    )

    @hybrid_property
    def result(self) -> dict[str, Any] | None:
        """The job's result, which may be stored once for many equal rankings."""
        return (
            self.own_result
            if self.result_of is None or self.origin is None
            else self.origin.own_result
        )

    @result.inplace.setter
    def _store_result(self, result: dict[str, Any] | None) -> None:
        self.own_result = result

    @result.inplace.expression
    @classmethod
    def _select_result(cls) -> ColumnElement[dict[str, Any] | None]:
        other = aliased(cls)
        shared = select(other.own_result).where(other.id == cls.result_of).correlate(cls)
        return func.coalesce(cls.own_result, shared.scalar_subquery(), type_=Json)


def has_status(job: type[Job], *statuses: Status) -> ColumnElement[bool]:
    """Whether a job has one of these statuses.

    Only literals let a database use the index of one status, and they save the time that it takes
    to spread a list over parameters.
    """
    return or_(*(job.status == literal_column(f"'{status}'") for status in statuses))


class GivenRows(Base):
    """The rows that a prediction is asked for: a user's data, in no answer and in no list."""

    __tablename__ = "given_rows"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    rows: Mapped[list[Any]]


class ExportFolder(Base):
    """A folder of the object store that an export has written, or is about to, under a name.

    It goes with the job in its row: the last one that exported this content to this name. Without
    one it is to be removed.
    """

    __tablename__ = "export_folders"

    project: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    digest: Mapped[str] = mapped_column(String(80))  # of the content
    bytes: Mapped[int] = mapped_column(BigInteger)
    complete: Mapped[bool] = mapped_column(default=False)  # whether the folder is there

    @property
    def path(self) -> str:
        """The folder's key in the object store."""
        return f"exports/{self.project}/{self.name}"


class JobLabel(Base):
    """One of a job's labels, so that a list filtered by it reads no other jobs.

    Triggers keep this table as ``jobs.labels`` is. Its key is the order of such a list.
    """

    __tablename__ = "job_labels"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012

    project: Mapped[str] = mapped_column(String(40), primary_key=True)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(512), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(primary_key=True)  # the job's
    job_id: Mapped[str] = mapped_column(String(40), primary_key=True)


class Attempt(Base):
    """One attempt at a job: who made it, how it ended, what it used, and where its log is."""

    __tablename__ = "job_attempts"
    __table_args__ = (
        Index("job_attempts_started", "started_at"),
        Index("job_attempts_ended", "ended_at"),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    epoch: Mapped[int] = mapped_column(Integer, primary_key=True)  # of its lease
    worker: Mapped[str] = mapped_column(String(200))
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None] = mapped_column(String(40))
    error: Mapped[dict[str, Any] | None]
    usage: Mapped[dict[str, Any] | None]
    log_path: Mapped[str | None] = mapped_column(Text)
    log_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    log_closed: Mapped[bool] = mapped_column(default=False, server_default=false())


class Worker(Base):
    """A worker process, what it can run, and when it was last heard of."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(200), primary_key=True)  # as in a lease's owner
    kinds: Mapped[list[Any]]  # the kinds of jobs that it claims
    devices: Mapped[list[Any]]
    precisions: Mapped[list[Any]]
    exports: Mapped[list[Any]] = mapped_column(default=list, server_default=text("'[]'"))
    max_processes: Mapped[int] = mapped_column(Integer)
    version: Mapped[str] = mapped_column(String(40))
    job: Mapped[str | None] = mapped_column(String(40))  # the one that it runs now
    started_at: Mapped[datetime]
    heartbeat_at: Mapped[datetime]
    stopped_at: Mapped[datetime | None]
    probe_key: Mapped[str] = mapped_column(String(500), server_default="")
    probe: Mapped[dict[str, Any] | None]  # how fast its device trains, as it measured
    probed_at: Mapped[datetime | None]
    # How often each of its threads has died, since it started.
    restarts: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default=text("'{}'"))


class JobEvent(Base):
    """Something that happened to a job, written in the same transaction as the change.

    A job's events become visible in the order of their numbers: SQLite has one writer at a time,
    and on Postgres a trigger gives the number after it has locked the job's row.
    """

    __tablename__ = "job_events"
    __table_args__ = (Index("job_events_job", "job_id", "seq"),)

    seq: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    lease_epoch: Mapped[int] = mapped_column(Integer)
    type: Mapped[str] = mapped_column(String(40))
    data: Mapped[dict[str, Any]]
    at: Mapped[datetime]


class Metric(Base):
    """One number measured at one step. An attempt that repeats the step overwrites it."""

    __tablename__ = "metrics"
    __table_args__ = (Index("metrics_tail", "job_id", "seq"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    step: Mapped[int] = mapped_column(Integer, primary_key=True)
    # Numbers a job's measurements in the order in which they were last written.
    seq: Mapped[int] = mapped_column(BigInteger, server_default="0")
    epoch: Mapped[float]
    value: Mapped[float | None]
    at: Mapped[datetime]


class Checkpoint(Base):
    """A complete checkpoint. Its files are found through this row only."""

    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("job_id", "step"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    lease_epoch: Mapped[int] = mapped_column(Integer)
    step: Mapped[int] = mapped_column(Integer)
    epoch: Mapped[float]
    form: Mapped[str] = mapped_column(String(20))
    is_best: Mapped[bool]
    pinned: Mapped[bool] = mapped_column(default=False, server_default=false())
    metrics: Mapped[dict[str, Any]]
    files: Mapped[dict[str, Any]]  # file name → bytes and sha256
    bytes: Mapped[int] = mapped_column(BigInteger)
    path: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]


class Dataset(Base):
    """An uploaded dataset, identified within its project by its content."""

    __tablename__ = "datasets"
    __table_args__ = (
        UniqueConstraint("project", "fingerprint"),
        Index("datasets_list", "project", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project: Mapped[str] = mapped_column(
        String(40), default=DEFAULT_PROJECT, server_default=DEFAULT_PROJECT
    )
    version: Mapped[int] = mapped_column(
        BigInteger, default=1, server_default="1", onupdate=text("version + 1")
    )
    name: Mapped[str | None] = mapped_column(String(200))
    fingerprint: Mapped[str] = mapped_column(String(80))
    report: Mapped[dict[str, Any]]
    path: Mapped[str] = mapped_column(Text)
    bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    created_at: Mapped[datetime]


class IdempotencyKey(Base):
    """The answer to the first request with an idempotency key; kept for a day.

    Without a status the first request is still in progress.
    """

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("idempotency_keys_created", "created_at"),)

    project: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request_sha256: Mapped[str] = mapped_column(String(64))
    holder: Mapped[str] = mapped_column(String(32))  # the request that took it
    held_until: Mapped[datetime | None]  # without a status: when others may take it
    status: Mapped[int | None] = mapped_column(Integer)
    headers: Mapped[dict[str, Any] | None]
    body: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]


class Webhook(Base):
    """An address that is told of what happens to a project's jobs."""

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    version: Mapped[int] = mapped_column(
        BigInteger, default=1, server_default="1", onupdate=text("version + 1")
    )
    url: Mapped[str] = mapped_column(Text)
    events: Mapped[list[Any]]  # the types of events that it is told of
    description: Mapped[str | None] = mapped_column(String(200))
    secret: Mapped[str] = mapped_column(String(100))
    old_secret: Mapped[str | None] = mapped_column(String(100))  # signs too, while it is replaced
    old_secret_expires_at: Mapped[datetime | None]
    enabled: Mapped[bool] = mapped_column(default=True, server_default=true())
    disabled_reason: Mapped[str | None] = mapped_column(String(200))
    failures: Mapped[int] = mapped_column(Integer, default=0, server_default="0")  # in a row
    created_at: Mapped[datetime]


class WebhookDelivery(Base):
    """One event for one webhook, inserted in the transaction of the event itself."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index("webhook_deliveries_due", "status", "next_at"),
        Index("webhook_deliveries_list", "webhook", "created_at", "id"),
        Index("webhook_deliveries_age", "created_at"),
        Index("webhook_deliveries_ended", "ended_at"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)  # sent as webhook-id
    webhook: Mapped[str] = mapped_column(ForeignKey("webhooks.id"))
    type: Mapped[str] = mapped_column(String(80))
    job_id: Mapped[str | None] = mapped_column(String(40))
    body: Mapped[str] = mapped_column(Text)  # as it is sent, since it is signed
    status: Mapped[str] = mapped_column(String(20))  # pending, delivered, failed
    attempts: Mapped[list[Any]]  # when each was made and what it was answered
    tries: Mapped[int] = mapped_column(Integer, default=0)  # begun since it was due first
    next_at: Mapped[datetime | None]
    retry_until: Mapped[datetime]
    created_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]  # when it was delivered or given up
