"""Finds what a request names: its model, its dataset, other presets, an earlier checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from app.db.tables import Checkpoint, Dataset, Job
from app.errors import Unprocessable
from app.jobs.outputs.checkpoints import checkpoint_of, missing_files_error
from app.service import Service
from app.submissions.checks import pointing
from surgery.checkpoints.compatibility import continuation_fault
from surgery.checkpoints.merge import RECORD
from surgery.data.presets.tasks import metrics_for
from surgery.data.references import DatasetSource, resolve_dataset
from surgery.errors import DatasetNotFound
from surgery.evaluation.evaluation_sets import find_evaluation_sets
from surgery.models.source.resolve import ModelSource, model_info, resolve_model, tensor_sizes
from surgery.schemas.data.dataset import HubDataset
from surgery.schemas.enums import Problem
from surgery.schemas.resolved import (
    ModelInfo,
    Pinned,
    Resolved,
    ResolvedCheckpoint,
    ResolvedDataset,
    ResolvedModel,
)

Json = dict[str, Any]
CONTINUED, ASKED = "continue_from", "checkpoint"  # fields of requests that name a checkpoint
UPLOAD = select(Dataset.id, Dataset.fingerprint, Dataset.report, Dataset.path).where(
    Dataset.id == bindparam("dataset"), Dataset.project == bindparam("project")
)


@dataclass(frozen=True)
class Subject:
    """The model and the data of a request, looked up once, and how a job remembers them."""

    source: ModelSource
    sizes: dict[str, int]  # number of elements of each of the model's tensors
    info: ModelInfo
    model: ResolvedModel
    dataset: ResolvedDataset
    words: Json | None  # histogram of the lengths of an upload's texts, in words
    data: DatasetSource | None  # the preset's or the Hub's files; None for an upload
    also_evaluate: list[Pinned]  # the presets that are evaluated beside the dataset


def resolve_subject(
    service: Service, model_id: str, reference: str | HubDataset, presets: Sequence[str] = ()
) -> Subject:
    """Find the model, the dataset and the further presets that a request names.

    An error about one of them points at the field that names it.
    """
    sources = service.settings.sources
    with pointing("/model"):
        source = resolve_model(model_id, sources)
        sizes = tensor_sizes(source, sources)
        info = model_info(source, sizes)
    model = ResolvedModel(
        id=source.id,
        revision=source.revision,
        fingerprint=source.fingerprint,
        layers=len(info.layers),
        parameters=info.parameters,
    )
    with pointing("/dataset"):
        data = words = None
        if isinstance(reference, str) and reference.startswith("ds_"):
            dataset, words = _uploaded(service, reference)
        else:
            data = resolve_dataset(reference, sources)
            dataset = _found(data)
    measured = find_evaluation_sets(presets, dataset.id, dataset.problem, dataset.labels, sources)
    also = [_pinned(each) for each in measured]
    return Subject(source, sizes, info, model, dataset, words, data, also)


def _pinned(source: DatasetSource) -> Pinned:
    return Pinned(id=source.id, revision=source.revision, fingerprint=source.fingerprint)


def _found(source: DatasetSource) -> ResolvedDataset:
    """How a job remembers a preset or a dataset of the Hub."""
    return ResolvedDataset(
        **dict(_pinned(source)),
        rows=source.rows,
        problem=source.problem,
        metrics=list(source.metrics),
        labels=list(source.labels) if source.labels else None,
    )


def _uploaded(service: Service, dataset_id: str) -> tuple[ResolvedDataset, Json | None]:
    """How a job remembers an upload, and the histogram of its texts' lengths in words."""
    rows = service.database.rows(UPLOAD, {"dataset": dataset_id, "project": service.project})
    if not rows:
        raise DatasetNotFound(
            f"no dataset {dataset_id!r} was uploaded; GET /v1/datasets lists them"
        )
    row = rows[0]
    problem, labels = Problem(row.report["problem"]), row.report["labels"]
    dataset = ResolvedDataset(
        id=row.id,
        revision=None,
        fingerprint=row.fingerprint,
        rows=row.report["rows"],
        problem=problem,
        path=row.path,
        metrics=list(metrics_for(problem, labels)),
        classes=len(labels),
        labels=labels,
    )
    return dataset, row.report.get("text_lengths")


def resolve_continuation(
    service: Service, checkpoint_id: str | None, subject: Subject
) -> ResolvedCheckpoint | None:
    """What a job remembers of the checkpoint that it continues from, if it continues from one.

    Raises Unprocessable if there is no such checkpoint, or if its model, problem or labels differ.
    Labels that are known only after reading the data are compared by the worker.
    """
    if checkpoint_id is None:
        return None
    row, record = _recorded(service, checkpoint_id, CONTINUED)
    model, dataset = subject.model, subject.dataset
    detail = continuation_fault(
        record, model.id, model.fingerprint, dataset.problem, dataset.labels
    )
    if detail is not None:
        raise _refused(detail, CONTINUED)
    return _remembered(row)


@dataclass(frozen=True)
class Asked:
    """A checkpoint that a job names, its record, and the model and the data of its training."""

    checkpoint: ResolvedCheckpoint
    row: Checkpoint
    record: Json
    model: ResolvedModel
    dataset: ResolvedDataset


def resolve_asked(service: Service, checkpoint_id: str) -> Asked:
    """Find the checkpoint that shall predict, or be exported.

    Raises Unprocessable if there is no such checkpoint, or if its base model has changed, and
    ModelNotFound if that is gone.
    """
    row, record = _recorded(service, checkpoint_id, ASKED)
    with service.database.read() as session:
        trained = Resolved.of(session.get_one(Job, row.job_id).resolved)
    with pointing(f"/{ASKED}"):
        base = resolve_model(trained.model.reference, service.settings.sources)
    if base.fingerprint != trained.model.fingerprint:
        raise _refused(
            f"{trained.model.id} has changed since this checkpoint was trained; put the model that "
            "was trained back, or train again",
            ASKED,
        )
    # The dataset is not read: it may be deleted meanwhile.
    dataset = trained.dataset.model_copy(update={"path": None})
    return Asked(_remembered(row), row, record, trained.model, dataset)


def _recorded(service: Service, checkpoint_id: str, field: str) -> tuple[Checkpoint, Json]:
    """A checkpoint that a field names, with its record. Raises Unprocessable."""
    row = checkpoint_of(service.database, service.project, checkpoint_id)
    if row is None:
        raise _refused(
            f"no checkpoint {checkpoint_id!r}; GET /v1/jobs/{{id}}/checkpoints lists a job's", field
        )
    try:
        record: Json = json.loads(b"".join(service.storage.chunks(f"{row.path}/{RECORD}")))
    except FileNotFoundError as error:
        raise _refused(str(missing_files_error(service.database, row)), field) from error
    return row, record


def _remembered(row: Checkpoint) -> ResolvedCheckpoint:
    return ResolvedCheckpoint(checkpoint=row.id, job=row.job_id, step=row.step)


def lock_checkpoint(session: Session, job: Job) -> None:
    """Lock the checkpoint that a job needs, until the job is inserted.

    Raises Unprocessable if the checkpoint was deleted.
    """
    for field in (CONTINUED, ASKED):
        wanted = job.spec.get(field)
        if wanted is None:
            continue
        query = select(Checkpoint.id).where(Checkpoint.id == wanted).with_for_update(read=True)
        if session.scalar(query) is None:
            raise _refused(f"checkpoint {wanted} was deleted meanwhile; name another one", field)


def _refused(detail: str, field: str) -> Unprocessable:
    return Unprocessable(detail, errors=[{"pointer": f"/{field}", "detail": detail}])
