"""Checks requests for rankings, fine-tunes, searches and others, and queues their jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import GivenRows, Job, JobKind, new_id
from app.errors import Conflict, Unprocessable
from app.jobs.outputs.records import stored_ranking
from app.jobs.shared_rankings import RankingKey, computed_ranking, key_of
from app.jobs.state_machine import (
    enqueue,
    enqueue_comparison,
    enqueue_with_ranking,
    settle_waiting,
    share_ranking,
)
from app.service import Service
from app.submissions.admission import Present, admit, present
from app.submissions.checks import (
    OF_THE_REQUEST,
    check_families,
    check_length,
    check_method,
    content_digest,
    ranking_digest,
    search_digest,
)
from app.submissions.fleet import Fleet, Json
from app.submissions.resolve import (
    Subject,
    lock_checkpoint,
    resolve_asked,
    resolve_continuation,
    resolve_subject,
)
from app.submissions.selections import missing_ranking, resolve_selection
from surgery import __version__
from surgery.checkpoints.rows import kept_cells
from surgery.errors import DatasetNotFound
from surgery.models.layers import check_adapter
from surgery.schemas.enums import Granularity
from surgery.schemas.jobs.comparison import ComparisonSpec
from surgery.schemas.jobs.export import ExportSpec
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.schemas.jobs.prediction import PredictionSpec
from surgery.schemas.jobs.ranking import JobRequest, RankingOptions, RankingSpec
from surgery.schemas.jobs.search import SearchSpec
from surgery.schemas.options.layer_schedule import check_layer_count
from surgery.schemas.options.training import TrainingSpec, check_training, run_rows
from surgery.schemas.resolved import (
    Resolved,
    ResolvedExport,
    ResolvedFinetune,
    ResolvedPrediction,
    ResolvedSelection,
)


@dataclass(frozen=True)
class Prepared:
    """A submission that passed every check that needs no lock: a job to insert."""

    job: Job
    subject: Subject | None  # None if the job works on no dataset
    ranking: RankingKey | None = None  # that a fine-tune needs and that was not computed yet
    children: Sequence[Job] = ()  # a comparison's, in the order in which they shall run
    rows: Sequence[Json] = ()  # that a prediction is asked for


def _present(session: Session, job: Job) -> Present:
    """What the transaction has to know; an uploaded dataset is locked until the job is inserted.

    Raises DatasetNotFound if the dataset was deleted.
    """
    uploaded = Resolved.of(job.resolved).dataset.path is not None
    found = present(session, job.project, job.dataset if uploaded else None)
    if uploaded and found.dataset is None:
        raise DatasetNotFound(f"dataset {job.dataset!r} was deleted meanwhile; upload it again")
    return found


def _lock_choosers(session: Session, jobs: Sequence[Job]) -> None:
    """Lock the rankings and searches by which jobs choose their layers until they are inserted.

    Raises Conflict if one of them was deleted.
    """
    new = {job.id for job in jobs}
    named = {
        name
        for job in jobs
        for name in (job.waits_for, job.resolved.get("ranking"), job.resolved.get("search"))
    }
    stored = sorted(name for name in named - new if name)
    if not stored:
        return
    query = select(Job.id).where(Job.id.in_(stored)).order_by(Job.id).with_for_update(read=True)
    missing = set(stored) - set(session.scalars(query))
    if missing:
        raise Conflict(f"{min(missing)} was deleted meanwhile; send the request again")


def prepare_ranking(service: Service, spec: RankingSpec) -> Prepared:
    """Check a ranking."""
    subject = resolve_subject(service, spec.model, spec.dataset)
    check_method(spec, subject.dataset.problem)
    check_length(spec.max_length, subject.source, "/max_length")
    digest = ranking_digest(subject.model.fingerprint, subject.dataset.fingerprint, spec)
    known = spec.cache == "use" and stored_ranking(service.database, service.project, digest)
    fleet = None if known else Fleet.of(service)  # a stored result needs no worker
    return Prepared(ranking_job(service, spec, subject, digest, fleet), subject)


def ranking_job(
    service: Service, spec: RankingSpec, subject: Subject, digest: str, fleet: Fleet | None
) -> Job:
    """The job of a ranking, not inserted yet. Raises NotRunnable if no worker could run it."""
    warnings = fleet.check(spec) if fleet else []
    resolved = Resolved(model=subject.model, dataset=subject.dataset, digest=digest)
    return new_job(service, JobKind.RANKING, "rk", spec, resolved, warnings)


def prepare_search(service: Service, spec: SearchSpec) -> Prepared:
    """Check a search."""
    subject = resolve_subject(service, spec.model, spec.dataset)
    return Prepared(search_job(service, spec, subject, Fleet.of(service)), subject)


def search_job(service: Service, spec: SearchSpec, subject: Subject, fleet: Fleet) -> Job:
    """Check a search and build its job."""
    warnings = fleet.check(spec)
    check_training_field(spec.training, subject, processes=1)
    check_families(spec, len(subject.info.layers))
    model, dataset = subject.model, subject.dataset
    digest = search_digest(model.fingerprint, dataset.fingerprint, spec)
    resolved = Resolved(model=model, dataset=dataset, digest=digest)
    return new_job(service, JobKind.SEARCH, "se", spec, resolved, warnings)


def prepare_prediction(service: Service, spec: PredictionSpec) -> Prepared:
    """Check a prediction. What the model does not read of its rows is left out."""
    asked = resolve_asked(service, spec.checkpoint)
    rows = kept_cells(asked.record, spec.rows)
    warnings = Fleet.of(service).check(spec)
    content = {"rows": rows, "top": spec.top, "checkpoint": spec.checkpoint, "version": __version__}
    resolved = ResolvedPrediction(
        model=asked.model,
        dataset=asked.dataset,
        digest=content_digest(content),
        checkpoint=asked.checkpoint,
        given_rows=len(rows),
    )
    job = new_job(service, JobKind.PREDICTION, "pd", spec, resolved, warnings)
    return Prepared(job, None, rows=rows)


def prepare_export(service: Service, spec: ExportSpec) -> Prepared:
    """Check an export."""
    asked = resolve_asked(service, spec.checkpoint)
    stored = asked.row.form
    if spec.form not in {stored, "full"}:
        detail = f"checkpoint {spec.checkpoint} is stored in form {stored}; name that, or full"
        raise Unprocessable(detail, errors=[{"pointer": "/form", "detail": detail}])
    warnings = Fleet.of(service).check(spec)
    content = {"files": asked.row.files, "form": spec.form, "to": spec.to, "target": spec.target}
    resolved = ResolvedExport(
        model=asked.model,
        dataset=asked.dataset,
        digest=content_digest({**content, "version": __version__}),
        checkpoint=asked.checkpoint,
    )
    return Prepared(new_job(service, JobKind.EXPORT, "ex", spec, resolved, warnings), None)


def prepare_finetune(service: Service, spec: FinetuneSpec) -> Prepared:
    """Check a fine-tune, and resolve what it will train as far as that is known."""
    subject = resolve_subject(service, spec.model, spec.dataset, spec.also_evaluate)
    job = finetune_job(service, spec, subject, Fleet.of(service))
    digest = missing_ranking(job, spec.selection, subject)
    return Prepared(job, subject, RankingKey(service.project, digest) if digest else None)


def check_training_field(training: TrainingSpec, subject: Subject, processes: int) -> None:
    """Raises an error about options of training that do not fit the dataset or the model."""
    dataset = subject.dataset
    check_length(training.max_length, subject.source, "/training/max_length")
    check_training(
        training,
        dataset.problem,
        dataset.metrics or (),
        classes=dataset.classes,
        rows=run_rows(training, dataset.problem, dataset.rows)[0],
        processes=processes,
    )


def finetune_job(
    service: Service, spec: FinetuneSpec, subject: Subject, fleet: Fleet, arm: str | None = None
) -> Job:
    """Check a fine-tune and build its job; ``arm`` is the name of its comparison's arm, if any."""
    warnings = fleet.check(spec)
    check_training_field(spec.training, subject, spec.processes)
    ranking = spec.selection.ranking
    if isinstance(ranking, RankingOptions):
        check_length(ranking.max_length, subject.source, "/selection/ranking/max_length")
    selection = resolve_selection(service, spec.selection, subject)
    _check_layer_schedule(spec, selection, subject)
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
    return new_job(service, JobKind.FINETUNE, "ft", spec, resolved, warnings)


def _check_layer_schedule(
    spec: FinetuneSpec, selection: ResolvedSelection, subject: Subject
) -> None:
    """Raise TrainingInvalid if the schedule draws more layers than are known to be selected."""
    if selection.layers is not None:
        parts = subject.info.at(selection.granularity or Granularity.LAYER)
        blocks = {part.index for part in parts if part.name in set(selection.layers)}
        check_layer_count(spec.training.layer_schedule, len(blocks))


def training_digest(spec: FinetuneSpec | ComparisonSpec, subject: Subject) -> str:
    """The digest of a fine-tune or comparison, equal for equal training on equal data."""
    return content_digest(
        {
            **spec.model_dump(mode="json", exclude=OF_THE_REQUEST),
            "model": subject.model.fingerprint,
            "dataset": subject.dataset.fingerprint,
            "also_evaluate": [preset.stored() for preset in subject.also_evaluate],
            "version": __version__,
        }
    )


def new_job(
    service: Service,
    kind: JobKind,
    prefix: str,
    spec: JobRequest,
    resolved: Resolved,
    warnings: Sequence[Json] = (),
) -> Job:
    """The job of a submission that was checked, not inserted yet."""
    return Job(
        id=new_id(prefix),
        project=service.project,
        kind=kind,
        name=spec.name,
        labels=spec.metadata,
        priority=spec.priority,
        deadline_seconds=spec.deadline_seconds,
        request_id=service.request_id,
        model=resolved.model.id,
        dataset=resolved.dataset.id,
        digest=resolved.digest,
        max_attempts=service.settings.max_attempts,
        spec=spec.stored(),
        resolved=resolved.stored(),
        warnings=list(warnings),
    )


def submit(service: Service, prepared: Prepared, accepted: Callable[[Session, Job], None]) -> Job:
    """Insert a job and its children, and announce them.

    ``accepted`` is called in the same transaction, with the job as it was inserted.
    """
    with service.database.write() as session:
        insert(session, service, prepared)
        accepted(session, prepared.job)
    jobs = prepared.children or [prepared.job]
    for job in jobs:
        service.ring(job)
    if any(job.waits_for for job in jobs):
        settle_waiting(service.database)  # in case what they wait for has just ended
    return prepared.job


class _Rehearsed(Exception):
    """A dry run came to its end; raised to undo it."""


def rehearse(service: Service, prepared: Prepared) -> Job:
    """Do everything that `submit` does in its transaction, and undo it.

    Returns the job as it would have been inserted.
    """
    try:
        with service.database.write() as session:
            insert(session, service, prepared)
            session.expunge_all()
            raise _Rehearsed
    except _Rehearsed:
        return prepared.job


def insert(session: Session, service: Service, prepared: Prepared) -> None:
    """Insert a job and its children, in the caller's transaction.

    Checks first what must still hold now: the project's quotas, and that nothing that the job needs
    was deleted. A ranking that has its result already needs no worker, and no quota.
    """
    job, children = prepared.job, prepared.children
    found = _present(session, job)
    shares = job.kind == JobKind.RANKING and job.spec["cache"] == "use"
    if not (shares and computed_ranking(session, key_of(job))):
        admit(session, service, children or [job], found.limits)
    lock_checkpoint(session, job)
    _lock_choosers(session, [job, *children])
    if children:
        enqueue_comparison(session, job, children, found.seen)
    elif prepared.ranking is not None:
        enqueue_with_ranking(session, job, prepared.ranking, found.seen)
    else:
        enqueue(session, job, found.seen)
    if prepared.rows:
        session.flush()  # the job, to which the rows refer
        session.add(GivenRows(job_id=job.id, rows=list(prepared.rows)))
    if shares:
        share_ranking(session, job)
