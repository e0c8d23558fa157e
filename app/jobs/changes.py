"""Changes what a caller may change of a job: its name, its metadata and its priority."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field, StringConstraints
from sqlalchemy.orm import Session

from app.db import Database, db_now
from app.db.tables import TERMINAL, Job, JobKind
from app.errors import Conflict, NotFound, Unprocessable
from app.jobs.comparisons import unfinished_children
from app.jobs.state_machine import locked_for_request, record_event
from surgery.schemas import Strict

Json = dict[str, Any]
MAX_LABELS = 16


class JobChanges(Strict):
    """What to change of a job, as a JSON Merge Patch (RFC 7396): what is left out stays."""

    name: Annotated[str, StringConstraints(max_length=200)] | None = Field(
        None, description="The new name; null removes it."
    )
    metadata: (
        dict[
            Annotated[str, StringConstraints(min_length=1, max_length=64)],
            Annotated[str, StringConstraints(max_length=512)] | None,
        ]
        | None
    ) = Field(
        None,
        description="Labels to add or to replace. A label that is null is removed, and null in the "
        "place of all labels removes all. A job has at most 16.",
    )
    priority: int = Field(
        0,
        ge=-100,
        le=100,
        description="The new priority, of a job that has not ended; a comparison's is that of all "
        "its children too.",
    )


def change_job(
    database: Database, job_id: str, changes: JobChanges, check: Callable[[Job], None]
) -> Job:
    """Change a job. ``check`` may refuse the locked row.

    Raises NotFound; Conflict if it is too late for another priority; and Unprocessable if the job
    would have too many labels.
    """
    with database.write() as session:
        job = locked_for_request(session, job_id)
        if job is None:
            raise NotFound(f"no job {job_id!r}; GET /v1/jobs lists them")
        check(job)
        changed = _changed(job, changes)
        if "name" in changed:
            job.name = changed["name"]
        if "metadata" in changed:
            job.labels = changed["metadata"]
        if "priority" in changed:
            _change_priority(session, job, changed["priority"])
        if changed:
            job.updated_at = db_now()
            record_event(session, job.id, job.lease_epoch, "changed", changed)
            session.flush()
            session.refresh(job)
        return job


def _changed(job: Job, changes: JobChanges) -> Json:
    """The new values of the fields that were given and that differ."""
    given = {name: getattr(changes, name) for name in changes.model_fields_set}
    if "metadata" in given:
        given["metadata"] = _merged(job.labels, given["metadata"])
    now = {"name": job.name, "metadata": job.labels, "priority": job.priority}
    return {name: value for name, value in given.items() if value != now[name]}


def _merged(labels: Json, given: Json | None) -> Json:
    if given is None:
        return {}
    merged = {name: value for name, value in {**labels, **given}.items() if value is not None}
    if len(merged) > MAX_LABELS:
        detail = f"the job would have {len(merged)} labels, more than {MAX_LABELS}; remove some"
        raise Unprocessable(detail, errors=[{"pointer": "/metadata", "detail": detail}])
    return merged


def _change_priority(session: Session, job: Job, priority: int) -> None:
    if job.status in TERMINAL:
        raise Conflict(
            f"{job.id} is over ({job.status}), so its priority does not matter any more; "
            "possible now: name, metadata",
            errors=[{"pointer": "/priority", "detail": "the job has ended; leave it out"}],
        )
    job.priority = priority
    if job.kind == JobKind.COMPARISON:
        for child in unfinished_children(session, job.id):
            child.priority = priority
