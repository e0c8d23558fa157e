"""Estimates: what fine-tunes would take, before anything runs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from app.api.deps import ServiceDep, require_json
from app.api.example_answers import ESTIMATE, ESTIMATE_BODIES, answers, body_examples
from app.submissions.estimates import estimate
from app.submissions.resolve import resolve_subject
from surgery.schemas.estimate import Estimate, EstimateSpec

router = APIRouter(prefix="/v1/estimates", tags=["estimates"])
Body = Annotated[EstimateSpec, body_examples(ESTIMATE_BODIES)]


@router.post(
    "",
    summary="Estimate what fine-tunes of several numbers of layers would take",
    responses=answers(ESTIMATE, 400, 409, 413, 415, 422, 503),
    dependencies=[Depends(require_json)],
)
def create_estimate(service: ServiceDep, spec: Body) -> Estimate:
    """Parameters, memory, steps and seconds for each k, answered at once; nothing is stored.

    From the model's config and headers, the lengths of the rows, and how fast finished fine-tunes
    were on the worker's device. Unknown numbers are null. Where a ranking that is not there yet
    would choose the layers, each k has its costliest and its cheapest choice.
    """
    return estimate(service, spec, resolve_subject(service, spec.model, spec.dataset))
