"""Rankings: which layers matter for a task."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response

from app.api.deps import JobDep, ServiceDep, require_json
from app.api.example_answers import JOBS, RANKING, SELECTION, answers, body_examples
from app.api.example_bodies import RANKING_BODIES
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
from app.errors import Conflict, NotFound
from app.submissions.submit import prepare_ranking
from app.tables import Job, Kind, Status
from surgery.models.layers import ranked_parts
from surgery.ranking.selection import Format, choose_layers, selection_view
from surgery.schemas.enums import METHODS, POLICIES, Policy, described
from surgery.schemas.ranking import RankingResult, RankingSpec
from surgery.schemas.selection import SelectionSpec

router = APIRouter(prefix="/v1/rankings", tags=["rankings"])


def find_ranking(job: JobDep) -> Job:
    """A job that is a ranking."""
    if job.kind != Kind.RANKING:
        raise NotFound(f"{job.id} is no ranking; GET /v1/jobs/{job.id} has it")
    return job


RankingDep = Annotated[Job, Depends(find_ranking)]
Body = Annotated[RankingSpec, body_examples(RANKING_BODIES)]
ABOUT = f"""Queue a ranking. One that was computed before is answered at once.

What the score of a layer is (`method`):

{described(METHODS)}

The gradients of `fisher` are taken at the dataset's labels (`empirical`), at `draws` of the model's
own prediction (`sampled`) or in expectation over it (`exact`); `aggregate` is of a layer's diagonal
the sum (`trace`), the `mean`, or the norm of the released code (`frobenius`).

How sure it is: intervals and `stability` come with every ranking by samples; `adaptive` scores
rows until the top layers are certain; `head_seeds` averages over new heads; `model_prior` says
how much of it remains on shuffled labels. `granularity` ranks parts of layers.
"""


@router.post(
    "",
    summary="Rank the layers of a model on a dataset",
    description=ABOUT,
    status_code=202,
    response_model=JobView,
    responses=answers(RANKING, 400, 413, 415, 422, 503, status=202)
    | {200: {"model": JobView, "description": "The stored result of the same ranking."}},
    dependencies=[Depends(require_json)],
)
def create_ranking(
    service: ServiceDep, spec: Body,
    validate_only: ValidateOnly = False, idempotency_key: IdempotencyKey = None,
) -> Response:  # fmt: skip
    """Queue a ranking, or answer with the stored result of the same one."""
    prepared = prepare_ranking(service, spec)
    return answer_submission(service, prepared, spec, idempotency_key, validate_only=validate_only)


@router.get("", summary="List rankings", responses=answers(JOBS))
def get_rankings(service: ServiceDep, asked: ListingDep) -> Page[JobView]:
    """Newest first."""
    return list_jobs(service, asked, Kind.RANKING)


@router.get("/{job_id}", summary="Get a ranking", responses=answers(RANKING, 404))
def get_ranking(job: RankingDep, service: ServiceDep) -> JobView:
    """The same object as `GET /v1/jobs/{id}`."""
    return get_job(job, service)


@router.get(
    "/{job_id}/selection",
    summary="Turn a ranking into a selection",
    responses=answers(SELECTION, 404, 409, 422),
)
def get_selection(
    job: RankingDep,
    policy: Annotated[
        Policy, Query(description=f"Which parts are chosen:\n\n{described(POLICIES)}")
    ] = Policy.TOP_K,
    k: Annotated[int | None, Query(ge=1, description="For the *_k policies.")] = None,
    share: Annotated[
        float | None, Query(gt=0, le=1, description="For top_share: of the total score.")
    ] = None,
    max_parameters: Annotated[int | None, Query(ge=1, description="For max_parameters.")] = None,
    seed: Annotated[int, Query(ge=0, description="For random_k.")] = 0,
    form: Annotated[
        Format, Query(alias="format", description="For PEFT, Axolotl, or as a regular expression.")
    ] = "json",
) -> dict[str, Any]:
    """A pure view of a ranking, of its granularity; nothing is stored.

    The default k is `recommended_k`. `regex` matches the names of exactly the chosen parameters,
    whatever the task model's prefix; `axolotl` has one for each, with plain dots, which Axolotl
    escapes itself; `peft` can name whole layers only. `trainable_parameters` are those chosen,
    `total_parameters` the checkpoint's.
    """
    if job.status != Status.SUCCEEDED:
        raise Conflict(f"ranking {job.id} is {job.status}; wait until it has succeeded")
    result = RankingResult.model_validate(job.result)
    if policy is Policy.TOP_K and k is None:
        k = result.recommended_k.k
    selection = SelectionSpec(
        policy=policy, k=k, share=share, max_parameters=max_parameters, seed=seed
    )
    chosen = choose_layers(selection, ranked_parts(result), result)
    return {
        "ranking": job.id, "model": job.model, "granularity": result.granularity,
        "policy": policy, "k": k, "share": share, "max_parameters": max_parameters, "format": form,
        "selection": selection_view(chosen, form, result.granularity),
        "trainable_parameters": sum(layer.parameters for layer in chosen),
        "total_parameters": job.resolved["model"].get("parameters"),
    }  # fmt: skip
