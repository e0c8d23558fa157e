"""From a request to a queued job: everything that can be known is checked first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db import db_now
from app.deps import Service
from app.errors import Conflict, Unprocessable
from app.ids import new_id
from app.jobs import enqueue
from app.runs import stored_ranking
from app.tables import Dataset, IdempotencyKey, Job, Kind, Status
from surgery import __version__
from surgery.dataset_spec import HubDataset
from surgery.errors import DatasetNotFound, Fault, SelectionMismatch, SurgeryError
from surgery.finetune_spec import FinetuneSpec
from surgery.models import inspect_model, resolve_model
from surgery.policies import check_ranking, choose_layers
from surgery.references import resolve_dataset
from surgery.results import ModelInfo, RankingResult
from surgery.spec import RankingOptions, RankingSpec, Submission
from surgery.terms import Method, Policy, Problem

KEY_LIFETIME = timedelta(hours=24)
KERNEL_METHODS = (Method.TANGENT, Method.ALL)
MIN_KERNEL, MAX_KERNEL = 10, 2000  # samples, as surgery.tangent has them
UNDEFINED = {
    Method.PAPER_COMPAT: (Problem.MULTIPLE_CHOICE, Problem.TOKEN_CLASSIFICATION),
    Method.TANGENT: (Problem.TOKEN_CLASSIFICATION,),
}


@dataclass(frozen=True)
class Prepared:
    """A submission that passed every check: the row to insert, or the stored answer."""

    job: Job
    cached: bool = False


@contextmanager
def pointing(pointer: str) -> Iterator[None]:
    """Say which field of the request an error of the science is about."""
    try:
        yield
    except SurgeryError as error:
        if not error.faults:
            error.faults = [Fault(error.detail, pointer=pointer)]
        raise


def digest_of(content: dict[str, Any]) -> str:
    """A name for content: equal content, equal name."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"


def ranking_digest(model: str, dataset: str, options: RankingOptions) -> str:
    """Rankings of equal digest are the same computation. Takes the fingerprints."""
    kept = {name: getattr(options, name) for name in RankingOptions.model_fields}
    shape = RankingOptions.model_construct(**kept).model_dump(mode="json")
    return digest_of({"model": model, "dataset": dataset, "version": __version__, **shape})


def resolve_model_field(service: Service, model_id: str) -> tuple[ModelInfo, dict[str, Any]]:
    """What the model of a request is, and how the job will remember it."""
    sources = service.settings.sources
    with pointing("/model"):
        source = resolve_model(model_id, sources)
        info = inspect_model(source, sources)
    pinned = {"id": source.id, "revision": source.revision, "fingerprint": source.fingerprint}
    return info, pinned


def resolve_dataset_field(service: Service, reference: str | HubDataset) -> dict[str, Any]:
    """How a job remembers its dataset: an upload, a preset or a Hub dataset."""
    with pointing("/dataset"):
        if isinstance(reference, str) and reference.startswith("ds_"):
            return _uploaded(service, reference)
        source = resolve_dataset(reference, service.settings.sources)
    return {
        "id": source.id, "revision": source.revision, "fingerprint": source.fingerprint,
        "rows": source.rows, "problem": source.problem.value, "metrics": list(source.metrics),
    }  # fmt: skip


def _hold_dataset(session: Session, job: Job) -> None:
    """Keep an upload from being deleted before its job is inserted, or find that it was."""
    if "path" in job.resolved["dataset"]:
        row = session.scalar(
            select(Dataset).where(Dataset.id == job.dataset).with_for_update(read=True)
        )
        if row is None:
            raise DatasetNotFound(f"dataset {job.dataset!r} was deleted meanwhile; upload it again")


def _uploaded(service: Service, dataset_id: str) -> dict[str, Any]:
    with service.database.read() as session:
        row = session.get(Dataset, dataset_id)
    if row is None:
        raise DatasetNotFound(
            f"no dataset {dataset_id!r} was uploaded; GET /v1/datasets lists them"
        )
    return {
        "id": row.id, "revision": None, "fingerprint": row.fingerprint,
        "rows": row.report["rows"], "problem": row.report["problem"], "path": row.path,
    }  # fmt: skip


def check_method(options: RankingOptions, problem: str, pointer: str = "") -> None:
    """Refuse what the worker would refuse after loading the model. Raises Unprocessable."""
    method = options.method
    place, detail = "method", None
    if problem in UNDEFINED.get(method, ()):
        detail = f"method {method} is not defined for problem {problem}; use another method"
    elif method in KERNEL_METHODS and not MIN_KERNEL <= options.samples <= MAX_KERNEL:
        place = "samples"
        detail = f"method {method} takes {MIN_KERNEL} to {MAX_KERNEL:,} samples, for its kernels"
    if detail is not None:
        raise Unprocessable(detail, errors=[{"pointer": f"{pointer}/{place}", "detail": detail}])


def prepare_ranking(service: Service, spec: RankingSpec) -> Prepared:
    """Check a ranking; find its stored answer."""
    info, model = resolve_model_field(service, spec.model)
    dataset = resolve_dataset_field(service, spec.dataset)
    check_method(spec, dataset["problem"])
    digest = ranking_digest(model["fingerprint"], dataset["fingerprint"], spec)
    if spec.cache == "use":
        known = stored_ranking(service.database, digest)
        if known is not None:
            return Prepared(known, cached=True)
    resolved = {"model": model, "dataset": dataset, "digest": digest}
    return Prepared(_job(service, Kind.RANKING, "rk", spec, resolved, layers=len(info.layers)))


def prepare_finetune(service: Service, spec: FinetuneSpec) -> Prepared:
    """Check a fine-tune and pin what it will train, where that is known already."""
    info, model = resolve_model_field(service, spec.model)
    dataset = resolve_dataset_field(service, spec.dataset)
    _check_included(spec, info)
    resolved: dict[str, Any] = {"model": model, "dataset": dataset}
    resolved |= _resolve_selection(service, spec, info, model, dataset)
    prints = {"model": model["fingerprint"], "dataset": dataset["fingerprint"]}
    shape = spec.model_dump(mode="json", exclude={"name", "metadata", "priority"})
    resolved["digest"] = digest_of({**shape, **prints, "version": __version__})
    return Prepared(_job(service, Kind.FINETUNE, "ft", spec, resolved, layers=len(info.layers)))


def _check_included(spec: FinetuneSpec, info: ModelInfo) -> None:
    faults = [
        Fault(f"the model has no {part}; leave it out", pointer=f"/selection/include/{place}")
        for place, part in enumerate(spec.selection.include)
        if not info.groups.get(part)
    ]
    if faults:
        raise SelectionMismatch(f"{info.id} lacks a part to include", faults)


def _resolve_selection(
    service: Service,
    spec: FinetuneSpec,
    info: ModelInfo,
    model: dict[str, Any],
    dataset: dict[str, Any],
) -> dict[str, Any]:
    selection = spec.selection
    if selection.policy is not Policy.TOP_K:
        chosen = choose_layers(selection, info.layers)
        return {"layers": [layer.name for layer in chosen]}
    if (selection.k or 0) > len(info.layers):
        choose_layers(selection, info.layers)  # raises: more layers than the model has
    if isinstance(selection.ranking, str):
        ranking = _ranking_by_id(service, selection.ranking)
    else:
        options = selection.ranking or RankingOptions()
        check_method(options, dataset["problem"], "/selection/ranking")
        digest = ranking_digest(model["fingerprint"], dataset["fingerprint"], options)
        stored = stored_ranking(service.database, digest)
        if stored is None:
            return {}  # computed as the job's first phase
        ranking = stored
    result = RankingResult.model_validate(ranking.result)
    with pointing("/selection/ranking"):
        check_ranking(result, info.layers)
        if ranking.resolved["model"]["fingerprint"] != model["fingerprint"]:
            raise SelectionMismatch(
                f"ranking {ranking.id} is of {ranking.model}, not of the {model['id']} named here; "
                "rank this model, or leave ranking out"
            )
    chosen = choose_layers(selection, info.layers, result)
    return {"ranking": ranking.id, "layers": [layer.name for layer in chosen]}


def _ranking_by_id(service: Service, ranking_id: str) -> Job:
    with service.database.read() as session:
        job = session.get(Job, ranking_id)
    fault = {"pointer": "/selection/ranking"}
    if job is None or job.kind != Kind.RANKING:
        detail = f"no ranking {ranking_id!r}; GET /v1/rankings lists them"
        raise Unprocessable(detail, errors=[{**fault, "detail": detail}])
    if job.status != Status.SUCCEEDED:
        raise Conflict(
            f"ranking {ranking_id} is {job.status}; wait until it has succeeded",
            errors=[{**fault, "detail": "must have succeeded"}],
        )
    return job


def _job(
    service: Service,
    kind: Kind,
    prefix: str,
    spec: Submission,
    resolved: dict[str, Any],
    layers: int,
) -> Job:
    dataset = resolved["dataset"]
    resolved["model"]["layers"] = layers
    return Job(
        id=new_id(prefix), kind=kind, name=spec.name, labels=spec.metadata, priority=spec.priority,
        model=resolved["model"]["id"], dataset=dataset["id"], digest=resolved["digest"],
        max_attempts=service.settings.max_attempts, spec=spec.model_dump(mode="json"),
        resolved=resolved,
    )  # fmt: skip


def submit(service: Service, job: Job, key: str | None, body: dict[str, Any]) -> tuple[Job, bool]:
    """Insert a job once. With an idempotency key seen before, the job it made; second value True.

    Raises Unprocessable when the key was used with another body.
    """
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
            enqueue(session, job)
            if key is not None:
                row = IdempotencyKey(key=key, request_sha256=fingerprint, job_id=job.id)
                row.created_at = db_now()
                session.add(row)
                session.flush()
    except IntegrityError:
        return _replayed(service, str(key), fingerprint), True
    service.ring(job)
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
