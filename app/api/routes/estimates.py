"""Estimates of the memory and time that fine-tunes and searches would take."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from app.api.deps import ServiceDep, require_json
from app.api.examples.answers import ESTIMATE, answers, body_examples
from app.api.examples.bodies import ESTIMATE_BODIES
from app.api.http.idempotency import IdempotentRoute
from app.submissions.estimating.estimate import estimate
from app.submissions.resolve import resolve_subject
from surgery.schemas.jobs.estimate import Estimate, EstimateSpec

router = APIRouter(prefix="/v1/estimates", tags=["estimates"], route_class=IdempotentRoute)
Body = Annotated[EstimateSpec, body_examples(ESTIMATE_BODIES)]


@router.post(
    "",
    summary="Estimate the costs of fine-tuning several numbers of layers",
    responses=answers(ESTIMATE, 400, 409, 413, 415, 503),
    dependencies=[Depends(require_json)],
)
def create_estimate(service: ServiceDep, spec: Body) -> Estimate:
    """Answers the parameters, memory, steps and seconds for each k at once. Nothing is stored.

    The numbers are computed from the model's config and headers, the lengths of the dataset's
    rows, and the speed of finished fine-tunes on the worker's device. Numbers that are not known
    are null. Where the layers depend on a ranking that has not been computed yet, each k has two
    rows: its costliest choice of layers and its cheapest. So has policy `search` before its search
    has run; `search` is then what the search itself would cost, as it is for a request with the
    options of a search in place of a selection.
    """
    return estimate(service, spec, resolve_subject(service, spec.model, spec.dataset))
