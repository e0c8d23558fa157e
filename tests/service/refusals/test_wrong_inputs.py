"""Wrong input of each kind: a problem that names field, row and remedy; nothing is queued."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.support.models.mirror import TINY
from tests.support.service.problems import ROWS, Json, problem, says, upload

GOOD: Json = {"model": TINY, "dataset": "glue/rte"}
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
    "path as a Hub dataset": (
        {"dataset": {"hub": "../../etc"}}, "invalid", "/dataset/hub", ("owner/name", "paths"),
    ),
    "path as a split": (
        {"dataset": {"hub": "me/own", "train": "../x"}}, "invalid", "/dataset/train", ("one name",),
    ),
    "file as a dataset": (
        {"dataset": "train.csv"}, "dataset_not_found", "/dataset", ("POST /v1/datasets",),
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


UPLOADS: dict[str, tuple[str | bytes, str, tuple[str, ...], int | None]] = {
    "no label column": ("text,kind\na,1\nb,0\n", "t.csv", ("columns.label", "kind"), None),
    "empty file": ("", "t.csv", ("empty",), None),
    "header only": ("text,label\n", "t.csv", ("rows",), None),
    "one class": ("text,label\na,1\nb,1\nc,1\n", "t.csv", ("two classes",), None),
    "NaN label": (ROWS + "x,NaN\n", "t.csv", ("label",), 11),
    "empty label": (ROWS + "x,\n", "t.csv", ("label",), 11),
    "huge cell": (ROWS + "x" * 10_000_000 + ",1\n", "t.csv", ("4,000,000",), 11),
    "large cell": (ROWS + "x" * 2_000_000 + ",1\n", "t.csv", ("1,000,000",), 11),
    "ragged row": (ROWS + "x\n", "t.csv", ("1 field", "fill in"), 11),
    "no UTF-8": (ROWS.encode() + b"\xff\xfe,1\n", "t.csv", ("UTF-8",), 11),
    "NUL byte": (ROWS.encode() + b"a\x00b,1\n", "t.csv", ("NUL",), 11),
    "unknown format": ("x", "t.xlsx", ("csv", "parquet"), None),
    "no JSON line": ('{"text": "a", "label": 1}\n{"text"\n', "t.jsonl", ("JSON",), 2),
    "no header": (
        "".join(f"ham,text {n}\nspam,mail {n}\n" for n in range(10)),
        "t.csv",
        ("not like a header",),
        None,
    ),
    "lists as text": (
        "question,choices,label\n" + "q,\"['a', 'b']\",0\n" * 9,
        "t.csv",
        ("list written as text",),
        1,
    ),
    "a label a row": (
        "text,label\n" + "".join(f"a {n},x{n}\n" for n in range(60)),
        "t.csv",
        ("60 different labels in 60 rows",),
        None,
    ),
    "objects over lines": ('{\n "text": "a",\n "label": 1\n}\n', "t.jsonl", ("several lines",), 1),
    "one JSON object": (
        '{"data": [{"text": "a", "label": 1}]}',
        "t.jsonl",
        ("one JSON object",),
        1,
    ),
    "no Parquet": (b"PAR1 nothing", "t.parquet", ("Parquet",), None),
}


def files_in(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("case", UPLOADS)
def test_a_wrong_upload_is_refused_and_nothing_kept(case: str, api: TestClient) -> None:
    content, name, words, row = UPLOADS[case]
    data: Path = api.app.state.service.settings.data_dir  # type: ignore[attr-defined]
    before = files_in(data)
    body = problem(upload(api, content, name), 422, "dataset_invalid")
    text = json.dumps(body, ensure_ascii=False)
    assert all(word.lower() in text.lower() for word in words), text
    if row is not None:
        assert row in [fault.get("row") for fault in body["errors"]], text
    assert api.get("/v1/datasets").json()["data"] == []
    assert files_in(data) == before


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
    answer = api.post("/v1/datasets", data={"spec": "{}"})
    assert "multipart/form-data" in problem(answer, 415, "unsupported_media_type")["detail"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("valid", "did you mean 'validation'?"), ("dev", "did you mean 'validation'?"),
        ("test", "did you mean 'validation'?"), ("trian", "did you mean 'train'?"),
        ("file", "did you mean 'train'?"), ("spce", "did you mean 'spec'?"),
        ("columns", "it belongs in spec"), ("labels", "it belongs in spec"),
        ("seed", "it belongs in spec"), ("a/b", "the parts are train, validation, spec and name"),
    ],
)  # fmt: skip
def test_an_unknown_part_of_an_upload_is_refused(name: str, words: str, api: TestClient) -> None:
    files = {"train": ("t.csv", ROWS), name: ("v.csv", ROWS)}
    body = problem(api.post("/v1/datasets", files=files), 422, "invalid")
    says(body, "/" + name.replace("/", "~1"), f"unknown part {name!r}", words)
    body = problem(
        api.post("/v1/datasets", files={"train": ("t.csv", ROWS)}, data={name: "x"}), 422, "invalid"
    )
    says(body, "/" + name.replace("/", "~1"), words)
    assert api.get("/v1/datasets").json()["data"] == []


@pytest.mark.parametrize("name", ["train", "validation", "spec"])
def test_a_part_sent_twice_is_refused(name: str, api: TestClient) -> None:
    parts = [("train", ("t.csv", ROWS)), (name, ("a.csv", ROWS)), (name, ("b.csv", ROWS))]
    body = problem(api.post("/v1/datasets", files=parts), 422, "invalid")
    says(body, f"/{name}", "was sent twice")
    assert api.get("/v1/datasets").json()["data"] == []
