"""The log of a fine-tune as it is downloaded."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.support.models.mirror import TINY
from tests.support.outside.event_files import curves
from tests.support.service.problems import problem
from tests.support.service.services import Running


def test_the_log_holds_what_the_metrics_list(embedded_service: Running, tmp_path: Path) -> None:
    body = {
        "model": TINY, "dataset": "glue/rte", "selection": {"policy": "last_k", "k": 1},
        "training": {"epochs": 2, "max_length": 32},
    }  # fmt: skip
    job = embedded_service.run("finetunes", body)
    assert not [told for told in job["result"]["warnings"] if "tensorboard" in told["message"]]
    listed = embedded_service.client.call(
        "GET", f"/v1/jobs/{job['id']}/metrics", params={"limit": 200}
    )["data"]
    told: dict[str, dict[int, float]] = {}
    for metric in listed:
        told.setdefault(metric["name"], {})[metric["step"]] = metric["value"]
    answer = embedded_service.client.driver.http.get(f"/v1/jobs/{job['id']}/tensorboard")
    assert int(answer.headers["content-length"]) == len(answer.content)
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        archive.extractall(tmp_path, filter="data")
    found = curves(tmp_path / job["id"])
    assert found.keys() == told.keys()
    for name, values in told.items():
        assert found[name] == pytest.approx(values, rel=1e-6)


def test_a_job_without_a_log_says_so(api: TestClient) -> None:
    job = api.post("/v1/rankings", json={"model": TINY, "dataset": "glue/rte"}).json()
    answer = problem(api.get(f"/v1/jobs/{job['id']}/tensorboard"), 404, "not_found")
    assert "fine-tune" in answer["detail"]
