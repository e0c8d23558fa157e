"""A job that is followed from its request to its worker by logs and traces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.service.services import embedded_with, wait_until

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
OBSERVED = {"SURGEON_LOG_FORMAT": "json", "OTEL_TRACES_EXPORTER": "console"}
BODY = {"model": "tiny/bert", "dataset": "glue/rte", "method": "weight_snr"}


@pytest.mark.slow
def test_one_id_and_one_trace_lead_from_the_request_to_the_attempt(
    few_mirrors: str, tmp_path: Path
) -> None:
    with embedded_with(tmp_path / "data", few_mirrors, OBSERVED) as running:
        headers = {"X-Request-ID": "from-me", "traceparent": f"00-{TRACE}-{PARENT}-01"}
        url = f"{running.client.url}/v1/rankings"
        job = httpx2.post(url, json=BODY, headers=headers).json()
        assert running.finished(job)["status"] == "succeeded"
        wait_until(lambda: "attempt" in spans(running.logs()), 30, running.logs)
        log = running.logs()
        own = running.client.call("GET", f"/v1/jobs/{job['id']}/logs")["data"]
    assert own[0]["text"].endswith("request from-me")
    about = [line for line in objects(log) if line.get("job_id") == job["id"]]
    assert {line["request_id"] for line in about} == {"from-me"}
    assert {line["epoch"] for line in about} == {1}
    assert {line["logger"] for line in about} >= {"surgeon.worker"}
    found = spans(log)
    assert found["POST /v1/rankings"]["parent_id"] == f"0x{PARENT}"
    request = found["POST /v1/rankings"]["context"]["span_id"]
    for name in ("queue", "attempt"):
        assert found[name]["context"]["trace_id"] == f"0x{TRACE}"
        assert found[name]["parent_id"] == request
    attributes = found["attempt"]["attributes"]
    assert attributes["surgeon.job.id"] == job["id"]
    assert attributes["surgeon.attempt.outcome"] == "succeeded"
    assert found["queue"]["start_time"] < found["attempt"]["start_time"]


def objects(log: str) -> list[dict[str, Any]]:
    """The lines that are JSON: those of the log and the spans."""
    return [json.loads(line) for line in log.splitlines() if line.startswith("{")]


def spans(log: str) -> dict[str, Any]:
    """The spans of our trace, by name."""
    traced = [line for line in objects(log) if "context" in line]
    ours = [line for line in traced if line["context"]["trace_id"] == f"0x{TRACE}"]
    return {line["name"]: line for line in ours}
