"""Resolves a selection to the names of a model's layers, as far as they are known at submission."""

from __future__ import annotations

from app.errors import Conflict, Unprocessable
from app.jobs.records import stored_ranking
from app.service import Service
from app.submissions.checks import check_method, pointing, ranking_digest
from app.submissions.resolve import Subject
from app.tables import Job, JobKind, Status
from surgery.errors import Fault, SelectionMismatch
from surgery.ranking.selection import (
    check_ranking,
    check_reachable,
    choose_layers,
    granularity_of,
    ranking_options,
    resolved_choice,
)
from surgery.schemas.enums import POLICIES
from surgery.schemas.ranking import RankingResult
from surgery.schemas.resolved import (
    ModelInfo,
    Resolved,
    ResolvedFinetune,
    ResolvedModel,
    ResolvedSelection,
)
from surgery.schemas.selection import SelectionSpec


def resolve_selection(
    service: Service, selection: SelectionSpec, subject: Subject
) -> ResolvedSelection:
    """The names and parameters of what trains, and the ranking by which they were chosen.

    If that ranking has to be computed by the job first, only the granularity is known. Raises the
    errors that a worker would raise later.
    """
    info = subject.info
    _check_included(selection, info)
    included = sum(info.groups[part] for part in set(selection.include))
    if not POLICIES[selection.policy].needs_ranking:
        granularity = granularity_of(selection)
        chosen = choose_layers(selection, info.at(granularity), included=included)
        return resolved_choice(chosen, granularity, included=included)
    job = _ranking_of(service, selection, subject)
    if job is None:
        granularity = granularity_of(selection)
        check_reachable(selection, info.at(granularity), granularity, included)
        return ResolvedSelection(granularity=granularity)
    ranking = RankingResult.model_validate(job.result)
    granularity = granularity_of(selection, ranking)
    layers = info.at(granularity)
    with pointing("/selection/ranking"):
        check_ranking(ranking, layers, granularity)
        _check_model(job, subject.model)
    chosen = choose_layers(selection, layers, ranking, included)
    choice = resolved_choice(chosen, granularity, ranking, included)
    return choice.model_copy(update={"ranking": job.id})


def _check_included(selection: SelectionSpec, info: ModelInfo) -> None:
    faults = [
        Fault(f"the model has no {part}; leave it out", pointer=f"/selection/include/{place}")
        for place, part in enumerate(selection.include)
        if not info.groups.get(part)
    ]
    if faults:
        raise SelectionMismatch(f"{info.id} lacks a part to include", faults)


def _check_model(ranking: Job, model: ResolvedModel) -> None:
    if Resolved.of(ranking.resolved).model.fingerprint != model.fingerprint:
        raise SelectionMismatch(
            f"ranking {ranking.id} is of {ranking.model}, not of the {model.id} named here; "
            "rank this model, or leave ranking out"
        )


def _ranking_of(service: Service, selection: SelectionSpec, subject: Subject) -> Job | None:
    """The ranking that a selection names or describes; None if it has not been computed yet."""
    if isinstance(selection.ranking, str):
        return _ranking_by_id(service, selection.ranking)
    options = ranking_options(selection)
    model, dataset = subject.model, subject.dataset
    check_method(options, dataset.problem, "/selection/ranking")
    digest = ranking_digest(model.fingerprint, dataset.fingerprint, options)
    return stored_ranking(service.database, service.project, digest)


def missing_ranking(job: Job, selection: SelectionSpec, subject: Subject) -> str | None:
    """The digest of the ranking that still has to choose a fine-tune's layers, if one does."""
    if ResolvedFinetune.of(job.resolved).layers is not None:
        return None
    model, dataset = subject.model, subject.dataset
    return ranking_digest(model.fingerprint, dataset.fingerprint, ranking_options(selection))


def _ranking_by_id(service: Service, ranking_id: str) -> Job:
    with service.database.read() as session:
        job = session.get(Job, ranking_id)
    fault = {"pointer": "/selection/ranking"}
    if job is None or job.project != service.project or job.kind != JobKind.RANKING:
        detail = f"no ranking {ranking_id!r}; GET /v1/rankings lists them"
        raise Unprocessable(detail, errors=[{**fault, "detail": detail}])
    if job.status != Status.SUCCEEDED:
        raise Conflict(
            f"ranking {ranking_id} is {job.status}; wait until it has succeeded",
            errors=[{**fault, "detail": "must have succeeded"}],
        )
    return job
