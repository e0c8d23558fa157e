"""What to do after a ranking or a search: train the layers, or find better ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from app.api.answers.next_steps.requests import (
    MORE,
    RATES,
    SEEDS,
    Json,
    changed,
    learned_nothing,
    step,
    task,
    training_of,
    warned_of,
)
from surgery.schemas.jobs.ranking import RankingSpec
from surgery.schemas.jobs.search import SearchOptions

OWN_ORDER = (
    0.4  # from this τ with the ranking on shuffled labels on, part of an order is the model's
)
MOST_SHARE = 10.0  # that a search takes
UNLEARNT = 0.95  # a loss above this share of a constant prediction's is hardly less


def after_ranking(row: Any) -> Iterator[Json]:
    """A search where the ranking says little, else its layers; a comparison with other layers."""
    result = row.result
    if "recommended_k" not in result:  # as in results of early versions
        return
    k, doubts = result["recommended_k"]["k"], list(_doubts(row.result))
    length = row.spec.get("max_length")
    usual = RankingSpec.model_fields["max_length"].default
    same = {} if length in {None, usual} else {"max_length": length}
    if doubts:
        why = f"{'; '.join(doubts)}: short training runs find the layers that learn the task"
        yield step(why, "/v1/searches", {**task(row), **training_of(row, **same)})
    else:
        selection = {"policy": "top_k", "k": k, "ranking": row.id}
        body = {**task(row), "selection": selection, **training_of(row, **same)}
        yield step("train the recommended layers", "/v1/finetunes", body)
    arms = list(_arms(result, k))
    if arms:
        why = "whether training these layers is better than others or all, with seeds and rates"
        training = training_of(row, **same, learning_rates=RATES)
        yield step(why, "/v1/comparisons", {**task(row), "arms": arms, "seeds": SEEDS, **training})


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


def after_search(row: Any) -> Iterator[Json]:
    """The fine-tune of what was found; where that is not certain, a search with a larger budget."""
    learned = not learned_nothing(warned_of(row.result))
    if learned:
        selection = {"policy": "search", "search": row.id}
        body = {**task(row), "selection": selection, **training_of(row)}
        yield step("train the layers that were found, at their rate", "/v1/finetunes", body)
    options = changed(row.spec, SearchOptions)
    budget = _larger_budget(row, options.get("budget_seconds"))
    if budget and (row.result.get("winner") is None or not learned):
        body = {**task(row), **options, **budget, **training_of(row)}
        why = "the choice is not certain; a larger budget tells more candidates apart"
        if not learned:
            why = "nothing was learned; a larger budget trains candidates for longer"
        yield step(why, "/v1/searches", body)


def _larger_budget(row: Any, seconds: float | None) -> Json:
    """The option that gives a search more; none where it had the largest share there is."""
    if seconds:
        return {"budget_seconds": MORE * seconds}
    share = row.spec.get("budget_share") or SearchOptions().budget_share
    return {"budget_share": min(MOST_SHARE, MORE * share)} if share < MOST_SHARE else {}
