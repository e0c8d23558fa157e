"""Resolves a selection to the names of a model's layers, as far as they are known at submission."""

from __future__ import annotations

from app.db.tables import Job, JobKind, Status
from app.errors import Conflict, Unprocessable
from app.jobs.outputs.records import stored_ranking
from app.service import Service
from app.submissions.checks import check_families, check_method, pointing, ranking_digest
from app.submissions.resolve import Subject
from surgery.errors import Fault, SelectionMismatch
from surgery.ranking.selection import (
    check_ranking,
    check_reachable,
    choose_layers,
    found_by_search,
    granularity_of,
    ranking_options,
    resolved_choice,
    search_options,
)
from surgery.schemas.enums import POLICIES, Granularity
from surgery.schemas.jobs.ranking import RankingResult
from surgery.schemas.jobs.search import SearchResult
from surgery.schemas.jobs.selection import SelectionSpec
from surgery.schemas.resolved import (
    ModelInfo,
    Resolved,
    ResolvedFinetune,
    ResolvedSelection,
)

LISTS = {JobKind.RANKING: "rankings", JobKind.SEARCH: "searches"}


def resolve_selection(
    service: Service, selection: SelectionSpec, subject: Subject
) -> ResolvedSelection:
    """The names and parameters of what trains, and the ranking or search that chose them.

    If that has to be computed by the job first, only the granularity is known. Raises the errors
    that a worker would raise later.
    """
    info = subject.info
    if POLICIES[selection.policy].searches:
        return _by_search(service, selection, subject)
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
        _check_model(job, subject)
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


def _check_model(job: Job, subject: Subject) -> None:
    if Resolved.of(job.resolved).model.fingerprint != subject.model.fingerprint:
        raise SelectionMismatch(
            f"{job.kind} {job.id} is of {job.model}, not of the {subject.model.id} named here; "
            f"name a {job.kind} of this model, or leave {job.kind} out"
        )


def _by_search(service: Service, selection: SelectionSpec, subject: Subject) -> ResolvedSelection:
    """What a finished search found; without its id the job searches first."""
    if not isinstance(selection.search, str):
        options = search_options(selection)
        check_families(options, len(subject.info.layers), "/selection/search")
        return ResolvedSelection(granularity=Granularity.LAYER)
    job = _finished(service, JobKind.SEARCH, selection.search)
    dataset = subject.dataset
    with pointing("/selection/search"):
        _check_model(job, subject)
        if Resolved.of(job.resolved).dataset.fingerprint != dataset.fingerprint:
            raise SelectionMismatch(
                f"search {job.id} is of {job.dataset}, not of the {dataset.id} named here; name a "
                "search of this dataset, or leave search out"
            )
        found = found_by_search(SearchResult.model_validate(job.result), subject.info.layers)
    return found.model_copy(update={"search": job.id})


def _ranking_of(service: Service, selection: SelectionSpec, subject: Subject) -> Job | None:
    """The ranking that a selection names or describes; None if it has not been computed yet."""
    if isinstance(selection.ranking, str):
        return _finished(service, JobKind.RANKING, selection.ranking)
    options = ranking_options(selection)
    model, dataset = subject.model, subject.dataset
    check_method(options, dataset.problem, "/selection/ranking")
    digest = ranking_digest(model.fingerprint, dataset.fingerprint, options)
    return stored_ranking(service.database, service.project, digest)


def missing_ranking(job: Job, selection: SelectionSpec, subject: Subject) -> str | None:
    """The digest of the ranking that still has to choose a fine-tune's layers, if one does."""
    chosen = ResolvedFinetune.of(job.resolved).layers is not None
    if chosen or not POLICIES[selection.policy].needs_ranking:
        return None
    model, dataset = subject.model, subject.dataset
    return ranking_digest(model.fingerprint, dataset.fingerprint, ranking_options(selection))


def _finished(service: Service, kind: JobKind, job_id: str) -> Job:
    """The ranking or search with an id. Raises Unprocessable or Conflict unless it succeeded."""
    with service.database.read() as session:
        job = session.get(Job, job_id)
    fault = {"pointer": f"/selection/{kind}"}
    if job is None or job.project != service.project or job.kind != kind:
        detail = f"no {kind} {job_id!r}; GET /v1/{LISTS[kind]} lists them"
        raise Unprocessable(detail, errors=[{**fault, "detail": detail}])
    if job.status != Status.SUCCEEDED:
        raise Conflict(
            f"{kind} {job_id} is {job.status}; wait until it has succeeded",
            errors=[{**fault, "detail": "must have succeeded"}],
        )
    return job
