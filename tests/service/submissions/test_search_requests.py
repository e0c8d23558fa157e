"""Requests for searches, and for what trains by one, on a service of each database."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.jobs import state_machine
from surgery.schemas.resolved import Learned
from surgery.training.search.decision.candidates import candidates_of
from tests.support.models.mirror import TINY, TINY_LAYERS
from tests.support.service.finished_runs import search_result
from tests.support.service.problems import Json, problem, says
from tests.support.service.queued_jobs import take

GOOD: Json = {"model": TINY, "dataset": "glue/rte"}
SEARCH: Json = {"policy": "search"}
FOUND = ["encoder.layer.1", "encoder.layer.2"]
RATE = 3e-4


def post(api: TestClient, path: str, body: Json, status: int = 202) -> Json:
    answer = api.post(f"/v1/{path}", json=body)
    assert answer.status_code == status, answer.text
    return dict(answer.json())


def finished_search(api: TestClient, **changes: Any) -> str:
    """The id of a search that found two layers, as a worker stores it."""
    job = post(api, "searches", {**GOOD, **changes})
    service = api.app.state.service  # type: ignore[attr-defined]
    result = search_result(FOUND, RATE).model_dump(mode="json")
    state_machine.finish(service.database, take(service.database), result, Learned())
    return str(job["id"])


WRONG: dict[str, tuple[str, Json, str, str, tuple[str, ...]]] = {
    "unknown field": ("searches", {"famlies": ["all"]}, "invalid", "/famlies", ("'families'",)),
    "unknown family": ("searches", {"families": ["triples"]}, "invalid", "/families/0", ("pairs",)),
    "a family twice": ("searches", {"families": ["all", "all"]}, "invalid", "/families", ("once",)),
    "a rate twice": (
        "searches", {"learning_rates": [1e-3, 1e-3]}, "invalid", "/learning_rates", ("once",),
    ),
    "no rate": ("searches", {"learning_rates": []}, "invalid", "/learning_rates", ()),
    "rate of zero": ("searches", {"learning_rates": [0]}, "invalid", "/learning_rates/0", ()),
    "a rate of the training": (
        "searches", {"training": {"learning_rate": 1e-3}},
        "invalid", "/training/learning_rate", ("learning_rates", "leave it out"),
    ),
    "two budgets": (
        "searches", {"budget_seconds": 5, "budget_share": 0.2}, "invalid", "/budget_share",
        ("leave one out",),
    ),
    "no budget": ("searches", {"budget_seconds": 0}, "invalid", "/budget_seconds", ()),
    "certain beyond doubt": ("searches", {"confidence": 1}, "invalid", "/confidence", ()),
    "everything set aside": ("searches", {"held_out": 0.9}, "invalid", "/held_out", ()),
    "metric of another task": (
        "searches", {"training": {"metric": "matthews"}}, "training_invalid", "/training/metric",
        ("accuracy",),
    ),
    "no such sets": (
        "searches", {"model": "tiny/other", "families": ["runs"]}, "invalid", "/families",
        ("2 layers",),
    ),
    "no such dataset": ("searches", {"dataset": "glue/rtee"}, "dataset_not_found", "/dataset", ()),
    "cache": ("searches", {"cache": "use"}, "invalid", "/cache", ("unknown field",)),
    "a rate beside the search's": (
        "finetunes", {"selection": SEARCH, "training": {"learning_rate": 1e-3}},
        "invalid", "/training/learning_rate", ("policy search", "leave it out"),
    ),
    "k of a search": (
        "finetunes", {"selection": {**SEARCH, "k": 2}}, "invalid", "/selection/k", ("leave it out",),
    ),
    "embeddings beside the search": (
        "finetunes", {"selection": {**SEARCH, "include": ["embeddings"]}},
        "invalid", "/selection/include", ("leave it out",),
    ),
    "granularity of a search": (
        "finetunes", {"selection": {**SEARCH, "granularity": "layer"}},
        "invalid", "/selection/granularity", ("leave it out",),
    ),
    "ranking of a search": (
        "finetunes", {"selection": {**SEARCH, "ranking": {}}}, "invalid", "/selection/ranking",
        ("leave it out",),
    ),
    "search of another policy": (
        "finetunes", {"selection": {"policy": "all", "search": {}}}, "invalid", "/selection/search",
        ("leave it out",),
    ),
    "wrong options of the search": (
        "finetunes", {"selection": {**SEARCH, "search": {"families": ["triples"]}}},
        "invalid", "/selection/search/families/0", (),
    ),
    "a search before a continued run": (
        "finetunes", {"selection": SEARCH, "continue_from": "ck_1"}, "invalid", "/continue_from",
        ("the model's own weights",),
    ),
    "unknown search": (
        "finetunes", {"selection": {**SEARCH, "search": "se_no"}}, "invalid", "/selection/search",
        ("/v1/searches",),
    ),
    "sets of a search that the model lacks": (
        "finetunes",
        {"model": "tiny/other", "selection": {**SEARCH, "search": {"families": ["runs"]}}},
        "invalid", "/selection/search/families", ("2 layers",),
    ),
    "a rate of an arm that searches": (
        "comparisons", {"arms": [{"name": "x", "selection": SEARCH, "learning_rate": 1e-3}]},
        "invalid", "/arms/0/learning_rate", ("leave it out",),
    ),
    "an arm with an unknown search": (
        "comparisons", {"arms": [{"name": "x", "selection": {**SEARCH, "search": "se_no"}}]},
        "invalid", "/arms/0/selection/search", ("'x'", "no search"),
    ),
    "an estimate of both": (
        "estimates", {"search": {}, "selection": {"policy": "all"}}, "invalid", "/search",
        ("leave",),
    ),
    "an estimate of no sets": (
        "estimates", {"model": "tiny/other", "search": {"families": ["runs"]}}, "invalid",
        "/search/families", ("2 layers",),
    ),
}  # fmt: skip


def test_wrong_requests_are_refused(either: TestClient) -> None:
    for case, (path, change, code, pointer, words) in WRONG.items():
        answer = either.post(f"/v1/{path}", json={**GOOD, **change})
        assert answer.status_code == 422, (case, answer.text)
        says(problem(answer, 422, code), pointer, *words)
    assert either.get("/v1/jobs").json()["data"] == []


def test_a_search_is_queued_and_every_search_runs(either: TestClient) -> None:
    body = {**GOOD, "name": "mine", "metadata": {"team": "x"}, "families": ["single", "all"]}
    dry = post(either, "searches?validate_only=true", body, 200)
    assert dry["spec"]["learning_rates"] == [1e-4, 3e-4, 1e-3]
    assert dry["cached"] is False
    estimated = dry["estimate"]["search"]
    assert (estimated["candidates"], dry["estimate"]["rows"]) == (TINY_LAYERS + 1, [])
    assert either.get("/v1/searches").json()["data"] == []
    first, second = post(either, "searches", body), post(either, "searches", body)
    for job in (first, second):
        assert job["id"].startswith("se_")
        assert (job["kind"], job["status"], job["waits_for"]) == ("search", "queued", None)
        assert job["links"]["self"] == f"/v1/searches/{job['id']}"
    assert first["resolved"]["digest"] == second["resolved"]["digest"]
    for query in ("searches?metadata[team]=x", "jobs?kind=search", f"searches?model={TINY}"):
        listed = either.get(f"/v1/{query}").json()["data"]
        assert [job["id"] for job in listed] == [second["id"], first["id"]]
    assert either.get("/v1/searches?status=succeeded").json()["data"] == []
    assert either.get(f"/v1/rankings/{first['id']}").status_code == 404
    early = either.get(f"/v1/searches/{first['id']}/selection")
    assert "wait until it has succeeded" in problem(early, 409, "conflict")["detail"]


def test_its_life_before_it_runs(either: TestClient) -> None:
    key = {"Idempotency-Key": "search-1"}
    body = {**GOOD, "deadline_seconds": 600}
    job = either.post("/v1/searches", json=body, headers=key).json()
    again = either.post("/v1/searches", json=body, headers=key)
    assert (again.json()["id"], again.headers["Idempotent-Replayed"]) == (job["id"], "true")
    path = f"/v1/jobs/{job['id']}"
    assert either.post(f"{path}/pause").json()["status"] == "paused"
    assert either.post(f"{path}/resume").json()["status"] == "queued"
    assert either.post(f"{path}/cancel").json()["status"] == "cancelled"
    retried = either.post(f"{path}/retry").json()
    assert (retried["kind"], retried["retry_of"]) == ("search", job["id"])
    assert retried["spec"] == job["spec"]
    assert either.delete(path).status_code == 204
    assert either.get(f"/v1/searches/{job['id']}").status_code == 404


def test_a_finished_search_is_trained_by_its_id(either: TestClient) -> None:
    search = finished_search(either)
    selection = {**SEARCH, "search": search}
    job = post(either, "finetunes", {**GOOD, "selection": selection})
    resolved = job["resolved"]
    assert (resolved["search"], resolved["layers"]) == (search, FOUND)
    assert resolved["learning_rate"] == RATE
    assert resolved["selected_parameters"] > 0
    refused = either.delete(f"/v1/jobs/{search}")
    assert "chooses its layers by a search" in problem(refused, 409, "conflict")["detail"]
    for other in ({"model": "tiny/other"}, {"dataset": "glue/cola"}):
        body = {**GOOD, "selection": selection, **other}
        answer = problem(either.post("/v1/finetunes", json=body), 422, "selection_mismatch")
        says(answer, "/selection/search", f"search {search} is of", "leave search out")
    running = post(either, "searches", GOOD)["id"]
    body = {**GOOD, "selection": {**SEARCH, "search": running}}
    early = problem(either.post("/v1/finetunes", json=body), 409, "conflict")
    says(early, "/selection/search", "must have succeeded")


@pytest.mark.parametrize("form", ["json", "regex", "peft", "axolotl"])
def test_what_was_found_for_other_tools(either: TestClient, form: str) -> None:
    search = finished_search(either)
    answer = either.get(f"/v1/searches/{search}/selection?format={form}").json()
    assert (answer["search"], answer["format"], answer["learning_rate"]) == (search, form, RATE)
    assert (answer["matches"], answer["trainable_parameters"]) == (32, 20)
    view = answer["selection"]
    if form == "peft":
        assert view == {"layers_to_transform": [1, 2], "layers_pattern": "layer"}
    if form == "json":
        assert [layer["name"] for layer in view["layers"]] == FOUND


def test_a_fine_tune_without_an_id_searches_first(either: TestClient) -> None:
    body = {**GOOD, "selection": {**SEARCH, "search": {"families": ["pairs"], "budget_share": 0.2}}}
    dry = post(either, "finetunes?validate_only=true", body, 200)
    assert "layers" not in dry["resolved"]
    estimated = dry["estimate"]
    assert estimated["search"]["candidates"] == len(candidates_of(["pairs"], TINY_LAYERS))
    positions = {row["position"]: row["lowest_layer"] for row in estimated["rows"]}
    assert positions == {"lowest": 0, "highest": TINY_LAYERS - 2}
    job = post(either, "finetunes", body)
    assert (job["waits_for"], job["status"]) == (None, "queued")
    assert either.get("/v1/searches").json()["data"] == []


def test_the_runs_of_a_comparison_share_one_search(either: TestClient) -> None:
    arms = [
        {"name": "searched", "selection": SEARCH},
        {"name": "the same", "selection": {**SEARCH, "search": {}}},
        {"name": "pairs", "selection": {**SEARCH, "search": {"families": ["pairs"]}}},
        {"name": "all", "selection": {"policy": "all"}},
    ]
    training = {"epochs": 2, "learning_rate": 2e-4}
    body = {**GOOD, "arms": arms, "seeds": [0, 1], "training": training, "priority": 4}
    job = post(either, "comparisons", body)
    children = either.get(f"{job['links']['children']}&limit=200").json()["data"]
    searches = {child["id"]: child for child in children if child["kind"] == "search"}
    waits = {
        name: {child["waits_for"] for child in children if child["resolved"].get("arm") == name}
        for name in ("searched", "the same", "pairs", "all")
    }
    assert waits["searched"] == waits["the same"]
    assert waits["searched"] | waits["pairs"] == set(searches)
    assert (len(searches), waits["all"]) == (2, {None})
    for search in searches.values():
        assert (search["parent"], search["priority"]) == (job["id"], 4)
        assert (search["spec"]["training"]["epochs"], search["name"]) == (2, "search")
    rates = {arm["name"]: arm["learning_rate"] for arm in job["resolved"]["arms"]}
    assert rates == {"searched": None, "the same": None, "pairs": None, "all": 2e-4}


def test_an_arm_by_the_id_of_a_search_knows_its_rate(either: TestClient) -> None:
    arm = {"name": "found", "selection": {**SEARCH, "search": finished_search(either)}}
    job = post(either, "comparisons", {**GOOD, "arms": [arm], "seeds": [0]})
    (plan,) = job["resolved"]["arms"]
    assert (plan["layers"], plan["learning_rate"]) == (FOUND, RATE)
    (child,) = either.get(job["links"]["children"]).json()["data"]
    assert child["resolved"]["learning_rate"] == RATE


def test_an_estimate_of_a_search(either: TestClient) -> None:
    body = {**GOOD, "search": {"budget_seconds": 30, "families": ["single"]}}
    answer = post(either, "estimates", body, 200)
    assert answer["rows"] == []
    search = answer["search"]
    assert (search["candidates"], search["budget_seconds"]) == (TINY_LAYERS, 30)
    assert search["singles_seconds"] is None  # nothing was measured yet
    assert search["peak_memory_bytes"] > 0
    exact = {**GOOD, "selection": {**SEARCH, "search": finished_search(either)}}
    known = post(either, "estimates", exact, 200)
    assert (known["search"], len(known["rows"])) == (None, 1)
    assert (known["rows"][0]["k"], known["rows"][0]["position"]) == (2, "exact")
