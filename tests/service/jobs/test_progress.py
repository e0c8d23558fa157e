"""The progress of real jobs, as somebody sees it who asks again and again."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.models.mirror import TINY
from tests.support.service.services import Running

BODY = {
    "model": TINY, "dataset": "glue/cola", "selection": {"policy": "top_k", "k": 1},
    "training": {"epochs": 10, "batch_size": 8},
}  # fmt: skip


@pytest.mark.slow
def test_fast_polls_of_a_running_finetune(embedded_service: Running) -> None:
    """As fast as it answers, from the first moment to the last: ranking, training, evaluations."""
    client = embedded_service.client
    job = client.submit("finetunes", BODY)
    running: list[Any] = []
    polls = 0
    while not job["terminal"]:
        job = client.job(job["id"])
        if job["status"] == "running":
            polls += 1
            running.append(job["progress"])
    assert job["status"] == "succeeded", job["error"]
    assert polls >= 200
    percents = [progress["percent"] for progress in running] + [job["progress"]["percent"]]
    assert None not in percents
    assert percents == sorted(percents)
    assert percents[-1] == 100.0
    assert all(progress["step"] is not None and progress["unit"] for progress in running)
    assert all(progress["eta_seconds"] is not None for progress in running if progress["percent"])


def test_a_submission_can_wait_for_its_result(embedded_service: Running) -> None:
    http: Any = embedded_service.client.driver.http
    body = {"model": TINY, "dataset": "glue/cola", "samples": 8, "seed": 41, "model_prior": False}
    created = http.post("/v1/rankings", json=body, headers={"Prefer": "wait=60"}, timeout=90)
    assert created.headers["preference-applied"] == "wait=60"
    assert (created.status_code, created.json()["status"]) == (200, "succeeded")
    assert created.headers["location"] == f"/v1/rankings/{created.json()['id']}"
    assert "retry-after" not in created.headers
    checked = http.post("/v1/rankings?validate_only=true", json=body, headers={"Prefer": "wait=9"})
    assert checked.json()["valid"] is True
