"""What a comparison is refused for, and what it is made of before anything runs."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support.models.mirror import TINY, TINY_LAYERS
from tests.support.service.problems import ROWS, Json, problem, says, upload

ALL: Json = {"name": "all", "selection": {"policy": "all"}}
HEAD: Json = {"name": "head", "selection": {"policy": "head_only"}}
TOP: Json = {"name": "top", "selection": {"policy": "top_k", "k": 1}}
LISA: Json = {"type": "lisa", "layers": 2, "interval": 5}
GOOD: Json = {"model": TINY, "dataset": "glue/rte", "arms": [TOP, ALL], "seeds": [0, 1]}


def create(api: TestClient, body: Json, **options: Any) -> Any:
    return api.post("/v1/comparisons", json=body, **options)


def made(api: TestClient, body: Json) -> tuple[Json, list[Json]]:
    """The comparison, and its children in the order of the queue."""
    answer = create(api, body)
    assert answer.status_code == 202, answer.text
    job = answer.json()
    found = api.get(f"{job['links']['children']}&limit=200").json()["data"]
    return job, sorted(found, key=lambda child: (child["queued_at"], child["id"]))


def test_children_share_one_ranking_and_run_by_their_lowest_layer(api: TestClient) -> None:
    arms = [
        TOP, {"name": "top two", "selection": {"policy": "top_k", "k": 2}}, ALL, HEAD,
        {"name": "last", "selection": {"policy": "last_k", "k": 1}},
    ]  # fmt: skip
    job, children = made(api, {**GOOD, "arms": arms, "metadata": {"team": "x"}, "priority": 3})
    ranking, *tunes = children
    assert ranking["kind"] == "ranking"
    order = [f"{name}, seed {seed}" for name in ("head", "last", "all") for seed in (0, 1)]
    assert [tune["name"] for tune in tunes[:6]] == order
    assert {tune["name"] for tune in tunes[6:]} == {
        f"{name}, seed {seed}" for name in ("top", "top two") for seed in (0, 1)
    }
    assert all(
        (c["parent"], c["priority"], c["metadata"]) == (job["id"], 3, {"team": "x"})
        for c in children
    )
    assert [arm["layers"] for arm in job["resolved"]["arms"][:2]] == [None, None]
    assert job["resolved"]["runs"] == 10


def test_single_layers_add_an_arm_each_and_a_ranking_by_every_method(api: TestClient) -> None:
    job, children = made(api, {**GOOD, "arms": [], "single_layers": True, "seeds": [7]})
    assert [arm["name"] for arm in job["resolved"]["arms"]] == [
        f"layer-{i}" for i in range(TINY_LAYERS)
    ]
    assert [child["spec"].get("method") for child in children] == ["all", *[None] * TINY_LAYERS]
    assert job["resolved"]["ranking"] == children[0]["id"]
    # The longest frozen prefix first.
    assert [c["resolved"]["layers"] for c in children[1:]] == [
        [f"encoder.layer.{i}"] for i in reversed(range(TINY_LAYERS))
    ]


def test_an_arm_may_have_a_rate_or_an_adapter_of_its_own(api: TestClient) -> None:
    lora = {"name": "lora", "adapter": {"type": "lora", "rank": 4}, "learning_rate": 3e-4}
    body = {**GOOD, "arms": [ALL, lora], "seeds": [0], "training": {"learning_rate": 1e-5}}
    _, children = made(api, body)
    by_name = {child["name"]: child["spec"] for child in children}
    assert by_name["all, seed 0"]["training"]["learning_rate"] == 1e-5
    assert by_name["lora, seed 0"]["training"]["learning_rate"] == 3e-4
    assert by_name["lora, seed 0"]["adapter"]["rank"] == 4


def test_an_arm_may_choose_among_rates_and_have_a_schedule_of_its_own(api: TestClient) -> None:
    gradual = {"type": "gradual", "every_epochs": 1}
    lisa = {"type": "lisa", "layers": 2, "interval": 5}
    arms = [
        ALL, {**ALL, "name": "one", "learning_rate": 3e-4},
        {**ALL, "name": "three", "learning_rates": [1e-5, 1e-4, 1e-3]},
        {**ALL, "name": "lisa", "layer_schedule": lisa},
    ]  # fmt: skip
    training = {"learning_rates": [1e-4, 3e-4], "layer_schedule": gradual}
    job, children = made(api, {**GOOD, "arms": arms, "seeds": [0], "training": training})
    found = {
        child["resolved"]["arm"]: (
            child["spec"]["training"]["learning_rate"],
            child["spec"]["training"]["learning_rates"],
            child["spec"]["training"]["layer_schedule"]["type"],
        )
        for child in children
    }
    assert found == {
        "all": (5e-5, [1e-4, 3e-4], "gradual"),
        "one": (3e-4, None, "gradual"),
        "three": (5e-5, [1e-5, 1e-4, 1e-3], "gradual"),
        "lisa": (5e-5, [1e-4, 3e-4], "lisa"),
    }
    plans = [(arm["learning_rate"], arm["learning_rates"]) for arm in job["resolved"]["arms"]]
    assert plans == [
        (None, [1e-4, 3e-4]), (3e-4, None), (None, [1e-5, 1e-4, 1e-3]), (None, [1e-4, 3e-4]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "pointer", "words"),
    [
        ({"arms": [ALL, {"name": "x", "selection": {"policy": "last_k", "k": 9}}]},
         "/arms/1/selection/k", ("'x'", "at most 4")),
        ({"arms": [{"name": "x", "selection": {"policy": "last_k"}}]},
         "/arms/0/selection/policy", ("needs k",)),
        ({"arms": [ALL, {"name": "x", "selection": {"policy": "layers", "layers": [0, 77]}}]},
         "/arms/1/selection/layers/1", ("no layer 77",)),
        ({"arms": [ALL, {"name": "x", "selection": {"policy": "top_k", "k": 1, "ranking": "rk_no"}}]},
         "/arms/1/selection/ranking", ("no ranking",)),
        ({"training": {"layer_learning_rates": "fisher"}},
         "/training/layer_learning_rates", ("'all'", "has none")),
        ({"arms": [{**ALL, "name": "layer-2"}], "single_layers": True},
         "/arms/0/name", ("single_layers",)),
        ({"arms": [{**ALL, "name": f"a{i}"} for i in range(15)], "single_layers": True,
          "seeds": list(range(16))}, "/seeds", ("304 runs",)),
        ({"arms": [ALL, ALL]}, "/arms", ("two have the same",)),
        ({"arms": []}, "/arms", ("empty",)),
        ({"seeds": [1, 1]}, "/seeds", ("once each",)),
        ({"training": {"seed": 3}}, "/training/seed", ("each run takes one",)),
        ({"arms": [{**ALL, "learning_rate": 1e-3, "learning_rates": [1e-3, 1e-4]}]},
         "/arms/0/learning_rate", ("leave one of them out",)),
        ({"arms": [{**ALL, "learning_rates": [1e-3, 1e-3]}]},
         "/arms/0/learning_rates", ("once each",)),
        ({"training": {"learning_rates": [1e-3]}}, "/training/learning_rates", ("at least 2",)),
        ({"arms": [HEAD, ALL], "training": {"layer_schedule": LISA}},
         "/training/layer_schedule", ("'head'", "selects none")),
        ({"arms": [ALL, {**HEAD, "layer_schedule": LISA}]},
         "/arms/1/layer_schedule", ("'head'", "selects none")),
        ({"arms": [{**ALL, "layer_schedule": {**LISA, "layers": 5}}]},
         "/arms/0/layer_schedule/layers", ("draws 5 layers, and 4",)),
        ({"training": {"layer_schedule": {**LISA, "layers": 0}}},
         "/training/layer_schedule/layers", ("greater than or equal to 1",)),
        ({"training": {"layer_schedule": {"type": "gradual"}}},
         "/training/layer_schedule", ("every_epochs and every_steps",)),
        ({"arms": [{"name": "x", "selection": {"policy": "all"}, "adapter": {"type": "bitfit"}}]},
         "/arms/0/selection", ("does not go with an adapter",)),
    ],
    ids=str,
)  # fmt: skip
def test_faults_name_their_arm(
    changes: Json, pointer: str, words: tuple[str, ...], api: TestClient
) -> None:
    says(problem(create(api, {**GOOD, **changes}), 422, "invalid"), pointer, *words)


def test_the_faults_of_all_arms_come_at_once(api: TestClient) -> None:
    arms = [{"name": f"x{k}", "selection": {"policy": "first_k", "k": k}} for k in (5, 2, 6)]
    body = problem(create(api, {**GOOD, "arms": arms}), 422, "invalid")
    assert [fault["pointer"] for fault in body["errors"]] == [
        "/arms/0/selection/k", "/arms/2/selection/k",
    ]  # fmt: skip


def test_a_dry_run_makes_nothing_and_fails_alike(api: TestClient) -> None:
    before = len(api.get("/v1/jobs", params={"limit": 200}).json()["data"])
    answer = create(api, GOOD, params={"validate_only": True})
    assert (answer.status_code, answer.json()["valid"]) == (200, True)
    assert answer.json()["resolved"]["runs"] == 4
    bad = {**GOOD, "arms": [{"name": "x", "selection": {"policy": "last_k", "k": 9}}]}
    problem(create(api, bad, params={"validate_only": True}), 422, "invalid")
    assert len(api.get("/v1/jobs", params={"limit": 200}).json()["data"]) == before


def test_a_repeated_key_makes_no_second_family(api: TestClient) -> None:
    headers = {"Idempotency-Key": "cmp-1"}
    first = create(api, GOOD, headers=headers).json()
    again = create(api, GOOD, headers=headers)
    assert again.json()["id"] == first["id"]
    assert again.headers["idempotent-replayed"] == "true"
    assert len(api.get(first["links"]["children"]).json()["data"]) == 5
    problem(create(api, {**GOOD, "seeds": [4]}, headers=headers), 422, "idempotency_key_reused")


def test_it_is_listed_followed_and_found_by_kind(api: TestClient) -> None:
    job, _ = made(api, GOOD)
    assert api.get("/v1/comparisons").json()["data"][0]["id"] == job["id"]
    assert api.get("/v1/jobs", params={"kind": "comparison"}).json()["data"][0]["id"] == job["id"]
    assert api.get(f"/v1/comparisons/{job['id']}").json() == api.get(f"/v1/jobs/{job['id']}").json()
    problem(api.get(f"/v1/finetunes/{job['id']}"), 404, "not_found")
    assert job["progress"] == {
        "percent": 0.0, "step": 0, "total_steps": 5, "unit": "runs", "eta_seconds": None,
    }  # fmt: skip
    cancelled = api.post(f"/v1/jobs/{job['id']}/cancel").json()
    assert (cancelled["status"], cancelled["terminal"]) == ("cancelled", True)


def test_a_dataset_stays_while_a_child_needs_it(api: TestClient) -> None:
    rows = upload(api, ROWS + "".join(f"another sentence {i},{i % 2}\n" for i in range(30))).json()
    job, children = made(api, {**GOOD, "dataset": rows["id"], "arms": [ALL], "seeds": [0]})
    busy = problem(api.delete(f"/v1/datasets/{rows['id']}"), 409, "conflict")
    assert children[0]["id"] in busy["detail"]
    api.post(f"/v1/jobs/{job['id']}/cancel")
    assert api.delete(f"/v1/datasets/{rows['id']}").status_code == 204


def test_a_search_arm_takes_no_rates_beside_arms_that_choose(api: TestClient) -> None:
    search = {"name": "found", "selection": {"policy": "search"}}
    body = {
        **GOOD,
        "arms": [ALL, search],
        "seeds": [0],
        "training": {"learning_rates": [1e-4, 1e-3]},
    }
    job, children = made(api, body)
    plans = {arm["name"]: arm["learning_rates"] for arm in job["resolved"]["arms"]}
    assert plans == {"all": [1e-4, 1e-3], "found": None}
    training = {c["resolved"].get("arm"): c["spec"]["training"] for c in children}
    assert training["found"]["learning_rates"] is None
    assert training[None]["learning_rates"] is None  # the search itself
    own = {**body, "arms": [{**search, "learning_rates": [1e-4, 1e-3]}]}
    says(problem(create(api, own), 422, "invalid"), "/arms/0/learning_rates", "policy search")
    scheduled = {**GOOD, "arms": [{**search, "layer_schedule": LISA}]}
    says(problem(create(api, scheduled), 422, "invalid"), "/arms/0/layer_schedule", "new search")


def test_arms_that_train_the_same_have_one_run_a_seed(api: TestClient) -> None:
    """What counts are the tensors and the settings, not how the request names them."""
    arms = [
        {"name": "last", "selection": {"policy": "last_k", "k": 1}},
        {"name": "named", "selection": {"policy": "layers", "layers": [TINY_LAYERS - 1]}},
        {"name": "halves", "selection": {
            "policy": "last_k", "k": 2, "granularity": "sublayer"}},
        {"name": "slow", "selection": {"policy": "last_k", "k": 1}, "learning_rate": 1e-5},
        {"name": "as told", "selection": {"policy": "last_k", "k": 1}, "learning_rate": 3e-4},
        {"name": "pooled", "selection": {"policy": "last_k", "k": 1, "include": ["pooler"]}},
    ]  # fmt: skip
    training = {"learning_rate": 3e-4}
    job, children = made(api, {**GOOD, "arms": arms, "single_layers": True, "training": training})
    equal = {arm["name"]: arm["same_as"] for arm in job["resolved"]["arms"]}
    shared = dict.fromkeys(("named", "halves", "as told", f"layer-{TINY_LAYERS - 1}"), "last")
    assert {name: other for name, other in equal.items() if other} == shared
    ranking, *runs = children
    trained = {run["resolved"]["arm"] for run in runs}
    assert trained == {name for name, other in equal.items() if other is None}
    assert job["resolved"]["runs"] == len(runs) == 2 * len(trained)
    assert job["progress"]["total_steps"] == len(runs) + 1
    assert ranking["kind"] == "ranking"
