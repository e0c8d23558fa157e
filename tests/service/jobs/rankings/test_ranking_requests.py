"""Rankings that are refused before anything is queued, and how the options are documented."""

from __future__ import annotations

import json

import pytest
from fastapi.testclient import TestClient

from app.api.examples.answers import (
    FINETUNE_BODIES,
    FINETUNE_RESULT,
    RANKING_BODIES,
    RANKING_RESULT,
)
from surgery.ranking.tangent import FOLDS
from surgery.schemas.enums import METHODS, Method
from surgery.schemas.jobs.finetune import FinetuneResult, FinetuneSpec
from surgery.schemas.jobs.ranking import RankingOptions, RankingResult, RankingSpec
from tests.support.models.mirror import TINY
from tests.support.service.problems import Json, problem, says

NEW_HEAD: Json = {"init": "new"}
WRONG: dict[str, tuple[Json, str, tuple[str, ...]]] = {
    "unknown method": ({"method": "fischer"}, "/method", ("paper_compat",)),
    "unknown precision": ({"precision": "int8"}, "/precision", ("bf16",)),
    "draws alone": ({"draws": 2}, "/draws", ("sampled",)),
    "heads of the checkpoint": ({"head_seeds": 2}, "/head_seeds", ("head.init", "new")),
    "too many heads": ({"head_seeds": 17, "head": NEW_HEAD}, "/head_seeds", ("16",)),
    "adaptive norm": ({"adaptive": True, "aggregate": "frobenius"}, "/adaptive", ("trace",)),
    "adaptive heads": (
        {"adaptive": True, "head_seeds": 2, "head": NEW_HEAD}, "/adaptive", ("one head",),
    ),
    "adaptive unsure": ({"adaptive": True, "bootstrap": 100}, "/adaptive", ("bootstrap", "200")),
    "adaptive table": ({"method": "all", "adaptive": True}, "/adaptive", ("leave it out",)),
    "minus drawn labels": (
        {"minus": "shuffled", "fisher": "sampled"}, "/minus", ("labels", "empirical"),
    ),
    "minus all labels": ({"minus": "shuffled", "fisher": "exact"}, "/minus", ("empirical",)),
    "minus a norm": (
        {"minus": "shuffled", "aggregate": "frobenius"}, "/minus", ("trace or mean",),
    ),
    "minus until certain": ({"minus": "shuffled", "adaptive": True}, "/minus", ("adaptive",)),
    "minus heads": (
        {"minus": "shuffled", "head_seeds": 2, "head": NEW_HEAD}, "/minus", ("head_seeds",),
    ),
    "minus a table": ({"method": "all", "minus": "shuffled"}, "/minus", ("leave it out",)),
    "minus of no Fisher": ({"method": "snip", "minus": "shuffled"}, "/minus", ("snip",)),
    "minus what": ({"minus": "tokens"}, "/minus", ("shuffled",)),
    "finer than a token's turn": (
        {"method": "cls_similarity", "granularity": "tensor"}, "/method", ("granularity",),
    ),
    "finer table": ({"method": "all", "granularity": "sublayer"}, "/method", ("granularity",)),
    "an aggregate of no Fisher": ({"method": "snip", "aggregate": "mean"}, "/aggregate", ("snip",)),
    "labels of no Fisher": ({"method": "tangent", "fisher": "exact"}, "/fisher", ("tangent",)),
    "samples as published": ({"method": "paper_compat", "samples": 9}, "/samples", ("paper_compat",)),
    "prior of no Fisher": ({"method": "first", "model_prior": False}, "/model_prior", ("first",)),
    "kernels of too few": ({"method": "tangent", "samples": 9}, "/samples", ("10",)),
    "kernels of too many": ({"method": "all", "samples": 2001}, "/samples", ("2,000",)),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_options_that_do_not_go_together_are_refused(case: str, api: TestClient) -> None:
    change, pointer, words = WRONG[case]
    body = {"model": TINY, "dataset": "glue/rte", **change}
    says(problem(api.post("/v1/rankings", json=body), 422, "invalid"), pointer, *words)
    tune = {
        "model": TINY, "dataset": "glue/rte",
        "selection": {"policy": "top_k", "k": 1, "ranking": change},
    }  # fmt: skip
    answer = problem(api.post("/v1/finetunes", json=tune), 422, "invalid")
    says(answer, f"/selection/ranking{pointer}", *words)
    assert len(answer["errors"]) == 1
    assert api.get("/v1/jobs").json()["data"] == []


def test_the_limits_of_the_kernels_are_those_of_the_computation() -> None:
    assert METHODS[Method.TANGENT].samples == METHODS[Method.ALL].samples == (2 * FOLDS, 2000)


def test_the_examples_are_of_the_present_shapes() -> None:
    for kind, example in ((RankingResult, RANKING_RESULT), (FinetuneResult, FINETUNE_RESULT)):
        assert kind.model_validate(example).model_dump(mode="json") == example
    for example in RANKING_BODIES.values():
        RankingSpec.model_validate(example["value"])
    for example in FINETUNE_BODIES.values():
        FinetuneSpec.model_validate(example["value"])


def test_every_option_is_described_with_its_choices(api: TestClient) -> None:
    document = api.get("/openapi.json").json()
    shapes = document["components"]["schemas"]
    fields = shapes["RankingSpec"]["properties"]
    assert set(RankingOptions.model_fields) <= set(fields)
    for name in RankingOptions.model_fields:
        field = fields[name]
        shape = shapes.get(field.get("$ref", "").rpartition("/")[2], {})
        assert name == "seed" or field.get("description") or shape.get("description"), name
    told = document["paths"]["/v1/rankings"]["post"]["description"]
    assert all(f"`{method}`" in told for method in Method)
    result = json.dumps(shapes["JobView"]["properties"]["result"])
    assert "recommended_k" in result
    assert "FinetuneResult" in result
