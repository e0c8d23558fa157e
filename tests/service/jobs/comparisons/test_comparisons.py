"""Comparisons over HTTP, from the request to the table, embedded and in production."""

from __future__ import annotations

import signal
from typing import Any

import psutil
import pytest

from tests.support.models.mirror import TINY
from tests.support.service.services import Running, trains, wait_until

Json = dict[str, Any]
TRAINING = {"epochs": 1, "batch_size": 64, "max_length": 32, "learning_rate": 1e-3}
QUICK = {"samples": 16, "max_length": 32, "head": {"warmup_samples": 32}, "model_prior": False}
BODY: Json = {
    "model": TINY, "dataset": "glue/rte", "seeds": [0, 1], "training": TRAINING,
    "arms": [
        {"name": "top-1", "selection": {"policy": "top_k", "k": 1, "ranking": QUICK}},
        {"name": "all", "selection": {"policy": "all"}},
    ],
}  # fmt: skip


# What follows from the database alone is tested on both in
# tests/app/jobs/comparisons/test_comparison_jobs.py.
ONE = pytest.mark.parametrize("fragile_service", ["embedded"], indirect=True)


@pytest.fixture(scope="module")
def service(fragile_service: Running) -> Running:
    return fragile_service


def children(service: Running, job: Json) -> list[Json]:
    """Oldest first."""
    found = service.client.call("GET", job["links"]["children"])["data"]
    return sorted(found, key=lambda child: (child["queued_at"], child["id"]))


@pytest.mark.parametrize(
    "fragile_service",
    ["embedded", pytest.param("production", marks=pytest.mark.slow)],
    indirect=True,
)
def test_two_ways_with_two_seeds_to_the_table(service: Running) -> None:
    job = service.client.submit("comparisons", BODY)
    assert job["id"].startswith("cmp_")
    assert (job["status"], job["terminal"], job["progress"]["total_steps"]) == ("running", False, 5)
    job = service.finished(job)
    result = job["result"]
    assert job["status"] == "succeeded", job["error"]
    assert [t["status"] for t in job["transitions"]] == ["queued", "running", "succeeded"]
    assert (result["primary_metric"], result["reference"], result["failures"]) == (
        "accuracy", "all", [],
    )  # fmt: skip
    assert 0 < result["noise"] < 0.1
    assert result["warnings"][0]["message"].startswith(
        "all arms trained at one learning rate, 0.001: "
    )
    top, whole = result["arms"]
    assert [run["seed"] for run in top["runs"]] == [0, 1]
    assert len(top["trained_layers"]) == 1
    assert len(whole["trained_layers"]) == 4
    assert top["difference"]["seeds"] == 2
    assert top["verdict"] in {"better", "worse", "within noise"}
    assert top["trainable_parameters"] < whole["trainable_parameters"]
    assert top["checkpoint_bytes"] > 0

    ranking, *tunes = children(service, job)
    assert (ranking["kind"], ranking["parent"]) == ("ranking", job["id"])
    assert {tune["resolved"].get("ranking") for tune in tunes} == {None, ranking["id"]}
    for arm in result["arms"]:
        for run in arm["runs"]:
            tune = service.client.job(run["job"])
            best = tune["result"]["best"]["metrics"]["accuracy"]
            assert (run["metric"], run["checkpoint"]) == (best, tune["result"]["best_checkpoint"])
            assert tune["spec"]["training"]["seed"] == run["seed"]
            assert tune["resolved"]["layers"] == arm["trained_layers"]
    best_layer = ranking["result"]["layers"][0]["name"]
    assert top["trained_layers"] == [best_layer]


@ONE
def test_each_layer_alone_judges_every_method(service: Running) -> None:
    head = {"name": "head", "selection": {"policy": "head_only"}}
    body = {**BODY, "arms": [head], "single_layers": True, "seeds": [3]}
    job = service.finished(service.client.submit("comparisons", body))
    assert job["status"] == "succeeded", job["error"]
    found = job["result"]["single_layers"]
    assert (found["baseline"], len(found["layers"])) == ("head", 4)
    assert [arm["name"] for arm in job["result"]["arms"]] == [
        "head",
        *(f"layer-{i}" for i in range(4)),
    ]
    ranking = service.client.job(found["ranking"])
    methods = {entry["method"] for entry in ranking["result"]["methods"]["methods"]}
    assert {entry["method"] for entry in found["methods"]} == methods
    assert {"fisher", "tangent", "random"} <= methods


@ONE
def test_cancelling_stops_every_run(service: Running) -> None:
    long = {**TRAINING, "epochs": 500}
    job = service.client.submit("comparisons", {**BODY, "training": long})

    def training() -> bool:
        return any(map(trains, children(service, job)))

    wait_until(training, 60, service.logs)
    service.client.call("POST", f"/v1/jobs/{job['id']}/cancel")
    job = service.finished(job, 20)
    assert (job["status"], job["result"]) == ("cancelled", None)
    over = [c["status"] for c in children(service, job) if c["kind"] == "finetune"]
    assert over == ["cancelled"] * 4


@ONE
def test_an_arm_without_a_result_leaves_the_others_their_table(service: Running) -> None:
    gone = {"name": "gone", "selection": {"policy": "all"}, "learning_rate": 1e-4}
    body = {**BODY, "arms": [*BODY["arms"], gone], "seeds": [0]}
    job = service.client.submit("comparisons", body)
    (cell,) = [child for child in children(service, job) if child["name"] == "gone, seed 0"]
    service.client.call("POST", f"/v1/jobs/{cell['id']}/cancel")
    job = service.finished(job)
    assert job["status"] == "succeeded"
    (failure,) = job["result"]["failures"]
    assert (failure["job"], failure["status"]) == (cell["id"], "cancelled")
    empty = job["result"]["arms"][2]
    assert (empty["name"], empty["metric"], empty["verdict"]) == ("gone", None, None)
    assert job["result"]["arms"][0]["difference"]["seeds"] == 1


# What becomes of a job whose worker dies is tests/service/faults/test_crashes.py's.
@pytest.mark.slow
@pytest.mark.parametrize("fragile_service", ["production"], indirect=True)
def test_a_killed_worker_costs_an_attempt_of_one_run(service: Running) -> None:
    body = {**BODY, "seeds": [5], "training": {**TRAINING, "epochs": 24}}
    job = service.client.submit("comparisons", body)

    def halfway() -> bool:
        return any(map(trains, children(service, job)))

    wait_until(halfway, 90, service.logs)
    (worker,), (child,) = service.workers(), service.children()
    worker.send_signal(signal.SIGKILL)
    psutil.wait_procs([worker, child], timeout=5)
    service.replace_worker()
    job = service.finished(job)
    assert job["status"] == "succeeded", job["error"]
    assert job["result"]["failures"] == []
    assert max(c["attempt"] for c in children(service, job)) == 2


@pytest.mark.slow
@ONE
def test_arms_at_rates_of_their_own_and_with_schedules(service: Running) -> None:
    """The choice counts in the seconds, and no rate is said to be shared."""
    arms = [
        {"name": "all", "selection": {"policy": "all"}},
        {"name": "gradual", "selection": {"policy": "last_k", "k": 2},
         "layer_schedule": {"type": "gradual", "every_steps": 4}},
        {"name": "lora", "adapter": {"type": "lora", "rank": 2}, "learning_rates": [1e-3, 1e-2]},
    ]  # fmt: skip
    training = {**TRAINING, "learning_rates": [1e-4, 1e-3]}
    del training["learning_rate"]
    job = service.client.submit("comparisons", {**BODY, "arms": arms, "training": training})
    job = service.finished(job)
    assert job["status"] == "succeeded", job["error"]
    result = job["result"]
    assert not [told for told in result["warnings"] if told["code"] == "shared_learning_rate"]
    for arm in result["arms"]:
        rates = {1e-3, 1e-2} if arm["name"] == "lora" else {1e-4, 1e-3}
        assert {run["learning_rate"] for run in arm["runs"]} <= rates
        assert arm["seconds"]["rates"] > 0
        for run in arm["runs"]:
            own = service.client.job(run["job"])["result"]
            tried = [trial["learning_rate"] for trial in own["learning_rates"]]
            assert (set(tried), own["learning_rate"]) == (rates, run["learning_rate"])
            metrics = service.client.call("GET", f"/v1/jobs/{run['job']}/metrics")["data"]
            assert max(value["step"] for value in metrics) == own["epochs"][-1]["step"]


@ONE
def test_arms_that_a_ranking_makes_the_same_run_once(service: Running) -> None:
    """The best four of four layers are all of them, which is known when they are ranked."""
    unseen = {**QUICK, "samples": 17}  # that no other test has computed
    arms = [
        {"name": "best four", "selection": {"policy": "top_k", "k": 4, "ranking": unseen}},
        {"name": "all", "selection": {"policy": "all"}},
        {"name": "head", "selection": {"policy": "head_only"}},
    ]
    job = service.finished(service.client.submit("comparisons", {**BODY, "arms": arms}))
    assert job["status"] == "succeeded", job["error"]
    plans = {plan["name"]: plan for plan in job["resolved"]["arms"]}
    assert (plans["best four"]["same_as"], plans["all"]["same_as"]) == ("all", None)
    assert plans["best four"]["layers"] == plans["all"]["layers"]
    result = job["result"]
    four, whole, head = result["arms"]
    assert four["same_as"] == "all"
    assert four["runs"] == whole["runs"]
    _, *tunes = children(service, job)
    trained = {tune["id"] for tune in tunes if tune["usage"]["worker_seconds"]}
    assert trained == {run["job"] for arm in (whole, head) for run in arm["runs"]}
    shared = [tune for tune in tunes if tune["id"] not in trained]
    assert [tune["result_of"] for tune in shared] == [run["job"] for run in whole["runs"]]
    assert all(tune["status"] == "succeeded" and tune["cached"] for tune in shared)
    assert result["runs"] == 4
    spent = [service.client.job(name)["result"]["seconds"]["total"] for name in trained]
    assert result["seconds"] == pytest.approx(sum(spent), abs=0.01)
    decision = result["decision"]
    assert {decision["best"], *(other["arm"] for other in decision["others"])} == {"all", "head"}
    assert "best four trains the same as all: one run for both." in decision["summary"]
    own = service.client.best_checkpoint(shared[0]["id"])
    assert own == whole["runs"][0]["checkpoint"]
    best = max(whole["runs"], key=lambda run: run["metric"])["checkpoint"]
    assert service.client.best_checkpoint(job["id"], "best four") == best
    if decision["checkpoint"]:
        assert service.client.best_checkpoint(job["id"]) == decision["checkpoint"]
