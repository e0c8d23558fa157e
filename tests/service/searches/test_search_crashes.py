"""Searches whose worker goes away in the middle go on from their last saved state."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tests.support.models.mirror import TINY
from tests.support.service.services import Running, wait_until

Json = dict[str, Any]
BODY: Json = {
    "model": TINY, "dataset": "glue/rte", "families": ["single", "pairs", "all"],
    "learning_rates": [1e-4, 1e-3], "budget_seconds": 12, "confidence": 0.99,
    "training": {"epochs": 20, "batch_size": 16, "max_length": 16},
}  # fmt: skip
BOTH = pytest.mark.parametrize(
    "fragile_service",
    ["production", pytest.param("embedded", marks=pytest.mark.slow)],
    indirect=True,
)


@pytest.fixture(scope="module")
def service(fragile_service: Running) -> Running:
    return fragile_service


def in_the_middle(service: Running, collection: str = "searches", body: Json = BODY) -> Json:
    """Submit a job and wait until its search has tried some candidates and saved its state."""
    job = service.client.submit(collection, body)
    path = f"/v1/jobs/{job['id']}/logs"

    def far_enough() -> bool:
        now = service.client.job(job["id"])
        if now["phase"] != "search":
            return False
        lines = [line["text"] for line in service.client.call("GET", path)["data"]]
        return any("state of step" in line and "is stored" in line for line in lines)

    wait_until(far_enough, 90, service.logs)
    return job


def trials(job: Json) -> int:
    return sum(len(arm["trials"]) for arm in job["result"]["arms"])


@BOTH
def test_a_killed_process_costs_an_attempt_and_what_was_tried_counts(service: Running) -> None:
    job = in_the_middle(service)
    (child,) = service.children()
    child.send_signal(signal.SIGKILL)
    job = service.finished(job)
    assert (job["status"], job["attempt"]) == ("succeeded", 2), (job["error"], service.logs())
    cost = job["result"]["cost"]
    assert cost["seconds"] <= 1.5 * BODY["budget_seconds"]
    assert trials(job) > 0
    assert job["usage"]["stored_bytes"] > 0


@BOTH
def test_a_paused_search_frees_its_worker_and_goes_on_uncharged(service: Running) -> None:
    job = in_the_middle(service)
    service.client.pause(job["id"])
    wait_until(lambda: service.client.job(job["id"])["status"] == "paused", 30, service.logs)
    paused = service.client.job(job["id"])["progress"]
    assert service.run("rankings", {"model": TINY, "dataset": "glue/rte", "cache": "bypass"})
    service.client.resume(job["id"])
    job = service.finished(job)
    assert (job["status"], job["attempt"]) == ("succeeded", 1)
    assert [change["status"] for change in job["transitions"]] == [
        "queued", "running", "paused", "queued", "running", "succeeded",
    ]  # fmt: skip
    assert 0 < paused["percent"] < 100


@BOTH
def test_a_fine_tune_killed_in_its_search_goes_on_searching(service: Running) -> None:
    options = {name: BODY[name] for name in ("families", "learning_rates", "budget_seconds")}
    body = {
        "model": TINY, "dataset": "glue/rte", "selection": {"policy": "search", "search": options},
        "training": BODY["training"],
    }  # fmt: skip
    job = in_the_middle(service, "finetunes", body)
    (child,) = service.children()
    child.send_signal(signal.SIGKILL)
    job = service.finished(job)
    assert (job["status"], job["attempt"]) == ("succeeded", 2), (job["error"], service.logs())
    search = service.client.job(job["result"]["search"])
    assert job["result"]["trained_layers"] == search["result"]["layers"]
    assert len(job["result"]["epochs"]) == BODY["training"]["epochs"]


@BOTH
def test_cancelling_a_search_stops_it(service: Running) -> None:
    job = in_the_middle(service, body={**BODY, "budget_seconds": 600})
    service.client.cancel(job["id"])
    job = service.finished(job, 20)
    assert (job["status"], job["result"]) == ("cancelled", None)
    assert service.run("rankings", {"model": TINY, "dataset": "glue/rte", "cache": "bypass"})
