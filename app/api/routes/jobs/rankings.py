"""Rankings of a model's layers by how much they matter for a task."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Query

from app.api.answers.selection_formats import Format, written_selection
from app.api.deps import ServiceDep
from app.api.examples.answers import RANKING, SELECTION, answers
from app.api.examples.bodies import RANKING_BODIES
from app.api.routes.jobs.kinds import KindOfJob
from app.db.tables import Job, JobKind, Status
from app.errors import Conflict
from app.submissions.submit import prepare_ranking
from surgery.models.layers import ranked_parts
from surgery.ranking.selection import choose_layers
from surgery.schemas.answers.job import DryRun, JobView
from surgery.schemas.enums import METHODS, POLICIES, Policy, described
from surgery.schemas.jobs.ranking import RankingResult, RankingSpec
from surgery.schemas.jobs.selection import SelectionSpec

DESCRIPTION = f"""Queues a ranking. The result of one that was computed before is answered at once.

`method` says what the score of a layer is:

{described(METHODS)}

For method `fisher`, the field `fisher` says at which labels the gradients are taken: those of the
dataset (`empirical`), `draws` labels drawn from the model's own prediction (`sampled`), or all
labels by their predicted probability (`exact`). `aggregate` says how the diagonal of a layer
becomes its score: as the sum (`trace`), the `mean`, or the norm of the paper's released code
(`frobenius`).

`granularity` says whether whole layers are ranked, their attention and feed-forward parts, or
single tensors.

Every ranking from samples reports confidence intervals and its `stability`. `adaptive` scores rows
until the top layers are certain, which at most 5 % of rankings say of wrong ones, `head_seeds`
averages over several new heads, and `model_prior` reports how much of the ranking remains on
shuffled labels. `minus` takes that part away: the score is then how far a layer's part of the total
is above its part on shuffled labels.
"""

RANKINGS = KindOfJob(
    kind=JobKind.RANKING,
    name="ranking",
    spec=RankingSpec,
    prepare=prepare_ranking,
    bodies=RANKING_BODIES,
    job=RANKING,
    refusals=(400, 413, 415, 503),
    summary="Rank the layers of a model on a dataset",
    description=DESCRIPTION,
    at_once=JobView | DryRun,
)
router = RANKINGS.router()
RankingDep = Annotated[Job, Depends(RANKINGS.find)]


@router.get(
    "/{job_id}/selection",
    summary="Turn a ranking into a selection",
    responses=answers(SELECTION, 404, 409),
)
def get_selection(
    job: RankingDep,
    service: ServiceDep,
    policy: Annotated[
        Policy, Query(description=f"How the layers are chosen:\n\n{described(POLICIES)}")
    ] = Policy.TOP_K,
    k: Annotated[
        int | None,
        Query(
            ge=1,
            description="For the *_k policies: how many layers are chosen. Default for `top_k`: "
            "the ranking's `recommended_k`.",
        ),
    ] = None,
    share: Annotated[
        float | None,
        Query(gt=0, le=1, description="For `top_share`: the share of the total score."),
    ] = None,
    max_parameters: Annotated[
        int | None,
        Query(ge=1, description="For `max_parameters`: the largest number of parameters."),
    ] = None,
    seed: Annotated[int, Query(ge=0, description="For `random_k`: the seed of the draw.")] = 0,
    form: Format = "json",
) -> dict[str, Any]:
    """Answers which layers of a ranking a policy chooses, for use in other tools.

    Nothing is stored. Layers, their parts or tensors are chosen, as the ranking ranks them.

    `regex` matches the whole names of exactly the chosen parameters, with any prefix that a task
    model puts before them. `axolotl` has one expression for each part, with plain dots, which
    Axolotl escapes itself. `peft` can name whole layers of one list only; a choice that it cannot
    express is 422. `matches` says how many tensors of the model the answer stands for, read as the
    tool reads it; it is null while the model cannot be read. `trainable_parameters` counts the
    chosen parameters, and `total_parameters` those of the model's checkpoint.
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
        "ranking": job.id,
        "model": job.model,
        "granularity": result.granularity,
        "policy": policy,
        "k": k,
        "share": share,
        "max_parameters": max_parameters,
        **written_selection(service, job, chosen, form, result.granularity),
    }
