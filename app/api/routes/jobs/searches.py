"""Searches for the layers to train, and the learning rate to train them at."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends

from app.api.answers.selection_formats import Format, written_selection
from app.api.deps import ServiceDep
from app.api.examples.answers import SEARCH, SEARCH_SELECTION, answers
from app.api.examples.bodies import SEARCH_BODIES
from app.api.routes.jobs.kinds import KindOfJob
from app.db.tables import Job, JobKind, Status
from app.errors import Conflict
from app.submissions.submit import prepare_search
from surgery.schemas.enums import Granularity
from surgery.schemas.jobs.search import SearchResult, SearchSpec
from surgery.schemas.resolved import LayerInfo

DESCRIPTION = """Queues a search for the layers that learn a task best, and for their learning rate.

Candidates are sets of layers: each layer alone, pairs, runs of neighbours, and all layers. They
train for a few steps at several learning rates on a part of the train rows and are judged on the
rest of them. Those that do worse are dropped, the others train on, until one is certain to be the
best or the budget is spent; a score of every layer says which candidates come first. The
validation rows are not read.

The result has the chosen layers and their rate, whether they are certain to be the best, what they
are expected to gain over all layers and over the two best by the Fisher score, every candidate with
its runs, and what the search cost beside training each layer alone. A fine-tune trains what a
search has found with `"selection": {"policy": "search", "search": "se_…"}`.

Every search runs, also one that is equal to an earlier one: how far its budget reaches depends on
the machine. A search that was interrupted goes on from its last saved state.
"""

SEARCHES = KindOfJob(
    kind=JobKind.SEARCH,
    name="search",
    spec=SearchSpec,
    prepare=prepare_search,
    bodies=SEARCH_BODIES,
    job=SEARCH,
    refusals=(400, 413, 415, 503),
    summary="Search for the layers to train and their learning rate",
    description=DESCRIPTION,
    plural="searches",
)
router = SEARCHES.router()
SearchDep = Annotated[Job, Depends(SEARCHES.find)]


@router.get(
    "/{job_id}/selection",
    name="get_search_selection",
    summary="Write what a search found for another tool",
    responses=answers(SEARCH_SELECTION, 404, 409),
)
def get_search_selection(
    job: SearchDep, service: ServiceDep, form: Format = "json"
) -> dict[str, Any]:
    """Answers the layers that a search has found, for use in other tools, and their learning rate.

    Nothing is stored. The formats are those of a ranking's selection. `matches` says how many
    tensors of the model the answer stands for, read as the tool reads it; it is null while the
    model cannot be read. `trainable_parameters` counts the parameters of the layers, and
    `total_parameters` those of the model's checkpoint.
    """
    if job.status != Status.SUCCEEDED:
        raise Conflict(f"search {job.id} is {job.status}; wait until it has succeeded")
    result = SearchResult.model_validate(job.result)
    found = set(result.layers)
    chosen = [LayerInfo(**dict(each)) for each in result.model_layers if each.name in found]
    return {
        "search": job.id,
        "model": job.model,
        "granularity": Granularity.LAYER,
        "learning_rate": result.learning_rate,
        **written_selection(service, job, chosen, form, Granularity.LAYER),
    }
