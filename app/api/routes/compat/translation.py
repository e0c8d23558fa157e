"""Turns requests of OpenAI's shape into the service's own, and its answers into that shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import ValidationError

from app.api.routes.compat.shapes import (
    OF_THE_JOB,
    FileObject,
    FineTuningCheckpoint,
    FineTuningEvent,
    FineTuningJob,
    FineTuningRequest,
    Hyperparameters,
    JobFailure,
)
from app.db.tables import Checkpoint, Dataset, JobEvent, Status
from app.errors import ServiceError, Unprocessable
from surgery.errors import SurgeryError
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.schemas.validation import faults_of

Json = dict[str, Any]
METHOD = "/method/surgical"
_POINTERS = {"/dataset": "/training_file", "/name": "/suffix"}
_LEVELS: Mapping[Any, Literal["warn", "error"]] = {
    Status.FAILED: "error",
    Status.CANCELLED: "warn",
}


def finetune_of(request: FineTuningRequest) -> FinetuneSpec:
    """The service's own request. Raises Unprocessable, with faults as the caller has the fields."""
    method: Json = request.method.surgical.model_dump(mode="json", exclude_unset=True)
    if request.seed is not None:
        training = method.get("training") or {}
        if training.get("seed", request.seed) != request.seed:
            detail = "seed differs from training.seed of the method; leave one of them out"
            raise Unprocessable(detail, errors=[{"pointer": "/seed", "detail": detail}])
        method["training"] = {**training, "seed": request.seed}
    own = {"model": request.model, "dataset": request.training_file, "name": request.suffix}
    try:
        return FinetuneSpec.model_validate({**method, **own, "metadata": request.metadata or {}})
    except ValidationError as error:
        faults = faults_of(error)
        raise Unprocessable(
            "the request body has errors",
            errors=[{**fault, "pointer": _pointer(fault["pointer"])} for fault in faults],
        ) from error


@contextmanager
def told_by_fields() -> Iterator[None]:
    """Let errors about the service's own request name the fields that the caller has sent."""
    try:
        yield
    except SurgeryError as error:
        error.faults = [replace(each, pointer=_pointer(each.pointer)) for each in error.faults]
        raise
    except ServiceError as error:
        error.errors = [
            {**each, "pointer": _pointer(each["pointer"])} if "pointer" in each else each
            for each in error.errors
        ]
        raise


def _pointer(pointer: str | None) -> str | None:
    """Where the caller has the field that a pointer of the service's own request names."""
    if pointer is None:
        return pointer
    field = pointer.split("/")[1] if "/" in pointer else ""
    if field in OF_THE_JOB:
        return _POINTERS.get(f"/{field}", f"/{field}") + pointer.removeprefix(f"/{field}")
    return f"{METHOD}{pointer}"


def seconds_of(moment: datetime) -> int:
    """A moment as seconds since 1970."""
    return int(moment.timestamp())


def file_of(row: Dataset) -> FileObject:
    """A stored dataset as a file."""
    warnings = row.report.get("warnings") or []
    return FileObject(
        id=row.id,
        bytes=row.bytes,
        created_at=seconds_of(row.created_at),
        filename=row.name or row.report.get("source") or row.id,
        status_details="\n".join(map(str, warnings)) or None,
    )


def job_of(document: Json, project: str) -> FineTuningJob:
    """A fine-tune from its document. What early versions did not store is null."""
    spec, resolved, finished = document["spec"], document["resolved"], document["finished_at"]
    error, dataset, training = document["error"], spec.get("dataset"), spec.get("training") or {}
    failed = document["status"] == Status.FAILED and error is not None
    method = {name: value for name, value in spec.items() if name not in OF_THE_JOB}
    return FineTuningJob(
        id=document["id"],
        created_at=seconds_of(document["created_at"]),
        finished_at=finished and seconds_of(finished),
        estimated_finish=_estimated_finish(document),
        status=document["status"],
        error=JobFailure(code=error["code"], message=error["detail"]) if failed else None,
        model=spec.get("model") or resolved["model"]["id"],
        fine_tuned_model=(document["result"] or {}).get("best_checkpoint"),
        organization_id=project,
        training_file=dataset if isinstance(dataset, str) else resolved["dataset"]["id"],
        seed=training.get("seed"),
        suffix=document["name"],
        metadata=document["metadata"],
        hyperparameters=Hyperparameters(
            n_epochs=training.get("epochs"), batch_size=training.get("batch_size")
        ),
        method={"type": "surgical", "surgical": method},
    )


def _estimated_finish(document: Json) -> int | None:
    """When a job will end by its progress, in seconds since 1970."""
    seconds = (document["progress"] or {}).get("eta_seconds")
    if seconds is None or document["terminal"]:
        return None
    return seconds_of(datetime.now(UTC)) + int(seconds)


def event_of(row: JobEvent) -> FineTuningEvent:
    """An event of a job."""
    status = row.data.get("status") if row.type == "status" else None
    details = ", ".join(f"{name} {value}" for name, value in row.data.items() if value is not None)
    kind = row.type.replace("_", " ")
    return FineTuningEvent(
        id=f"ev_{row.seq}",
        created_at=seconds_of(row.at),
        level=_LEVELS.get(status, "info"),
        message=f"The job is {status}." if status else f"{kind}: {details}".rstrip(": "),
        data={"type": row.type, **row.data},
    )


def checkpoint_of(row: Checkpoint) -> FineTuningCheckpoint:
    """A checkpoint of a job."""
    return FineTuningCheckpoint(
        id=row.id,
        created_at=seconds_of(row.created_at),
        fine_tuned_model_checkpoint=row.id,
        fine_tuning_job_id=row.job_id,
        step_number=row.step,
        metrics={"step": float(row.step), **row.metrics},
    )
