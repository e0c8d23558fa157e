"""Fine-tunes: train the selected layers and the head."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from app.api.deps import JobDep, ServiceDep, require_json
from app.api.example_answers import FINETUNE, JOBS, answers, body_examples
from app.api.example_bodies import FINETUNE_BODIES
from app.api.pages import Page
from app.api.routes.jobs import (
    IdempotencyKey,
    ListingDep,
    ValidateOnly,
    answer_submission,
    get_job,
    list_jobs,
)
from app.api.views import JobView
from app.errors import NotFound
from app.submissions.submit import prepare_finetune
from app.tables import Job, Kind
from surgery.schemas.enums import POLICIES, described
from surgery.schemas.finetune import FinetuneSpec

router = APIRouter(prefix="/v1/finetunes", tags=["fine-tunes"])


def find_finetune(job: JobDep) -> Job:
    """A job that is a fine-tune."""
    if job.kind != Kind.FINETUNE:
        raise NotFound(f"{job.id} is no fine-tune; GET /v1/jobs/{job.id} has it")
    return job


Body = Annotated[FinetuneSpec, body_examples(FINETUNE_BODIES)]
ABOUT = f"""Queue a fine-tune of what `selection` names, and of the head.

`selection.policy` says what trains beside the head:

{described(POLICIES)}

Those that go by a ranking take `ranking`: an id, options, or nothing; what is not there yet is
computed as the job's first phase and kept.

`granularity` chooses among layers, their attention and feed-forward parts, or single tensors.
`resolved` has the names, their scores and the number of parameters that train.
A selection that matches nothing is refused; nothing else ever trains in its place.

A ranking by any method will do. `track_ranking` scores the layers by Fisher information again at
every evaluation and says whether their order stayed what it was.
"""


@router.post(
    "",
    summary="Fine-tune selected layers of a model on a dataset",
    description=ABOUT,
    status_code=202,
    response_model=JobView,
    responses=answers(FINETUNE, 400, 409, 413, 415, 422, 503, status=202),
    dependencies=[Depends(require_json)],
)
def create_finetune(
    service: ServiceDep, spec: Body,
    validate_only: ValidateOnly = False, idempotency_key: IdempotencyKey = None,
) -> Response:  # fmt: skip
    """Queue a fine-tune."""
    prepared = prepare_finetune(service, spec)
    return answer_submission(service, prepared, spec, idempotency_key, validate_only=validate_only)


@router.get("", summary="List fine-tunes", responses=answers(JOBS))
def get_finetunes(service: ServiceDep, asked: ListingDep) -> Page[JobView]:
    """Newest first."""
    return list_jobs(service, asked, Kind.FINETUNE)


@router.get("/{job_id}", summary="Get a fine-tune", responses=answers(FINETUNE, 404))
def get_finetune(job: Annotated[Job, Depends(find_finetune)], service: ServiceDep) -> JobView:
    """The same object as `GET /v1/jobs/{id}`."""
    return get_job(job, service)
