"""Requests about webhooks, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from tests.support.service.problems import problem, says

Json = dict[str, Any]
Create = Callable[..., Json]


def test_the_secret_is_shown_once(api: TestClient, new_webhook: Create) -> None:
    hook = new_webhook(description="the team's channel")
    assert hook["secret"].startswith("whsec_")
    assert hook["events"] == ["job.succeeded", "job.failed", "job.cancelled"]
    path = f"/v1/webhooks/{hook['id']}"
    shown = api.get(path).json()
    assert shown == {name: value for name, value in hook.items() if name != "secret"}
    (listed,) = api.get("/v1/webhooks").json()["data"]
    assert listed == shown
    answers = [api.get(path), api.get("/v1/webhooks"), api.get(f"{path}/deliveries")]
    assert all(hook["secret"] not in answer.text for answer in answers)


def test_a_created_webhook_is_named_and_its_secret_not_cached(
    api: TestClient, hook_receiver: Any
) -> None:
    answer = api.post("/v1/webhooks", json={"url": hook_receiver.url})
    assert answer.headers["location"] == f"/v1/webhooks/{answer.json()['id']}"
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("fields", "pointer", "words"),
    [
        ({"url": "http://10.0.0.1/"}, "/url", "not a public address"),
        ({"url": "https://user@example.com/"}, "/url", "user name"),
        ({"url": "ftp://example.com/"}, "/url", "must begin with"),
        ({"events": []}, "/events", "at least 1"),
        ({"events": ["job.done"]}, "/events/0", "job.succeeded"),
        ({"event": ["job.failed"]}, "/event", "did you mean 'events'?"),
        ({"description": "x" * 201}, "/description", "200"),
    ],
)
def test_what_is_refused(
    api: TestClient, hook_receiver: Any, fields: Json, pointer: str, words: str
) -> None:
    answer = api.post("/v1/webhooks", json={"url": hook_receiver.url, **fields})
    says(problem(answer, 422, "invalid"), pointer, words)
    assert api.get("/v1/webhooks").json()["data"] == []


def test_without_the_setting_only_public_addresses_are_taken(settings: Settings) -> None:
    own = settings.model_copy(update={"webhook_networks": []})
    with TestClient(create_app(own), base_url="http://127.0.0.1") as api:
        for url, words in (
            ("http://127.0.0.1:9000/", "must begin with https://"),
            ("https://127.0.0.1/", "SURGEON_WEBHOOK_NETWORKS"),
            ("http://example.com/", "must begin with https://"),
        ):
            refused = api.post("/v1/webhooks", json={"url": url})
            says(problem(refused, 422, "invalid"), "/url", words)
        assert api.post("/v1/webhooks", json={"url": "https://example.com/"}).status_code == 201


def test_changes(api: TestClient, new_webhook: Create) -> None:
    path = f"/v1/webhooks/{new_webhook(description='a')['id']}"
    changed = api.patch(path, json={"events": ["job.failed"], "url": "https://example.com/new"})
    assert changed.json()["events"] == ["job.failed"]
    assert changed.json()["url"] == "https://example.com/new"
    assert changed.json()["description"] == "a"
    assert api.patch(path, json={"description": None}).json()["description"] is None
    assert api.patch(path, json={"enabled": False}).json()["enabled"] is False
    assert api.get(path).json()["enabled"] is False
    refused = api.patch(path, json={"url": "ftp://example.com"})
    says(problem(refused, 422, "invalid"), "/url", "must begin with")


def test_deliveries_are_walked_page_by_page(api: TestClient, new_webhook: Create) -> None:
    hook = new_webhook()
    path = f"/v1/webhooks/{hook['id']}"
    made = [api.post(f"{path}/test").json()["id"] for _ in range(5)]
    met: list[str] = []
    query: Json = {"limit": 2, "status": "pending"}
    while True:
        page = api.get(f"{path}/deliveries", params=query).json()
        met += [each["id"] for each in page["data"]]
        if not page["has_more"]:
            break
        query["cursor"] = page["next_cursor"]
    assert met == made[::-1]
    assert api.get(f"{path}/deliveries", params={"status": "failed"}).json()["data"] == []
    refused = api.get(f"{path}/deliveries", params={"status": "lost"})
    says(problem(refused, 422, "invalid"), "/status/0", "pending")


def test_a_project_has_a_bounded_number(api: TestClient, new_webhook: Create) -> None:
    for _ in range(20):
        last = new_webhook()
    answer = api.post("/v1/webhooks", json={"url": "https://example.com/"})
    assert "at most 20" in problem(answer, 409, "conflict")["detail"]
    assert api.delete(f"/v1/webhooks/{last['id']}").status_code == 204
    new_webhook()


def test_what_is_not_there(api: TestClient, new_webhook: Create) -> None:
    hook, other = new_webhook(), new_webhook()
    entry = api.post(f"/v1/webhooks/{hook['id']}/test").json()["id"]
    for method, path in (
        ("GET", "/v1/webhooks/wh_0"), ("DELETE", "/v1/webhooks/wh_0"),
        ("POST", "/v1/webhooks/wh_0/test"), ("GET", "/v1/webhooks/wh_0/deliveries"),
        ("GET", f"/v1/webhooks/{other['id']}/deliveries/{entry}"),
        ("POST", f"/v1/webhooks/{other['id']}/deliveries/{entry}/replay"),
        ("POST", f"/v1/webhooks/{hook['id']}/deliveries/msg_0/replay"),
    ):  # fmt: skip
        problem(api.request(method, path), 404, "not_found")
    for method, path in (("PATCH", ""), ("POST", "/rotate")):
        problem(api.request(method, f"/v1/webhooks/wh_0{path}", json={}), 404, "not_found")


def test_the_document_shows_what_receivers_are_sent(api: TestClient) -> None:
    document = api.get("/openapi.json").json()
    assert set(document["webhooks"]) == {
        "job.queued", "job.running", "job.paused", "job.succeeded", "job.failed", "job.cancelled",
        "checkpoint.created",
    }  # fmt: skip
    for described in document["webhooks"].values():
        body = described["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert body["$ref"].endswith("/Notice")
