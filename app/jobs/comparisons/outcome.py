"""The children of a comparison, and how it ends after the last of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from app.db import db_now
from app.db.tables import TERMINAL, Checkpoint, Job, JobKind, Status
from surgery.errors import DeadlineExceeded, Fault, NoRanking, NoRunSucceeded, UnreadableResult
from surgery.evaluation.comparison import FinetuneRun, add_other_presets, comparison_table
from surgery.schemas import JobWarning
from surgery.schemas.jobs.finetune import FinetuneResult
from surgery.schemas.jobs.ranking import RankingResult
from surgery.schemas.resolved import ResolvedComparison, ResolvedFinetune

Json = dict[str, Any]
FULL: Json = {"percent": 100.0, "eta_seconds": 0.0, "unit": "runs"}


def unfinished_children(session: Session, comparison_id: str) -> Sequence[Job]:
    """The children that have not ended, with their rows locked."""
    query = select(Job).where(Job.parent == comparison_id, Job.status.not_in(TERMINAL))
    return session.scalars(query.order_by(Job.id).with_for_update(key_share=True)).all()


def has_active_child(session: Session, comparison_id: str) -> bool:
    """Whether a child runs, or would run if a worker were free."""
    active = Job.status.in_((Status.QUEUED, Status.RUNNING))
    query = select(Job.id).where(Job.parent == comparison_id, active).limit(1)
    return session.scalar(query) is not None


def children_after(session: Session, comparison_id: str) -> Sequence[tuple[Job, Job]]:
    """The children that wait for a job which has ended, with their rows locked, each with that job.

    That is a ranking, a search, or the run of an arm that trains the same. The children are in the
    order of the queue, so that of equal arms the first one trains.
    """
    awaited = aliased(Job)
    query = (
        select(Job, awaited)
        .join(awaited, Job.waits_for == awaited.id)
        .where(
            Job.parent == comparison_id,
            Job.status.in_((Status.QUEUED, Status.PAUSED)),
            awaited.status.in_(TERMINAL),
        )
        .order_by(Job.id)
        .with_for_update(key_share=True, skip_locked=True, of=Job)
    )
    rows = [(child, ended) for child, ended in session.execute(query)]
    return sorted(rows, key=lambda row: (row[0].queued_at, row[0].id))


def overdue_error(job: Job) -> DeadlineExceeded:
    """The error of a job that was not over by its deadline."""
    return DeadlineExceeded(
        f"{job.id} was not over {job.deadline_seconds:,} s after it was accepted "
        "(deadline_seconds); a retry has as many seconds again, a new submission can ask for more"
    )


def is_overdue(session: Session, job: Job) -> bool:
    """Whether a job's deadline has passed."""
    query = select(Job.id).where(Job.id == job.id, Job.deadline_at <= db_now())
    return session.scalar(query) is not None


def not_chosen_error(awaited: Job) -> NoRanking:
    """The error of a child that waited for a ranking or a search that did not succeed."""
    cause = awaited.error or {"code": "cancelled", "detail": "it was cancelled"}
    detail = f"{awaited.kind} {awaited.id}, which this run waited for, failed: {cause['detail']}"
    return NoRanking(detail, [cause])


def outcome(session: Session, comparison: Job) -> tuple[Status, Json] | None:
    """The status with which the comparison ends and what is stored; None before that.

    This is called whenever a child ends, but loads the children's results only after the last one.
    """
    running = select(Job.id).where(Job.parent == comparison.id, Job.status.not_in(TERMINAL))
    if session.scalar(running.limit(1)) is not None:
        return None
    children = session.scalars(
        select(Job).where(Job.parent == comparison.id).order_by(Job.queued_at, Job.id)
    ).all()
    if comparison.cancel_requested and any(c.status == Status.CANCELLED for c in children):
        return Status.CANCELLED, {}
    exceeded = any((child.error or {}).get("code") == DeadlineExceeded.code for child in children)
    if exceeded and is_overdue(session, comparison):
        return Status.FAILED, {"error": overdue_error(comparison).as_problem()}
    finetunes = [child for child in children if child.kind == JobKind.FINETUNE]
    if not any(child.status == Status.SUCCEEDED for child in finetunes):
        return Status.FAILED, {"error": _all_failed(finetunes).as_problem()}
    try:
        result = _table(session, comparison, finetunes)
    except ValidationError as error:  # a result stored by another version of the service
        return Status.FAILED, {"error": _unreadable(error).as_problem()}
    count = len(finetunes)
    progress = {**FULL, "step": count, "total_steps": count}
    return Status.SUCCEEDED, {"result": result, "progress": progress}


def _table(session: Session, comparison: Job, finetunes: Sequence[Job]) -> Json:
    best = select(Checkpoint).where(
        Checkpoint.job_id.in_([job.id for job in finetunes]), Checkpoint.is_best
    )
    sizes = {row.job_id: row.bytes for row in session.scalars(best)}
    resolved = ResolvedComparison.of(comparison.resolved)
    shared = {arm.name for arm in resolved.arms if arm.same_as}
    runs = [
        FinetuneRun(
            arm=str(ResolvedFinetune.of(job.resolved).arm),
            seed=job.spec["training"]["seed"],
            job=job.id,
            status=job.status,
            error=job.error,
            checkpoint_bytes=sizes.get(job.id),
            result=FinetuneResult.model_validate(job.result) if job.result else None,
        )
        for job in finetunes
        if ResolvedFinetune.of(job.resolved).arm not in shared
    ]
    ranking = _ranking(session, resolved.ranking)
    table = comparison_table(resolved.arms, runs, ranking, _validation_rows(finetunes))
    add_other_presets(table, runs)
    if resolved.ranking and ranking is None:
        message = f"ranking {resolved.ranking} has no result, so no scoring method is judged"
        remedy = "mend what the ranking's error names, and send the comparison again"
        missing = JobWarning(code="ranking_missing", message=message, remedy=remedy)
        table.warnings.append(missing)
    return table.model_dump(mode="json")


def _validation_rows(finetunes: Sequence[Job]) -> int | None:
    """How many rows the runs were measured on, as the first that opened its data says."""
    known = [ResolvedFinetune.of(job.resolved) for job in finetunes]
    counts = [(each.rows or each.dataset.rows).get("validation") for each in known]
    return next((count for count in counts if count is not None), None)


def _ranking(session: Session, ranking_id: str | None) -> tuple[str, RankingResult] | None:
    job = session.get(Job, ranking_id) if ranking_id else None
    if job is None or job.result is None:
        return None
    return job.id, RankingResult.model_validate(job.result)


def _all_failed(finetunes: Sequence[Job]) -> NoRunSucceeded:
    errors = [job.error or {"code": "cancelled", "detail": "cancelled"} for job in finetunes]
    return NoRunSucceeded(
        f"none of the {len(errors)} runs succeeded; the first: {errors[0]['detail']}",
        errors,
        faults=[
            Fault(f"{job.id} ({job.name}): {error['detail']}")
            for job, error in zip(finetunes, errors, strict=True)
        ],
    )


def _unreadable(error: ValidationError) -> UnreadableResult:
    return UnreadableResult(
        f"another version of the service stored a run's result, {error.title}, in a shape that "
        "this version cannot read; the runs themselves are unharmed"
    )
