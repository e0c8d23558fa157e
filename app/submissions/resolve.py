"""What a request names, found and pinned: model, dataset, other presets, an earlier checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.errors import Unprocessable
from app.jobs.checkpoints import missing
from app.service import Service
from app.submissions.checks import pointing
from app.tables import Checkpoint, Dataset, Job
from surgery.checkpoints.compatibility import continuation_fault
from surgery.checkpoints.merge import RECORD
from surgery.data.presets.tasks import metrics_for
from surgery.data.references import resolve_dataset
from surgery.errors import DatasetNotFound
from surgery.evaluation.evaluation_sets import find_evaluation_sets
from surgery.models.source.resolve import inspect_model, resolve_model
from surgery.schemas.comparison import ComparisonSpec
from surgery.schemas.dataset import HubDataset
from surgery.schemas.enums import Problem
from surgery.schemas.finetune import FinetuneSpec
from surgery.schemas.model import ModelInfo

POINTER = "/continue_from"


def resolve_also_evaluate(
    service: Service, spec: FinetuneSpec | ComparisonSpec, dataset: dict[str, Any]
) -> dict[str, Any]:
    """How a job remembers its ``also_evaluate``; nothing where it names none.

    Raises DatasetInvalid, DatasetNotFound and UpstreamUnavailable, pointing at the preset.
    """
    if not spec.also_evaluate:
        return {}
    found = find_evaluation_sets(
        spec.also_evaluate, dataset["id"], Problem(dataset["problem"]), _labels(service, spec),
        service.settings.sources,
    )  # fmt: skip
    pinned = [
        {"id": source.id, "revision": source.revision, "fingerprint": source.fingerprint}
        for source in found
    ]
    return {"also_evaluate": pinned}


def _labels(service: Service, spec: FinetuneSpec | ComparisonSpec) -> Sequence[str] | None:
    if isinstance(spec.dataset, str) and spec.dataset.startswith("ds_"):
        with service.database.read() as session:
            row = session.get(Dataset, spec.dataset)
        if row is None:
            raise DatasetNotFound(f"dataset {spec.dataset!r} was deleted meanwhile")
        labels: list[str] = row.report["labels"]
        return labels
    return resolve_dataset(spec.dataset, service.settings.sources).labels


def resolve_continuation(
    service: Service, spec: FinetuneSpec, model: dict[str, Any], dataset: dict[str, Any]
) -> dict[str, Any]:
    """What a job remembers of the checkpoint it begins with; nothing where it begins with none.

    Raises Unprocessable where there is no such checkpoint, or it is of another model, problem or
    labels. Labels that only reading the data tells are compared by the worker.
    """
    if spec.continue_from is None:
        return {}
    with service.database.read() as session:
        row = session.get(Checkpoint, spec.continue_from)
    if row is None:
        raise _refused(
            f"no checkpoint {spec.continue_from!r}; GET /v1/jobs/{{id}}/checkpoints lists a job's"
        )
    try:
        record = json.loads(b"".join(service.storage.chunks(f"{row.path}/{RECORD}")))
    except FileNotFoundError as error:
        raise _refused(str(missing(service.database, row))) from error
    labels: Sequence[str] | None = dataset.get("labels")
    detail = continuation_fault(
        record, model["id"], model["fingerprint"], Problem(dataset["problem"]), labels
    )
    if detail is not None:
        raise _refused(detail)
    return {"continue_from": {"checkpoint": row.id, "job": row.job_id, "step": row.step}}


def hold_checkpoint(session: Session, job: Job) -> None:
    """Keep a checkpoint until the job that begins with it is inserted, or find that it went."""
    wanted = job.spec.get("continue_from")
    if wanted is None:
        return
    query = select(Checkpoint.id).where(Checkpoint.id == wanted).with_for_update(read=True)
    if session.scalar(query) is None:
        raise _refused(f"checkpoint {wanted} was deleted meanwhile; name another one")


def _refused(detail: str) -> Unprocessable:
    return Unprocessable(detail, errors=[{"pointer": POINTER, "detail": detail}])


@dataclass(frozen=True)
class Subject:
    """What a request is about: a model and data, and how a job remembers them."""

    info: ModelInfo
    model: dict[str, Any]
    dataset: dict[str, Any]
    also: dict[str, Any]  # the presets that are measured beside the dataset


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
        **({"labels": list(source.labels)} if source.labels else {}),
    }  # fmt: skip


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
        "metrics": list(metrics_for(Problem(row.report["problem"]), row.report["labels"])),
        "classes": len(row.report["labels"]), "labels": row.report["labels"],
    }  # fmt: skip


def resolve_subject(service: Service, spec: FinetuneSpec | ComparisonSpec) -> Subject:
    """Find the model and the data of a request."""
    info, model = resolve_model_field(service, spec.model)
    dataset = resolve_dataset_field(service, spec.dataset)
    return Subject(info, model, dataset, resolve_also_evaluate(service, spec, dataset))
