"""Requests made from the requests of jobs that have ended: only what differs from a default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from surgery.evaluation.learning import NO_BETTER, ONE_VALUE
from surgery.schemas.jobs.selection import SelectionSpec
from surgery.schemas.options.training import TrainingSpec

Json = dict[str, Any]
SEEDS = [0, 1, 2]  # the fewest that have an interval to speak of
RATES = [5e-5, 1e-4, 3e-4]
MORE = 2  # times the budget, or the epochs, of what was not enough


def step(why: str, path: str, body: Json | None = None, method: str = "POST") -> Json:
    """One thing to do, as a job's answer has it."""
    return {"why": why, "method": method, "path": path, "body": body}


def task(row: Any) -> Json:
    """The model and the dataset as the request named them."""
    return {"model": row.spec["model"], "dataset": row.spec["dataset"]}


def training_of(row: Any, *without: str, **instead: Any) -> Json:
    """The field ``training`` of a request like a job's, empty if it needs none."""
    given = changed(row.spec.get("training") or {}, TrainingSpec)
    kept = {name: value for name, value in given.items() if name not in without}
    training = {**kept, **instead}
    return {"training": training} if training else {}


def selection_of(given: Json, ranking: str | None = None) -> Json:
    """A selection of a stored request, going by a ``ranking`` that is there if it asked for one."""
    selection = {"policy": given["policy"], **changed(given, SelectionSpec)}
    if ranking is not None and isinstance(given.get("ranking"), dict):
        selection["ranking"] = ranking
    return selection


def changed(given: Mapping[str, Any], kind: type[BaseModel]) -> Json:
    """The fields of a stored request that differ from their defaults, or have none."""
    known = {name: value for name, value in given.items() if name in kind.model_fields}
    return _differing(known, _usual(kind))


def _differing(given: Mapping[str, Any], usual: Mapping[str, Any]) -> Json:
    differing: Json = {}
    for name, value in given.items():
        default = usual.get(name, ...)
        if value == default:
            continue
        nested = isinstance(value, dict) and isinstance(default, dict)
        differing[name] = _differing(value, default) if nested else value
    return differing


@lru_cache
def _usual(kind: type[BaseModel]) -> Json:
    """The defaults of the fields that have one, as they are stored."""
    return {
        name: to_jsonable_python(field.get_default(call_default_factory=True))
        for name, field in kind.model_fields.items()
        if not field.is_required()
    }


def warned_of(result: Json) -> set[str]:
    """The codes of a result's warnings; those of early versions are texts and have none."""
    return {each["code"] for each in result["warnings"] if isinstance(each, dict)}


def learned_nothing(codes: set[str]) -> bool:
    """Whether the warnings with these codes say that nothing was learned."""
    return not codes.isdisjoint({NO_BETTER, ONE_VALUE})


def name_of(words: Sequence[Any]) -> str:
    """A name for an arm, as the command line would make it of the arm's way to train."""
    return "-".join(str(word).replace(" ", "-") for word in words)[:64]
