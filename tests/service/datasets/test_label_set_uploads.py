"""Uploads of rows with several labels that are wrong, each in one way."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support.rows.topics import topic_rows
from tests.support.service.problems import Json, problem, says, upload

ROWS = topic_rows(20, 0)
SPEC: Json = {"columns": {"text": "text", "label": "labels"}, "problem": "multi_label"}


def lines(**last: Any) -> str:
    rows = [*ROWS[:-1], {**ROWS[-1], **last}]
    return "".join(json.dumps(row) + "\n" for row in rows)


def csv(mark: str) -> str:
    return "text,labels\n" + "".join(f'{r["text"]},"{mark.join(r["labels"])}"\n' for r in ROWS)


def columns(**last: Any) -> str:
    rows: list[Json] = [
        {"text": row["text"], "food": int("food" in row["labels"]), "colour": n % 2}
        for n, row in enumerate(ROWS)
    ]
    rows[-1].update(last)
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("text", "spec", "column", "words"),
    [
        (lines(labels=["food", "food"]), {}, "labels", "is 'food' again"),
        (lines(labels="food"), {}, "labels", "label_separator"),
        (lines(labels=[0.5, None]), {}, "labels", "at place 1 (counted from 0) is missing"),
        (lines(labels=None), SPEC, "labels", "a list of them, or a text"),
        (columns(food=3), {"columns": {"label": ["food", "colour"]}}, "food", "has 1 where a row"),
    ],
)
def test_a_wrong_row_is_named_with_its_column(
    api: TestClient, text: str, spec: Json, column: str, words: str
) -> None:
    body = problem(upload(api, text, "mine.jsonl", spec), 422, "dataset_invalid")
    [fault] = body["errors"]
    assert (fault["file"], fault["row"], fault["column"]) == ("mine.jsonl", 20, column)
    assert words in fault["detail"]


def test_a_separator_is_named_and_never_guessed(api: TestClient) -> None:
    body = problem(upload(api, csv(";"), "t.csv", SPEC), 422, "dataset_invalid")
    assert all('{"label_separator": ";"}' in fault["detail"] for fault in body["errors"])
    body = problem(upload(api, csv("|"), "t.csv"), 422, "dataset_invalid")
    says(body, "/spec/label_separator", 'give label_separator "|"')
    stored = upload(api, csv("|"), "t.csv", {**SPEC, "label_separator": "|"})
    assert stored.status_code == 201, stored.text
    again = upload(api, lines(), "t.jsonl")
    assert (again.status_code, again.json()["id"]) == (200, stored.json()["id"])


@pytest.mark.parametrize(
    ("spec", "code", "pointer", "words"),
    [
        ({"label_separator": ";", "problem": "regression"}, "invalid",
         "/spec/label_separator", "multi_label"),
        ({"label_separatr": ";"}, "invalid", "/spec/label_separatr", "label_separator"),
        ({"columns": {"label": ["a", "b"]}}, "dataset_invalid", "/spec/columns/label/0", "no column"),
        ({"columns": {"label": ["labels", "text"]}, "problem": "classification"},
         "dataset_invalid", "/spec/columns/label", "multi_label"),
    ],
)  # fmt: skip
def test_a_wrong_description_is_named_with_its_field(
    api: TestClient, spec: Json, code: str, pointer: str, words: str
) -> None:
    says(problem(upload(api, lines(), "t.jsonl", spec), 422, code), pointer, words)
