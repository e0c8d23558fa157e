"""Requests to the API, and what a problem must say."""

from __future__ import annotations

import json
from typing import Any

from fastapi.testclient import TestClient

Json = dict[str, Any]
ROWS = "text,label\n" + "".join(f"sentence number {i},{i % 2}\n" for i in range(10))


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


def upload(
    api: TestClient, text: str | bytes, name: str = "t.csv", spec: Json | None = None
) -> Any:
    files = {"train": (name, text)}
    return api.post("/v1/datasets", files=files, data={"spec": json.dumps(spec or {})})
