"""What routes take: the service's parts, an API key, and rows by their id."""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated

from fastapi import Depends, Path, Request

from app.errors import NotFound, Unauthorized, WrongMediaType
from app.service import Service
from app.tables import Checkpoint, Dataset, Job


def get_service(request: Request) -> Service:
    """The parts this application was created with."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


ServiceDep = Annotated[Service, Depends(get_service)]


def require_key(request: Request, service: ServiceDep) -> None:
    """Check the API key where keys are configured."""
    accepted = service.settings.api_key_hashes
    if not accepted:
        return
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    challenge = {"WWW-Authenticate": "Bearer"}
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthorized(headers=challenge)
    given = hashlib.sha256(key.strip().encode()).hexdigest()
    # Every hash is compared: the time taken tells nothing.
    matches = [hmac.compare_digest(given, known) for known in accepted]
    if not any(matches):
        raise Unauthorized(
            "this API key is not known here: it was mistyped, belongs to another service, or its "
            "hash was taken out of SURGEON_API_KEY_HASHES",
            headers=challenge,
        )


def require_json(request: Request) -> None:
    """A JSON body must say so: else a web page could post one without asking."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise WrongMediaType(f"the body must be application/json, not {kind or 'untyped'!r}")


ObjectId = Annotated[str, Path(max_length=64, description="The object's id.")]


def find_job(job_id: ObjectId, service: ServiceDep) -> Job:
    """A job of any kind."""
    with service.database.read() as session:
        job = session.get(Job, job_id)
    if job is None:
        raise NotFound(f"no job {job_id!r}; GET /v1/jobs lists them")
    return job


def find_dataset(dataset_id: ObjectId, service: ServiceDep) -> Dataset:
    """An uploaded dataset."""
    with service.database.read() as session:
        row = session.get(Dataset, dataset_id)
    if row is None:
        raise NotFound(f"no dataset {dataset_id!r}; GET /v1/datasets lists them")
    return row


def find_checkpoint(checkpoint_id: ObjectId, service: ServiceDep) -> Checkpoint:
    """A checkpoint."""
    with service.database.read() as session:
        row = session.get(Checkpoint, checkpoint_id)
    if row is None:
        raise NotFound(f"no checkpoint {checkpoint_id!r}")
    return row


JobDep = Annotated[Job, Depends(find_job)]
DatasetDep = Annotated[Dataset, Depends(find_dataset)]
CheckpointDep = Annotated[Checkpoint, Depends(find_checkpoint)]
