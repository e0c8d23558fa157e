"""From a request to a queued job: everything that can be known is checked first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db import db_now
from app.errors import Unprocessable
from app.jobs.records import stored_ranking
from app.jobs.state_machine import enqueue, enqueue_comparison
from app.service import Service
from app.submissions.checks import check_method, digest_of, ranking_digest
from app.submissions.resolve import (
    Subject,
    hold_checkpoint,
    resolve_continuation,
    resolve_subject,
)
from app.submissions.selections import resolve_selection
from app.tables import Dataset, IdempotencyKey, Job, Kind, new_id
from surgery import __version__
from surgery.errors import DatasetNotFound
from surgery.models.layers import check_adapter
from surgery.schemas.comparison import ComparisonSpec
from surgery.schemas.finetune import FinetuneSpec
from surgery.schemas.ranking import RankingSpec, Submission
from surgery.schemas.resolved import Resolved, ResolvedDataset, ResolvedFinetune
from surgery.schemas.training import TrainingSpec, check_training
from surgery.training.devices import check_processes, gpus_here

KEY_LIFETIME = timedelta(hours=24)


@dataclass(frozen=True)
class Prepared:
    """A submission that passed every check: the row to insert, or the stored answer."""

    job: Job
    subject: Subject
    cached: bool = False
    children: Sequence[Job] = ()  # of a comparison, in the order they are to run


def _hold_dataset(session: Session, job: Job) -> None:
    """Keep an upload from being deleted before its job is inserted, or find that it was."""
    if Resolved.of(job.resolved).dataset.path is not None:
        row = session.scalar(
            select(Dataset).where(Dataset.id == job.dataset).with_for_update(read=True)
        )
        if row is None:
            raise DatasetNotFound(f"dataset {job.dataset!r} was deleted meanwhile; upload it again")


def prepare_ranking(service: Service, spec: RankingSpec) -> Prepared:
    """Check a ranking; find its stored answer."""
    subject = resolve_subject(service, spec.model, spec.dataset)
    check_method(spec, subject.dataset.problem)
    digest = ranking_digest(subject.model.fingerprint, subject.dataset.fingerprint, spec)
    if spec.cache == "use":
        known = stored_ranking(service.database, digest)
        if known is not None:
            return Prepared(known, subject, cached=True)
    return Prepared(ranking_job(service, spec, subject, digest), subject)


def ranking_job(service: Service, spec: RankingSpec, subject: Subject, digest: str) -> Job:
    """The job of a ranking of this subject."""
    resolved = Resolved(model=subject.model, dataset=subject.dataset, digest=digest)
    return new_job(service, Kind.RANKING, "rk", spec, resolved)


def prepare_finetune(service: Service, spec: FinetuneSpec) -> Prepared:
    """Check a fine-tune and pin what it will train, where that is known already."""
    subject = resolve_subject(service, spec.model, spec.dataset, spec.also_evaluate)
    return Prepared(finetune_job(service, spec, subject), subject)


def check_training_field(training: TrainingSpec, dataset: ResolvedDataset, processes: int) -> None:
    """Refuse options of training that do not fit the dataset."""
    check_training(
        training,
        dataset.problem,
        dataset.metrics or (),
        classes=dataset.classes,
        rows=dataset.rows.get("train"),
        processes=processes,
    )


def finetune_job(
    service: Service, spec: FinetuneSpec, subject: Subject, arm: str | None = None
) -> Job:
    """The job of a fine-tune of this subject, checked; ``arm`` is that of its comparison."""
    if service.settings.embedded:  # its workers run on this machine
        check_processes(spec.processes, min(gpus_here(), service.settings.gpus_per_worker))
    check_training_field(spec.training, subject.dataset, spec.processes)
    selection = resolve_selection(service, spec.selection, subject)
    if spec.adapter is not None:
        check_adapter(spec.adapter, subject.info)
    resolved = ResolvedFinetune(
        model=subject.model,
        dataset=subject.dataset,
        **dict(selection),
        continue_from=resolve_continuation(service, spec.continue_from, subject),
        also_evaluate=subject.also_evaluate,
        digest=training_digest(spec, subject),
        arm=arm,
    )
    return new_job(service, Kind.FINETUNE, "ft", spec, resolved)


def training_digest(spec: FinetuneSpec | ComparisonSpec, subject: Subject) -> str:
    """Fine-tunes, and comparisons, of equal digest train the same on the same."""
    return digest_of(
        {
            **spec.model_dump(mode="json", exclude={"name", "metadata", "priority"}),
            "model": subject.model.fingerprint,
            "dataset": subject.dataset.fingerprint,
            "also_evaluate": [preset.stored() for preset in subject.also_evaluate],
            "version": __version__,
        }
    )


def new_job(service: Service, kind: Kind, prefix: str, spec: Submission, resolved: Resolved) -> Job:
    """A row for a checked submission, not inserted yet."""
    return Job(
        id=new_id(prefix),
        kind=kind,
        name=spec.name,
        labels=spec.metadata,
        priority=spec.priority,
        model=resolved.model.id,
        dataset=resolved.dataset.id,
        digest=resolved.digest,
        max_attempts=service.settings.max_attempts,
        spec=spec.model_dump(mode="json"),
        resolved=resolved.stored(),
    )


def submit(
    service: Service, prepared: Prepared, key: str | None, body: dict[str, Any]
) -> tuple[Job, bool]:
    """Insert a job, and its children, once; the job and whether it was there already.

    That is the job which the same idempotency key made before.
    Raises Unprocessable when the key was used with another body.
    """
    job, children = prepared.job, prepared.children
    fingerprint = digest_of({"kind": job.kind, **body}).removeprefix("sha256:")
    try:
        with service.database.write() as session:
            if key is not None:
                session.execute(
                    delete(IdempotencyKey).where(
                        IdempotencyKey.created_at < db_now(-KEY_LIFETIME.total_seconds())
                    )
                )
            _hold_dataset(session, job)
            hold_checkpoint(session, job)
            if children:
                enqueue_comparison(session, job, children)
            else:
                enqueue(session, job)
            if key is not None:
                row = IdempotencyKey(key=key, request_sha256=fingerprint, job_id=job.id)
                row.created_at = db_now()
                session.add(row)
                session.flush()
    except IntegrityError:
        return _replayed(service, str(key), fingerprint), True
    for waiting in children or [job]:
        service.ring(waiting)
    return job, False


def _replayed(service: Service, key: str, fingerprint: str) -> Job:
    with service.database.read() as session:
        row = session.scalar(select(IdempotencyKey).where(IdempotencyKey.key == key))
        assert row is not None
        if row.request_sha256 != fingerprint:
            raise Unprocessable(
                "this Idempotency-Key was used with another body; use a new key",
                errors=[{"pointer": "", "detail": "differs from the first request of this key"}],
            )
        job = session.get(Job, row.job_id)
    assert job is not None
    return job
