"""Comparisons: several ways to train, on the same data and seeds."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from app.api.deps import JobDep, ServiceDep, require_json
from app.api.example_answers import COMPARISON, COMPARISON_BODIES, JOBS, answers, body_examples
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
from app.submissions.comparisons import prepare_comparison
from app.tables import Job, Kind
from surgery.schemas.comparison import ComparisonSpec

router = APIRouter(prefix="/v1/comparisons", tags=["comparisons"])


def find_comparison(job: JobDep) -> Job:
    """A job that is a comparison."""
    if job.kind != Kind.COMPARISON:
        raise NotFound(f"{job.id} is no comparison; GET /v1/jobs/{job.id} has it")
    return job


Body = Annotated[ComparisonSpec, body_examples(COMPARISON_BODIES)]


@router.post(
    "",
    summary="Compare ways to fine-tune a model on a dataset",
    status_code=202,
    response_model=JobView,
    responses=answers(COMPARISON, 400, 413, 415, 422, 503, status=202),
    dependencies=[Depends(require_json)],
)
def create_comparison(
    service: ServiceDep, spec: Body,
    validate_only: ValidateOnly = False, idempotency_key: IdempotencyKey = None,
) -> Response:  # fmt: skip
    """Run each arm with each seed, as fine-tunes of their own, and tabulate what they reached.

    Rankings that arms go by are computed once, before the arms that need them. The comparison is
    running from the start and ends with its last child; `GET /v1/jobs?parent={id}` lists them.
    It succeeds when any run did, with the others under `failures`; cancelling it cancels them all.
    """
    prepared = prepare_comparison(service, spec)
    return answer_submission(service, prepared, spec, idempotency_key, validate_only=validate_only)


@router.get("", summary="List comparisons", responses=answers(JOBS))
def get_comparisons(service: ServiceDep, asked: ListingDep) -> Page[JobView]:
    """Newest first."""
    return list_jobs(service, asked, Kind.COMPARISON)


@router.get("/{job_id}", summary="Get a comparison", responses=answers(COMPARISON, 404))
def get_comparison(job: Annotated[Job, Depends(find_comparison)], service: ServiceDep) -> JobView:
    """The same object as `GET /v1/jobs/{id}`."""
    return get_job(job, service)
