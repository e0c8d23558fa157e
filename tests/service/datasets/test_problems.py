"""Uploads of choices and of tagged words over HTTP."""

from __future__ import annotations

import json
from typing import Any

from fastapi.testclient import TestClient

from tests.support.models.mirror import TINY
from tests.support.service.problems import Json, problem, says, upload


def lines(rows: list[Json]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def asked(**last: Any) -> str:
    rows: list[Json] = [
        {"context": f"It rained {n}.", "choices": ["wet", "dry"], "label": n % 2} for n in range(20)
    ]
    rows[-1].update(last)
    return lines(rows)


def tagged(**last: Any) -> str:
    rows: list[Json] = [{"tokens": ["in", f"Rome{n}"], "tags": ["O", "B-LOC"]} for n in range(20)]
    rows[-1].update(last)
    return lines(rows)


def test_choices_are_uploaded_and_can_be_ranked_on(api: TestClient) -> None:
    answer = upload(api, asked(), "t.jsonl")
    assert answer.status_code == 201, answer.text
    report = answer.json()
    assert report["problem"] == "multiple_choice"
    assert report["columns"] == {
        "text": "context", "text_pair": None, "choices": "choices", "tokens": None,
        "label": "label",
    }  # fmt: skip
    assert report["label_counts"]["train"] == {"0": 9, "1": 9}
    assert api.get(f"/v1/datasets/{report['id']}").json() == report
    body = {"model": TINY, "dataset": report["id"]}
    assert api.post("/v1/rankings?validate_only=true", json=body).status_code == 200
    table = "context,choice1,choice2,label\n" + "".join(
        f"It rained {n}.,wet,dry,{n % 2}\n" for n in range(20)
    )
    again = upload(api, table, "t.csv")
    assert (again.status_code, again.json()["id"]) == (200, report["id"])


def test_tagged_words_are_uploaded(api: TestClient) -> None:
    spec = {"columns": {"tokens": "tokens", "label": "tags"}, "problem": "token_classification"}
    answer = upload(api, tagged(), "t.jsonl", spec)
    assert answer.status_code == 201, answer.text
    report = answer.json()
    assert report["labels"] == ["O", "B-LOC"]
    assert report["inferred"] == ["validation"]
    indices = tagged().replace('"O"', "0").replace('"B-LOC"', "1")
    named = upload(api, indices, "t.jsonl", {**spec, "labels": ["O", "B-LOC"]})
    assert (named.status_code, named.json()["id"]) == (200, report["id"])


def test_a_wrong_row_is_named_with_its_column(api: TestClient) -> None:
    before = len(api.get("/v1/datasets").json()["data"])
    for text, column, words in (
        (asked(label=2), "label", "index from 0 to 1"),
        (asked(choices=["a", "b", "c"]), "choices", "3 choices where the first row has 2"),
        (tagged(tags=["O"]), "tags", "has 1 tag where tokens has 2 words"),
        (tagged(tokens=["in", None]), "tokens", "word 1"),
    ):
        body = problem(upload(api, text, "mine.jsonl"), 422, "dataset_invalid")
        [fault] = body["errors"]
        assert (fault["file"], fault["row"], fault["column"]) == ("mine.jsonl", 20, column)
        assert words in fault["detail"]
    assert len(api.get("/v1/datasets").json()["data"]) == before


def test_a_wrong_description_is_named_with_its_field(api: TestClient) -> None:
    spec = {"problem": "token_classification"}
    body = problem(upload(api, "tokens,tags\na b,O O\n", "t.csv", spec), 422, "dataset_invalid")
    assert "JSON Lines or Parquet" in body["detail"]
    body = problem(upload(api, asked(), "t.jsonl", {"labels": ["a", "b"]}), 422, "dataset_invalid")
    says(body, "/spec/labels", "multiple_choice")
    spec = {"columns": {"choices": ["a"]}}
    says(
        problem(upload(api, asked(), "t.jsonl", spec), 422, "invalid"), "/spec/columns/choices", "2"
    )


def test_copa_is_a_preset(api: TestClient) -> None:
    task = api.get("/v1/tasks/super_glue/copa").json()
    assert task["problem"] == "multiple_choice"
    assert task["columns"]["choices"] == ["choice1", "choice2"]
    assert (task["labels"], task["metrics"]) == ([], ["accuracy"])
