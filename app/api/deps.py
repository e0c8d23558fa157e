"""What routes depend on: the service's parts, an API key, and rows found by their id."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from typing import Annotated

from fastapi import Depends, Path, Request

from app.access.keys import Keyring
from app.access.principal import Principal
from app.db.tables import Checkpoint, Dataset, Job
from app.errors import NotFound, WrongMediaType
from app.jobs.outputs.checkpoints import checkpoint_of
from app.service import Service
from surgery.data.presets.tasks import TASKS
from surgery.errors import printable

MERGE_PATCH = "application/merge-patch+json"
NOBODY = Principal(scopes=frozenset())


async def get_principal(request: Request) -> Principal:
    """Who sends this request, as the middleware found out; nobody for operations without a key."""
    return getattr(request.state, "principal", None) or NOBODY


PrincipalDep = Annotated[Principal, Depends(get_principal)]


async def get_service(request: Request, principal: PrincipalDep) -> Service:
    """The parts that this application was created with, in the caller's project."""
    service = request.app.state.service
    assert isinstance(service, Service)
    request_id = getattr(request.state, "request_id", None)
    return replace(service, project=principal.project, request_id=request_id)


ServiceDep = Annotated[Service, Depends(get_service)]


async def get_keyring(request: Request) -> Keyring:
    """The keyring of this process, which must hear of every key that changes."""
    keyring = request.app.state.keyring
    assert isinstance(keyring, Keyring)
    return keyring


KeyringDep = Annotated[Keyring, Depends(get_keyring)]


SUBMISSIONS_AT_ONCE = 4
PATIENCE_SECONDS = 0.25


def submission_places() -> asyncio.Semaphore:
    """The places of a process for submissions that are being checked and inserted."""
    return asyncio.Semaphore(SUBMISSIONS_AT_ONCE)


async def await_place(request: Request) -> AsyncIterator[None]:
    """Hold one of the process's places for submissions, first come first served.

    Threads that all insert at once take each other's time in no order, so that a few wait for
    long. A submission that has waited for a while goes on without a place: those that hold them
    may be asking the Hub for a model, which takes seconds.
    """
    places: asyncio.Semaphore = request.app.state.submission_places
    has_place = False
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            has_place = await places.acquire()
    try:
        yield
    finally:
        if has_place:
            places.release()


# Until the job is inserted, not until the answer is sent.
PLACE = Depends(await_place, scope="function")


async def require_merge_patch(request: Request) -> None:
    """Raises WrongMediaType unless the body is declared as a JSON Merge Patch, or as JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != MERGE_PATCH:
        await require_json(request)


async def require_json(request: Request) -> None:
    """Raises WrongMediaType unless the body is declared as JSON.

    A browser lets any web page post other types to this service without asking it first.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise WrongMediaType(f"the body must be application/json, not {kind or 'untyped'!r}")


JobId = Annotated[str, Path(max_length=64, description="The id of a job.")]
DatasetId = Annotated[
    str, Path(max_length=64, description="The id of an uploaded dataset, such as `ds_…`.")
]
CheckpointId = Annotated[
    str, Path(max_length=64, description="The id of a checkpoint, such as `ck_…`.")
]


def no_job(job_id: str) -> NotFound:
    """The error of a job that does not exist, at least not in the caller's project."""
    return NotFound(f"no job {printable(job_id)!r}; GET /v1/jobs lists them")


def find_job(job_id: JobId, service: ServiceDep) -> Job:
    """The job of any kind that the path names. Raises NotFound."""
    with service.database.read() as session:
        job = session.get(Job, job_id)
    if job is None or job.project != service.project:
        raise no_job(job_id)
    return job


def find_dataset(dataset_id: DatasetId, service: ServiceDep) -> Dataset:
    """The uploaded dataset that the path names. Raises NotFound."""
    with service.database.read() as session:
        row = session.get(Dataset, dataset_id)
    if row is None or row.project != service.project:
        raise no_dataset(dataset_id)
    return row


def no_dataset(dataset_id: str) -> NotFound:
    """The error for an id that no stored dataset has; for other datasets, what to do."""
    name = printable(dataset_id)
    if "/" not in dataset_id:
        return NotFound(f"no dataset {name!r}; GET /v1/datasets lists them")
    task = TASKS.get(dataset_id)
    kind = "a preset" if task else "no id of a stored dataset"
    hub, config = (task.hub, task.config) if task else (name, None)
    reference = json.dumps({"hub": hub, "config": config})
    return NotFound(
        f"{name!r} is {kind}, and only stored datasets have this; POST /v1/datasets with "
        f"{reference} (and columns, where they cannot be inferred) stores it and answers an id"
    )


def find_checkpoint(checkpoint_id: CheckpointId, service: ServiceDep) -> Checkpoint:
    """The checkpoint that the path names. Raises NotFound."""
    row = checkpoint_of(service.database, service.project, checkpoint_id)
    if row is None:
        raise NotFound(f"no checkpoint {printable(checkpoint_id)!r}")
    return row


JobDep = Annotated[Job, Depends(find_job)]
DatasetDep = Annotated[Dataset, Depends(find_dataset)]
CheckpointDep = Annotated[Checkpoint, Depends(find_checkpoint)]
