"""The rows of the database, and identifiers that sort by the time they were made.

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
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    false,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.db import Instant

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u

Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
# SQLite counts only INTEGER primary keys up by itself.
Serial = BigInteger().with_variant(Integer(), "sqlite")


def new_id(prefix: str) -> str:
    """``rk_01k9…``: 48 bits of milliseconds, then 80 random bits, as in a ULID."""
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    digits = [ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5)]
    return f"{prefix}_{''.join(digits)}"


class Status(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"  # waits for a worker, first or again
    RUNNING = "running"  # a worker holds its lease
    SUCCEEDED = "succeeded"  # its result is stored
    FAILED = "failed"  # its error is stored
    CANCELLED = "cancelled"  # stopped because someone asked


TERMINAL = (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)


class Kind(StrEnum):
    """What a job does."""

    RANKING = "ranking"
    FINETUNE = "finetune"
    COMPARISON = "comparison"  # runs through its children, no worker holds it


WORKED = (Kind.RANKING, Kind.FINETUNE)
"""What workers claim; each kind has a queue of its own name."""


class Base(DeclarativeBase):
    """Every table."""

    type_annotation_map = {dict[str, Any]: Json, datetime: Instant()}  # noqa: RUF012


class Job(Base):
    """One piece of work, and its place in the queue."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("jobs_claim", "status", "kind", "priority", "queued_at"),
        Index("jobs_lease", "status", "lease_expires_at"),
        Index("jobs_digest", "digest"),
        Index("jobs_list", "created_at", "id"),
        Index("jobs_parent", "parent"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    name: Mapped[str | None] = mapped_column(String(200))
    labels: Mapped[dict[str, Any]]  # the caller's metadata
    priority: Mapped[int] = mapped_column(Integer, default=0)
    model: Mapped[str] = mapped_column(String(300), index=True)
    dataset: Mapped[str] = mapped_column(String(300), index=True)
    digest: Mapped[str] = mapped_column(String(80))
    parent: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    waits_for: Mapped[str | None] = mapped_column(String(40))  # a ranking; not claimed before

    status: Mapped[str] = mapped_column(String(20))
    phase: Mapped[str | None] = mapped_column(String(40))
    progress: Mapped[dict[str, Any] | None]
    crashes: Mapped[int] = mapped_column(Integer, default=0)
    max_attempts: Mapped[int] = mapped_column(Integer)
    cancel_requested: Mapped[bool] = mapped_column(default=False)

    lease_epoch: Mapped[int] = mapped_column(Integer, default=0)
    lease_owner: Mapped[str | None] = mapped_column(String(200))
    lease_expires_at: Mapped[datetime | None]
    not_before: Mapped[datetime | None]
    rung_at: Mapped[datetime | None]

    spec: Mapped[dict[str, Any]]
    resolved: Mapped[dict[str, Any]]
    result: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    state: Mapped[dict[str, Any] | None]  # where an interrupted fine-tune goes on

    created_at: Mapped[datetime]
    queued_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    updated_at: Mapped[datetime]
    heartbeat_at: Mapped[datetime | None]


class JobEvent(Base):
    """Something that happened to a job, written in the transaction that made it happen."""

    __tablename__ = "job_events"
    __table_args__ = (Index("job_events_job", "job_id", "seq"),)

    seq: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    lease_epoch: Mapped[int] = mapped_column(Integer)
    type: Mapped[str] = mapped_column(String(40))
    data: Mapped[dict[str, Any]]
    at: Mapped[datetime]


class Metric(Base):
    """One number measured at one step; an attempt that repeats a step replaces it."""

    __tablename__ = "metrics"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    step: Mapped[int] = mapped_column(Integer, primary_key=True)
    epoch: Mapped[float]
    value: Mapped[float | None]
    at: Mapped[datetime]


class Checkpoint(Base):
    """A checkpoint that is whole; its files are reached through this row alone."""

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
    """An uploaded dataset; its identity is its content."""

    __tablename__ = "datasets"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(80), unique=True)
    report: Mapped[dict[str, Any]]
    path: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]


class IdempotencyKey(Base):
    """The answer a key was given, for a day."""

    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request_sha256: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    created_at: Mapped[datetime]
