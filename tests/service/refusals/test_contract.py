"""What every endpoint keeps to: idempotency, documentation, identity by content."""

from __future__ import annotations

import json
from pathlib import Path

from fastapi.testclient import TestClient

from tests.support.models.mirror import REAL_MODEL, TINY
from tests.support.service.problems import ROWS, Json, problem, upload

UPLOADS = {"/v1/datasets", "/compat/openai/v1/files"}  # forms
GOOD: Json = {"model": TINY, "dataset": "glue/rte"}


def test_an_idempotency_key_gives_one_job(api: TestClient) -> None:
    headers = {"Idempotency-Key": "k-1"}
    body = {**GOOD, "seed": 99}
    first = api.post("/v1/rankings", json=body, headers=headers)
    again = api.post("/v1/rankings", json=body, headers=headers)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["idempotent-replayed"] == "true"
    other = api.post("/v1/rankings", json={**body, "seed": 98}, headers=headers)
    assert "use a new key" in problem(other, 422, "idempotency_key_reused")["detail"]


def test_every_operation_has_an_example_and_a_summary(api: TestClient) -> None:
    for path, operations in api.get("/openapi.json").json()["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            assert operation["description"], (method, path)
            good = [
                a for code, a in operation["responses"].items() if code in {"200", "201", "202"}
            ]
            content = [c for answer in good for c in answer.get("content", {}).values()]
            binary = any(c.get("schema", {}).get("format") == "binary" for c in content)
            assert binary or method == "delete" or any("example" in c for c in content), (
                method,
                path,
            )
            if "requestBody" in operation and path not in UPLOADS:
                body = operation["requestBody"]["content"]["application/json"]
                assert body["examples"], (method, path)


def test_a_model_is_described_from_its_headers(api: TestClient) -> None:
    body = api.get(f"/v1/models/{REAL_MODEL}").json()
    assert [layer["name"] for layer in body["layers"]] == [f"encoder.layer.{i}" for i in range(6)]
    assert {layer["parameters"] for layer in body["layers"]} == {1_774_464}
    assert (body["model_type"], body["hidden_size"], body["source"]) == ("bert", 384, "mirror")


def test_the_models_of_the_mirrors_are_listed(api: TestClient) -> None:
    body = api.get("/v1/models").json()
    assert {REAL_MODEL, TINY} <= {model["id"] for model in body["data"]}
    assert body["hub"] is False, "the service is offline"


def test_the_same_rows_are_one_dataset(api: TestClient) -> None:
    first = upload(api, ROWS)
    assert first.status_code == 201, first.text
    jsonl = "".join(
        json.dumps({"text": f"sentence number {i}", "label": i % 2}) + "\n" for i in range(10)
    )
    again = upload(api, jsonl, "t.jsonl")
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    job = api.post("/v1/rankings", json={**GOOD, "dataset": first.json()["id"]}).json()
    busy = problem(api.delete(f"/v1/datasets/{first.json()['id']}"), 409, "conflict")
    assert job["id"] in busy["detail"]
    api.post(f"/v1/jobs/{job['id']}/cancel")
    assert api.delete(f"/v1/datasets/{first.json()['id']}").status_code == 204
    stored = Path(api.app.state.service.settings.data_dir / "artifacts" / "datasets")  # type: ignore[attr-defined]
    assert list(stored.iterdir()) == []
