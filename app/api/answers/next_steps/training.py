"""What to do after a fine-tune or a comparison: take its checkpoint, or find what learns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from app.api.answers.next_steps.requests import (
    MORE,
    RATES,
    SEEDS,
    Json,
    changed,
    learned_nothing,
    name_of,
    selection_of,
    step,
    task,
    training_of,
    warned_of,
)
from surgery.evaluation.decision.words import open_question, rounded
from surgery.evaluation.learning import ABOVE, GREW
from surgery.schemas.decision import AgainstBest, Decision
from surgery.schemas.enums import POLICIES, Policy
from surgery.schemas.jobs.comparison import MAX_RUNS, ArmSpec, ComparisonSpec
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.schemas.options.adapter import LORA_LEARNING_RATE, AdapterSpec

MOST_SEEDS, MOST_EPOCHS = 16, 1000  # that a comparison takes
LOWER = (30, 10, 3)  # parts of a rate that was too high
LORA_RATES = [2e-4, LORA_LEARNING_RATE, 1e-3]
OF_RATES = ("learning_rate", "learning_rates")
# What means nothing to a search, or not to every arm of a comparison.
OF_LAYERS = (*OF_RATES, "layer_schedule", "layer_learning_rates", "seed")
OF_JOB = ("name", "metadata", "priority", "deadline_seconds")  # said of that job alone
TRAINED = ("selection", "adapter")


def after_finetune(row: Any) -> Iterator[Json]:
    """The download of its best checkpoint; where it learned nothing, what would find out why."""
    result, codes = row.result, warned_of(row.result)
    if learned_nothing(codes):
        if row.spec.get("continue_from") is None:  # a search and a comparison start from the model
            yield from _searched(row)
            yield _beside_others(row)
        return
    if result.get("best_checkpoint"):
        kind = (result.get("adapter") or {}).get("type")
        yield _download("use the best checkpoint", result["best_checkpoint"], kind)
    if codes & {ABOVE, GREW}:
        yield from _at_lower_rates(row)


def after_comparison(row: Any) -> Iterator[Json]:
    """The download of what was decided for; where nothing is, the comparison that would tell."""
    result = row.result
    if not result.get("decision"):  # as in results of early versions
        return
    try:
        decision = Decision.model_validate(result["decision"])
    except ValidationError:  # stored by another version
        return
    if decision.outcome == "baseline":
        yield from _searched(row)
        yield _again(row, ["no arm learned"], **_more(row))
        return
    if decision.checkpoint:
        arm = next(each for each in result["arms"] if each["name"] == decision.cheapest)
        why = f"use the checkpoint of {decision.cheapest}, the arm to take"
        yield _download(why, decision.checkpoint, arm.get("adapter"))
    yield from _telling_more(row, decision)


def _download(why: str, checkpoint: str, adapter: str | None) -> Json:
    """The checkpoint as a folder that transformers loads, or of LoRA as PEFT's."""
    form = "" if adapter == "lora" else "?form=full"
    return step(why, f"/v1/checkpoints/{checkpoint}/archive{form}", method="GET")


def _searched(row: Any) -> Iterator[Json]:
    if POLICIES[_policy(row)].searches:  # one has been made
        return
    why = (
        "nothing was learned: short runs of other layers at several rates find what learns, or "
        "show that nothing does, and then the labels may not belong to their texts"
    )
    yield step(why, "/v1/searches", {**task(row), **training_of(row, *OF_LAYERS)})


def _policy(row: Any) -> Policy:
    """How a fine-tune's layers were chosen; of a comparison, which has many arms, none's."""
    return Policy(row.spec.get("selection", {}).get("policy", Policy.ALL))


def _more(row: Any) -> Json:
    """Options of training that have not been tried: several rates or, after these, more epochs."""
    given, arms = row.spec["training"], row.spec.get("arms") or []
    rates = given.get("learning_rates")
    if rates is None and not (arms and all(arm.get("learning_rates") for arm in arms)):
        return {"learning_rates": RATES}
    epochs = min(MORE * given["epochs"], MOST_EPOCHS)
    return {"epochs": epochs, **({"learning_rates": rates} if rates else {})}


def _beside_others(row: Any) -> Json:
    """A comparison of what a fine-tune trained with all layers and with the head alone."""
    own = _own_arm(row)
    others = [
        {"name": policy.value, "selection": {"policy": policy.value}}
        for policy in (Policy.ALL, Policy.HEAD_ONLY)
    ]
    arms = [own, *(arm for arm in others if arm["selection"] != own.get("selection"))]
    why = "whether it is these layers, the rate or the data: others beside them, each at its rate"
    training = training_of(row, *OF_LAYERS, **_more(row))
    return step(why, "/v1/comparisons", {**task(row), "arms": arms, "seeds": SEEDS, **training})


def _own_arm(row: Any) -> Json:
    """What a fine-tune trained, as an arm."""
    schedule = row.spec["training"].get("layer_schedule")
    scheduled = {"layer_schedule": schedule} if schedule else {}
    if row.spec.get("adapter") is not None:
        adapter = _adapter(row.spec["adapter"])
        rates = {"learning_rates": LORA_RATES} if adapter["type"] == "lora" else {}
        return {"name": adapter["type"], "adapter": adapter, **rates}
    selection = selection_of(row.spec["selection"], row.result.get("ranking"))
    if row.result.get("search"):
        selection["search"] = row.result["search"]
    takes = POLICIES[Policy(selection["policy"])].takes
    value = selection[takes] if takes else []
    words = [*(value if isinstance(value, list) else [value]), *selection.get("include", [])]
    name = name_of([selection["policy"], *words])
    return {"name": name, "selection": selection, **scheduled}


def _adapter(given: Json) -> Json:
    return {"type": given["type"], **changed(given, AdapterSpec)}


def _at_lower_rates(row: Any) -> Iterator[Json]:
    """The same fine-tune at the best of several lower rates, if it had one of its own."""
    if POLICIES[_policy(row)].searches or row.spec["training"].get("learning_rates"):
        return
    rate = row.spec["training"]["learning_rate"]
    lower = [float(f"{rate / part:.0e}") for part in LOWER]
    same = _without(changed(row.spec, FinetuneSpec), *OF_JOB, *TRAINED, "training")
    training = training_of(row, *OF_RATES, learning_rates=lower)
    why = f"the loss rose at a learning rate of {rate:g}: train at the best of several lower ones"
    yield step(why, "/v1/finetunes", {**same, **_trained(row.spec), **training})


def _trained(given: Json) -> Json:
    """The adapter or else the selection of a stored fine-tune or arm."""
    if given.get("adapter") is not None:
        return {"adapter": _adapter(given["adapter"])}
    return {"selection": selection_of(given["selection"])}


def _without(given: Json, *names: str) -> Json:
    return {name: value for name, value in given.items() if name not in names}


def _telling_more(row: Any, decision: Decision) -> Iterator[Json]:
    """The same comparison with more seeds, or at rates of their own, as far as that would tell."""
    if decision.outcome in {"ceiling", "one_way"}:
        return
    reasons: list[str] = []
    instead: Json = {}
    if "shared_learning_rate" in warned_of(row.result):
        reasons.append("each arm at the best of several rates, as one does not suit all")
        instead["learning_rates"] = RATES
    other = open_question(decision)
    seeds = None if other is None else _seeds(row, other)
    if other is not None and seeds is not None:
        known = other.needed is not None
        some = f"some {len(seeds)} seeds would tell" if known else "several seeds can tell"
        reasons.append(f"{some} {decision.best} from {other.arm}")
    if reasons:
        yield _again(row, reasons, seeds, **instead)
    if other is not None and seeds is None:
        yield from _more_rows(row, decision, other)


def _seeds(row: Any, other: AgainstBest) -> list[int] | None:
    """The seeds that would tell an arm from the best one; None if no comparison takes so many."""
    given = row.spec["seeds"]
    if len(given) == 1:
        count: int | None = len(SEEDS)
    else:
        needed = other.needed
        count = None if needed is None or needed.together else needed.seeds
    if count is None or count > MOST_SEEDS or count * len(row.result["arms"]) > MAX_RUNS:
        return None
    new = [seed for seed in range(MOST_SEEDS + len(given)) if seed not in given]
    return [*given, *new][:count]


def _more_rows(row: Any, decision: Decision, other: AgainstBest) -> Iterator[Json]:
    """An upload of more validation rows, if they alone would tell and the dataset was uploaded."""
    needed, dataset = other.needed, row.spec["dataset"]
    uploaded = isinstance(dataset, str) and dataset.startswith("ds_")
    if needed is None or needed.together or needed.validation_rows is None or not uploaded:
        return
    why = (
        f"upload some {rounded(needed.validation_rows):,} validation rows, which would tell "
        f"{decision.best} from {other.arm}, and compare on them again"
    )
    yield step(why, "/v1/datasets")


def _again(row: Any, reasons: list[str], seeds: list[int] | None = None, **instead: Any) -> Json:
    """The same comparison with other options of training, or more seeds."""
    given = _without(changed(row.spec, ComparisonSpec), *OF_JOB, "training")
    if row.spec["arms"]:
        given["arms"] = [_arm(arm) for arm in row.spec["arms"]]
    if seeds is not None:
        given["seeds"] = seeds
    without = OF_RATES if "learning_rates" in instead else ()
    body = {**given, **training_of(row, *without, **instead)}
    why = "; ".join(reasons)
    if "epochs" in instead:
        why += ": the same arms for more epochs"
    elif reasons == ["no arm learned"]:
        why += ": the same arms, each at the best of several rates"
    return step(why, "/v1/comparisons", body)


def _arm(given: Json) -> Json:
    """An arm of a stored request, without what is left to its defaults."""
    return {"name": given["name"], **_trained(given), **_without(changed(given, ArmSpec), *TRAINED)}
