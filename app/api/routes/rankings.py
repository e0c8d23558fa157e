"""Rankings: which layers matter for a task."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Query

from app.api.example_answers import RANKING, SELECTION, answers
from app.api.example_bodies import RANKING_BODIES
from app.api.routes.kinds import KindOfJob
from app.api.views import JobView
from app.errors import Conflict
from app.submissions.submit import prepare_ranking
from app.tables import Job, Kind, Status
from surgery.models.layers import ranked_parts
from surgery.ranking.selection import SelectionFormat, choose_layers, selection_view
from surgery.schemas.enums import METHODS, POLICIES, Policy, described
from surgery.schemas.ranking import RankingResult, RankingSpec
from surgery.schemas.resolved import Resolved
from surgery.schemas.selection import SelectionSpec

DESCRIPTION = f"""Queue a ranking. One that was computed before is answered at once.

What the score of a layer is (`method`):

{described(METHODS)}

The gradients of `fisher` are taken at the dataset's labels (`empirical`), at `draws` of the model's
own prediction (`sampled`) or in expectation over it (`exact`); `aggregate` is of a layer's diagonal
the sum (`trace`), the `mean`, or the norm of the released code (`frobenius`).

How sure it is: intervals and `stability` come with every ranking by samples; `adaptive` scores
rows until the top layers are certain; `head_seeds` averages over new heads; `model_prior` says
how much of it remains on shuffled labels. `granularity` ranks parts of layers.
"""

RANKINGS = KindOfJob(
    kind=Kind.RANKING,
    name="ranking",
    spec=RankingSpec,
    prepare=prepare_ranking,
    bodies=RANKING_BODIES,
    job=RANKING,
    refusals=(400, 413, 415, 422, 503),
    summary="Rank the layers of a model on a dataset",
    description=DESCRIPTION,
)
router = RANKINGS.router(
    {200: {"model": JobView, "description": "The stored result of the same ranking."}}
)
RankingDep = Annotated[Job, Depends(RANKINGS.find)]


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
        SelectionFormat,
        Query(alias="format", description="For PEFT, Axolotl, or as a regular expression."),
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
        "total_parameters": Resolved.of(job.resolved).model.parameters,
    }  # fmt: skip
