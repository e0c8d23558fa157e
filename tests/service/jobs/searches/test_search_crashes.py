"""Searches whose worker goes away in the middle go on from their last saved state."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tests.support.models.mirror import TINY
from tests.support.service.services import Running, trains, wait_until

Json = dict[str, Any]
OPTIONS: Json = {
    "families": ["single", "pairs", "all"], "learning_rates": [1e-4, 1e-3], "budget_seconds": 10,
    "confidence": 0.999,
}  # fmt: skip
TRAINING: Json = {"epochs": 30, "batch_size": 16, "max_length": 16}
SUBJECT: Json = {"model": TINY, "dataset": "glue/rte", "training": TRAINING}
BODY: Json = {**SUBJECT, **OPTIONS}
RANKING: Json = {"model": TINY, "dataset": "glue/rte", "cache": "bypass"}
# A search is interrupted in the same way in both deployments; how the loss of a worker is noticed
# differs, and tests/service/faults/test_crashes.py has that.
BOTH = pytest.mark.parametrize(
    "fragile_service",
    ["production", pytest.param("embedded", marks=pytest.mark.slow)],
    indirect=True,
)


@pytest.fixture(scope="module")
def service(fragile_service: Running) -> Running:
    return fragile_service


def searching(service: Running, job: Json, seconds: int) -> None:
    """Wait until a job has spent so many seconds of its search's budget."""

    def far_enough() -> bool:
        now = service.client.job(job["id"])
        assert not now["terminal"], (now["error"], service.logs()[-3000:])
        spent = (now["progress"] or {}).get("step") or 0
        return bool(now["phase"] == "search" and spent >= seconds)

    wait_until(far_enough, 90, service.logs)


def paused_in_the_middle(service: Running, collection: str, body: Json) -> Json:
    """Submit a job, and pause it once it has tried some candidates, so that its state is saved."""
    job = service.client.submit(collection, body)
    searching(service, job, 2)
    service.client.pause(job["id"])
    wait_until(lambda: service.client.job(job["id"])["status"] == "paused", 30, service.logs)
    return service.client.job(job["id"])


def kill_after_resuming(service: Running, job: Json) -> None:
    """Let a paused job go on for a while, and kill its process."""
    service.client.resume(job["id"])
    searching(service, job, 1)
    (child,) = service.children()
    child.send_signal(signal.SIGKILL)


@pytest.mark.slow
@BOTH
def test_a_search_goes_on_after_a_pause_and_after_its_process_was_killed(service: Running) -> None:
    paused = paused_in_the_middle(service, "searches", BODY)
    assert 0 < paused["progress"]["percent"] < 100
    assert paused["usage"]["stored_bytes"] > 0
    assert service.run("rankings", RANKING)  # the worker is free
    kill_after_resuming(service, paused)
    job = service.finished(paused)
    assert (job["status"], job["attempt"]) == ("succeeded", 2), (job["error"], service.logs())
    assert [change["status"] for change in job["transitions"]] == [
        *("queued", "running", "paused", "queued", "running", "queued", "running", "succeeded"),
    ]
    result = job["result"]
    # The last attempt scored nothing and did not begin anew.
    assert result["scores"]["fisher"]
    assert not {"head", "score"} & set(result["seconds"])
    assert 2 <= result["cost"]["seconds"] <= 1.5 * OPTIONS["budget_seconds"]
    attempts = service.client.call("GET", f"/v1/jobs/{job['id']}/attempts")["data"]
    assert [each["outcome"] for each in attempts] == ["paused", "crashed", "succeeded"]


@pytest.mark.slow
@BOTH
def test_a_fine_tune_that_is_killed_in_its_search_goes_on_searching(service: Running) -> None:
    body = {**SUBJECT, "selection": {"policy": "search", "search": OPTIONS}}
    job = paused_in_the_middle(service, "finetunes", body)
    kill_after_resuming(service, job)
    wait_until(lambda: trains(service.client.job(job["id"])), 120, service.logs)
    service.client.cancel(job["id"])  # whatever follows is as in any fine-tune
    job = service.finished(job)
    assert job["attempt"] == 2
    search = service.client.job(job["resolved"]["search"])
    assert not {"head", "score"} & set(search["result"]["seconds"])
    assert job["resolved"]["layers"] == search["result"]["layers"]


@pytest.mark.slow
@BOTH
def test_cancelling_a_search_stops_it(service: Running) -> None:
    job = service.client.submit("searches", {**BODY, "budget_seconds": 600})
    searching(service, job, 1)
    service.client.cancel(job["id"])
    job = service.finished(job, 20)
    assert (job["status"], job["result"]) == ("cancelled", None)
    assert service.run("rankings", RANKING)
