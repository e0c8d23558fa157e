"""Wrong input of each kind: a problem that names field, row and remedy; nothing is queued."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from models import REAL_MODEL, TINY

from app.main import create_app
from app.settings import Settings

Json = dict[str, Any]
GOOD: Json = {"model": TINY, "dataset": "glue/rte"}
TUNE: Json = {**GOOD, "selection": {"policy": "last_k", "k": 1}}


@pytest.fixture(scope="module")
def api(mirrors: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """An API without workers: whatever is queued stays queued."""
    data = tmp_path_factory.mktemp("api")
    app = create_app(Settings(data_dir=data, mirror_dir=mirrors, offline=True))
    with TestClient(app, raise_server_exceptions=False, base_url="http://127.0.0.1") as client:
        yield client


def problem(answer: Any, status: int, code: str) -> Json:
    """The problem of an answer, checked for its form."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: Json = answer.json()
    assert (body["status"], body["code"]) == (status, code)
    assert body["request_id"] == answer.headers["x-request-id"]
    return body


def says(body: Json, pointer: str, *words: str) -> None:
    """One of the faults is about this field and uses these words."""
    faults = [fault for fault in body["errors"] if fault.get("pointer") == pointer]
    assert faults, body
    text = " ".join(str(fault["detail"]) for fault in faults)
    assert all(word in text for word in words), text


RANKINGS: dict[str, tuple[Json, str, str, tuple[str, ...]]] = {
    "unknown model": ({"model": "no/such"}, "model_not_found", "/model", ("offline", "models/no/such")),
    "path as a model": ({"model": "../../etc"}, "model_not_found", "/model", ("owner/name",)),
    "absolute path": ({"model": "/etc/passwd"}, "model_not_found", "/model", ("paths and URLs",)),
    "url as a model": ({"model": "https://x.y/z"}, "model_not_found", "/model", ("URLs",)),
    "pickled weights": ({"model": "broken/pickled"}, "unsafe_weights", "/model", ("save_pretrained",)),
    "truncated weights": ({"model": "broken/truncated"}, "unsafe_weights", "/model", ("header",)),
    "no encoder": ({"model": "broken/decoder"}, "model_unsupported", "/model", ("gpt2", "bert")),
    "unknown preset": ({"dataset": "glue/colla"}, "dataset_not_found", "/dataset", ("glue/cola",)),
    "unknown upload": ({"dataset": "ds_nope"}, "dataset_not_found", "/dataset", ("/v1/datasets",)),
    "unknown Hub dataset": (
        {"dataset": {"hub": "no/such", "columns": {"text": "a", "label": "b"}}},
        "dataset_not_found", "/dataset", ("offline", "SURGEON_MIRROR_DIR"),
    ),
    "column that is not there": (
        {
            "dataset": {
                "hub": "nyu-mll/glue", "config": "rte",
                "columns": {"text": "sentence_1", "label": "label"},
            }
        },
        "dataset_invalid", "/dataset/columns/text", ("sentence1",),
    ),
    "misspelt field": ({"sampels": 5}, "invalid", "/sampels", ("did you mean 'samples'",)),
    "misspelt field within": ({"head": {"warmup": 1}}, "invalid", "/head/warmup", ("unknown",)),
    "negative samples": ({"samples": -1}, "invalid", "/samples", ("greater than or equal to 2",)),
    "unknown aggregate": ({"aggregate": "sum"}, "invalid", "/aggregate", ("frobenius",)),
    "not a number": ({"seed": "x"}, "invalid", "/seed", ("integer",)),
    "too many labels": ({"metadata": {str(i): "" for i in range(17)}}, "invalid", "/metadata", ("16",)),
}  # fmt: skip


@pytest.mark.parametrize("case", RANKINGS)
def test_a_wrong_ranking_is_refused(case: str, api: TestClient) -> None:
    change, code, pointer, words = RANKINGS[case]
    for query in ("", "?validate_only=true"):
        body = problem(api.post(f"/v1/rankings{query}", json={**GOOD, **change}), 422, code)
        says(body, pointer, *words)
    assert api.get("/v1/jobs").json()["data"] == []


FINETUNES: dict[str, tuple[Json, str, str, tuple[str, ...]]] = {
    "more than the model has": (
        {"selection": {"policy": "top_k", "k": 5}}, "selection_mismatch", "/selection/k", ("4",),
    ),
    "last more than there are": (
        {"selection": {"policy": "last_k", "k": 9}}, "selection_mismatch", "/selection/k", ("4",),
    ),
    "layer that does not exist": (
        {"selection": {"policy": "layers", "layers": ["encoder.layer.1", "encoder.layer.11"]}},
        "selection_mismatch", "/selection/layers/1", ("encoder.layer.1",),
    ),
    "index that does not exist": (
        {"selection": {"policy": "layers", "layers": [4]}},
        "selection_mismatch", "/selection/layers/0", ("4",),
    ),
    "no layer": ({"selection": {"policy": "layers", "layers": []}}, "invalid", "/selection", ("head_only",)),
    "k missing": ({"selection": {"policy": "top_k"}}, "invalid", "/selection", ("needs k",)),
    "k for all": ({"selection": {"policy": "all", "k": 1}}, "invalid", "/selection", ("leave it out",)),
    "unknown policy": ({"selection": {"policy": "best"}}, "invalid", "/selection/policy", ("top_k",)),
    "unknown ranking": (
        {"selection": {"policy": "top_k", "k": 1, "ranking": "rk_no"}},
        "invalid", "/selection/ranking", ("/v1/rankings",),
    ),
    "selection missing": ({"selection": None}, "invalid", "/selection", ()),
    "rate of zero": ({"training": {"learning_rate": 0}}, "invalid", "/training/learning_rate", ()),
    "no epochs": ({"training": {"epochs": 0}}, "invalid", "/training/epochs", ()),
    "warm-up longer than the run": (
        {"training": {"warmup_ratio": 1.0}}, "invalid", "/training/warmup_ratio", (),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FINETUNES)
def test_a_wrong_finetune_is_refused(case: str, api: TestClient) -> None:
    change, code, pointer, words = FINETUNES[case]
    body = problem(api.post("/v1/finetunes", json={**TUNE, **change}), 422, code)
    says(body, pointer, *words)
    assert api.get("/v1/jobs").json()["data"] == []


def test_a_body_that_is_no_json_is_400_and_another_type_415(api: TestClient) -> None:
    headers = {"content-type": "application/json"}
    problem(api.post("/v1/rankings", content=b"{", headers=headers), 400, "not_json")
    problem(api.post("/v1/rankings", content=b"{}"), 415, "unsupported_media_type")
    problem(api.post("/v1/rankings", json=[1]), 422, "invalid")
    problem(api.post("/v1/rankings", content=b"1" * 1_000_001, headers=headers), 413, "too_large")


def test_unknown_objects_are_404(api: TestClient) -> None:
    for path in (
        "/v1/jobs/rk_x", "/v1/rankings/rk_x", "/v1/rankings/rk_x/selection", "/v1/finetunes/ft_x",
        "/v1/datasets/ds_x", "/v1/checkpoints/ck_x", "/v1/checkpoints/ck_x/archive",
        "/v1/checkpoints/ck_x/files/a", "/v1/tasks/glue/x", "/v1/models/no/such", "/v1/nothing",
        "/v1/jobs/x/events", "/v1/jobs/x/metrics", "/v1/jobs/x/checkpoints",
    ):  # fmt: skip
        problem(api.get(path), 404, "not_found")
    problem(api.delete("/v1/datasets/ds_x"), 404, "not_found")
    problem(api.put("/v1/jobs"), 405, "method_not_allowed")


def upload(
    api: TestClient, text: str | bytes, name: str = "t.csv", spec: Json | None = None
) -> Any:
    files = {"train": (name, text)}
    return api.post("/v1/datasets", files=files, data={"spec": json.dumps(spec or {})})


ROWS = "text,label\n" + "".join(f"sentence number {i},{i % 2}\n" for i in range(10))
UPLOADS: dict[str, tuple[str | bytes, str, tuple[str, ...], int | None]] = {
    "no label column": ("text,kind\na,1\nb,0\n", "t.csv", ("columns.label", "kind"), None),
    "empty file": ("", "t.csv", ("empty",), None),
    "header only": ("text,label\n", "t.csv", ("rows",), None),
    "one class": ("text,label\na,1\nb,1\nc,1\n", "t.csv", ("two classes",), None),
    "NaN label": (ROWS + "x,NaN\n", "t.csv", ("label",), 11),
    "empty label": (ROWS + "x,\n", "t.csv", ("label",), 11),
    "huge cell": (ROWS + "x" * 10_000_000 + ",1\n", "t.csv", ("4,000,000",), 11),
    "large cell": (ROWS + "x" * 2_000_000 + ",1\n", "t.csv", ("1,000,000",), 11),
    "ragged row": (ROWS + "x\n", "t.csv", ("field",), 11),
    "no UTF-8": (ROWS.encode() + b"\xff\xfe,1\n", "t.csv", ("UTF-8",), 11),
    "NUL byte": (ROWS.encode() + b"a\x00b,1\n", "t.csv", ("NUL",), 11),
    "unknown format": ("x", "t.xlsx", ("csv", "parquet"), None),
    "no JSON line": ('{"text": "a", "label": 1}\n{"text"\n', "t.jsonl", ("JSON",), 2),
    "no Parquet": (b"PAR1 nothing", "t.parquet", ("Parquet",), None),
}


@pytest.mark.parametrize("case", UPLOADS)
def test_a_wrong_upload_is_refused_and_nothing_kept(case: str, api: TestClient) -> None:
    content, name, words, row = UPLOADS[case]
    before = {path.name for path in api.app.state.service.settings.data_dir.iterdir()}  # type: ignore[attr-defined]
    body = problem(upload(api, content, name), 422, "dataset_invalid")
    text = json.dumps(body, ensure_ascii=False)
    assert all(word.lower() in text.lower() for word in words), text
    if row is not None:
        assert row in [fault.get("row") for fault in body["errors"]], text
    assert api.get("/v1/datasets").json()["data"] == []
    after = {path.name for path in api.app.state.service.settings.data_dir.iterdir()}  # type: ignore[attr-defined]
    assert after == before


def test_a_wrong_upload_spec_is_refused(api: TestClient) -> None:
    says(
        problem(upload(api, ROWS, spec={"probelm": "x"}), 422, "invalid"),
        "/spec/probelm",
        "problem",
    )
    body = problem(upload(api, ROWS, spec={"columns": {"text": "txt"}}), 422, "dataset_invalid")
    assert "did you mean 'text'" in json.dumps(body)
    answer = api.post("/v1/datasets", files={"train": ("t.csv", ROWS)}, data={"spec": "{"})
    problem(answer, 422, "invalid")
    problem(api.post("/v1/datasets", data={"spec": "{}"}), 422, "invalid")


def test_a_ranking_of_another_model_is_refused(api: TestClient, mirrors: str) -> None:
    """Stored as a worker would store it; then asked for with the other model."""
    from app import jobs
    from app.submit import prepare_ranking
    from app.tables import Kind
    from surgery.spec import RankingSpec

    service = api.app.state.service  # type: ignore[attr-defined]
    created = api.post("/v1/rankings", json={**GOOD, "model": "tiny/other", "samples": 8}).json()
    selection = {"policy": "top_k", "k": 1, "ranking": created["id"]}
    early = problem(
        api.post("/v1/finetunes", json={**TUNE, "selection": selection}), 409, "conflict"
    )
    assert "wait until it has succeeded" in early["detail"]
    lease, job = jobs.claim(service.database, "w", [Kind.RANKING], service.settings.lease) or (
        None,
        None,
    )
    assert lease is not None
    assert job is not None
    layers = [
        {"rank": i + 1, "name": f"encoder.layer.{i}", "index": i, "score": 1.0, "share": 0.5,
         "ci": None, "p_top_k": None, "parameters": 1}
        for i in range(2)
    ]  # fmt: skip
    result = {
        "method": "fisher", "aggregate": "trace", "fisher": "empirical", "samples": 8,
        "path": "batched", "layers": layers, "warnings": [], "seconds": {},
        "stability": {"split_half_kendall_tau": None, "rank_confidence": None, "ambiguous_k": None},
        "recommended_k": {"k": 1, "reason": "-"},
        "head": {"source": "new", "warmup_epochs": 0, "warmup_rows": 0, "warmup_loss": None},
    }  # fmt: skip
    jobs.finish(service.database, lease, result, {})
    refused = problem(
        api.post("/v1/finetunes", json={**TUNE, "selection": selection}), 422, "selection_mismatch"
    )
    says(refused, "/selection/ranking", "same model")
    assert prepare_ranking(
        service, RankingSpec(**{**GOOD, "model": "tiny/other", "samples": 8})
    ).cached
    same = {**TUNE, "model": "tiny/other", "selection": selection}
    assert api.post("/v1/finetunes?validate_only=true", json=same).json()["valid"] is True
    view = api.get(f"/v1/rankings/{created['id']}/selection?k=1&format=peft").json()
    assert view["selection"] == {"layers_to_transform": [0], "layers_pattern": "layer"}
    mismatch = api.get(f"/v1/rankings/{created['id']}/selection?k=3")
    problem(mismatch, 422, "selection_mismatch")


def test_an_idempotency_key_gives_one_job(api: TestClient) -> None:
    headers = {"Idempotency-Key": "k-1"}
    body = {**GOOD, "seed": 99}
    first = api.post("/v1/rankings", json=body, headers=headers)
    again = api.post("/v1/rankings", json=body, headers=headers)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["idempotent-replayed"] == "true"
    other = api.post("/v1/rankings", json={**body, "seed": 98}, headers=headers)
    assert "use a new key" in problem(other, 422, "invalid")["detail"]


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
            if "requestBody" in operation and path != "/v1/datasets":
                body = operation["requestBody"]["content"]["application/json"]
                assert body["examples"], (method, path)


def test_a_model_is_described_from_its_headers(api: TestClient) -> None:
    body = api.get(f"/v1/models/{REAL_MODEL}").json()
    assert [layer["name"] for layer in body["layers"]] == [f"encoder.layer.{i}" for i in range(6)]
    assert {layer["parameters"] for layer in body["layers"]} == {1_774_464}
    assert (body["model_type"], body["hidden_size"], body["source"]) == ("bert", 384, "mirror")


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
