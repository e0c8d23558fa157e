"""What to do after a job: the requests that settle what it leaves open, with its own ids.

They are made when a job is answered, and nothing of them is stored. A finished ranking names what
would tell whether its order is about the task, a search what would make its choice certain, and a
job that failed or was cancelled its retry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from pydantic import BaseModel

from app.jobs.actions import Action, allowed_actions
from app.tables import JobKind, Status
from surgery.schemas.ranking import RankingSpec
from surgery.schemas.search import SearchOptions
from surgery.schemas.training import TrainingSpec

Json = dict[str, Any]
OWN_ORDER = (
    0.4  # from this τ with the ranking on shuffled labels on, part of an order is the model's
)
UNLEARNT = 0.95  # a loss above this share of a constant prediction's is hardly less
SEEDS = [0, 1, 2]  # the fewest that have an interval to speak of
RATES = [5e-5, 1e-4, 3e-4]
MORE = 2  # times the budget of a search whose choice is not certain


def next_steps(row: Any) -> list[Json]:
    """What to do after a job, best first; empty while it has not ended."""
    if row.status in {Status.FAILED, Status.CANCELLED}:
        return list(_retry(row))
    after = _AFTER.get(row.kind)
    if row.status != Status.SUCCEEDED or after is None or "model" not in row.spec:
        return []
    return list(after(row))


def _step(why: str, path: str, body: Json | None = None) -> Json:
    return {"why": why, "method": "POST", "path": path, "body": body}


def _retry(row: Any) -> Iterator[Json]:
    if Action.RETRY not in allowed_actions(row):
        return
    why = "the same request may succeed when it is sent again"
    if row.status == Status.CANCELLED:
        why = "the same request, sent again"
    elif not (row.error or {}).get("retriable"):
        why = "the same request again, once what the error names is mended; it would fail as it is"
    yield _step(why, f"/v1/jobs/{row.id}/retry")


def _after_ranking(row: Any) -> Iterator[Json]:
    result, task = row.result, _task(row)
    if "recommended_k" not in result:  # as in results of early versions
        return
    k, doubts = result["recommended_k"]["k"], list(_doubts(row.result))
    length = row.spec.get("max_length")
    usual = RankingSpec.model_fields["max_length"].default
    training = {} if length in {None, usual} else {"max_length": length}
    if doubts:
        why = f"{'; '.join(doubts)}: short training runs find the layers that learn the task"
        yield _step(why, "/v1/searches", {**task, **_training(training)})
    else:
        selection = {"policy": "top_k", "k": k, "ranking": row.id}
        body = {**task, "selection": selection, **_training(training)}
        yield _step("train the recommended layers", "/v1/finetunes", body)
    arms = list(_arms(result, k))
    if arms:
        why = "whether training these layers is better than others or all, with seeds and rates"
        training = {**training, "learning_rates": RATES}
        body = {**task, "arms": arms, "seeds": SEEDS, **_training(training)}
        yield _step(why, "/v1/comparisons", body)


def _doubts(result: Json) -> Iterator[str]:
    """Why a ranking may say little about the task."""
    head, prior = result.get("head") or {}, result.get("model_prior") or {}
    if result.get("samples") == 0:
        yield "this order is read off no row of the task"
    tau = prior.get("kendall_tau")
    if tau is not None and tau >= OWN_ORDER:
        yield f"much of this order is the model's own (τ {tau:.2f} with that on shuffled labels)"
    loss, constant = head.get("loss"), head.get("baseline_loss")
    if loss is not None and constant and loss > UNLEARNT * constant:
        yield f"the head hardly predicts the labels (loss {loss:.3g}, a constant {constant:.3g})"
    k = result["recommended_k"]["k"]
    if k in ((result.get("stability") or {}).get("ambiguous_k") or []):
        yield f"which layers are the top {k} depends on the rows that were drawn"
    if result.get("adaptive") and not result["adaptive"]["certain"]:
        yield "the top layers are not certain"


def _arms(result: Json, k: int) -> Iterator[Json]:
    """The top layers, as many others, and all; none where that is not three different arms."""
    indices = [layer["index"] for layer in result["layers"]]
    depth = len(set(indices))
    if result.get("granularity", "layer") != "layer" or not 0 < k < depth == len(indices):
        return
    top = sorted(indices[:k])
    others = "first_k" if top == list(range(depth - k, depth)) else "last_k"
    yield {"name": f"top-{k}", "selection": {"policy": "layers", "layers": top}}
    yield {"name": f"{others[:-2]}-{k}", "selection": {"policy": others, "k": k}}
    yield {"name": "all", "selection": {"policy": "all"}}


def _after_search(row: Any) -> Iterator[Json]:
    training = _changed(row.spec.get("training") or {}, TrainingSpec)
    selection = {"policy": "search", "search": row.id}
    body = {**_task(row), "selection": selection, **_training(training)}
    yield _step("train the layers that were found, at their rate", "/v1/finetunes", body)
    if row.result.get("winner") is None:
        options = _changed(row.spec, SearchOptions)
        seconds = options.get("budget_seconds")
        share = row.spec.get("budget_share") or SearchOptions().budget_share
        budget = (
            {"budget_seconds": MORE * seconds}
            if seconds
            else {"budget_share": min(10.0, MORE * share)}
        )
        body = {**_task(row), **options, **budget, **_training(training)}
        why = "the choice is not certain; a larger budget tells more candidates apart"
        yield _step(why, "/v1/searches", body)


_AFTER: Mapping[str, Callable[[Any], Iterator[Json]]] = {
    JobKind.RANKING: _after_ranking,
    JobKind.SEARCH: _after_search,
}


def _task(row: Any) -> Json:
    """The model and the dataset as the request named them."""
    return {"model": row.spec["model"], "dataset": row.spec["dataset"]}


def _training(training: Json) -> Json:
    return {"training": training} if training else {}


def _changed(given: Json, kind: type[BaseModel]) -> Json:
    """The fields of a stored request that differ from their defaults."""
    usual = _usual(kind)
    return {name: each for name, each in given.items() if name in usual and each != usual[name]}


@lru_cache
def _usual(kind: type[BaseModel]) -> Json:
    return kind().model_dump(mode="json")
