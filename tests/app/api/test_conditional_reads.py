"""ETags, answers without a body for who has them already, and HEAD, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event

from app.api.examples.answers import DATASET
from app.db import EPOCH, Database
from app.db.tables import Dataset
from app.jobs import state_machine
from app.main import create_app
from app.settings import Settings
from tests.support.service.problems import problem
from tests.support.service.queued_comparisons import finish, submit
from tests.support.service.queued_jobs import insert_jobs, take

SECONDS = timedelta(seconds=60)
REPORT = {name: value for name, value in DATASET.items() if name not in {"id", "created_at"}}


@pytest.fixture
def api(database: Database, tmp_path: Path) -> Iterator[TestClient]:
    """The API on a database of each kind."""
    settings = Settings(data_dir=tmp_path / "data", database_url=database.url)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        yield client


def tag_of(api: TestClient, path: str) -> str:
    tag: str = api.get(path).headers["etag"]
    assert tag.startswith('"')
    assert tag.endswith('"')
    return tag


def unless(api: TestClient, path: str, tag: str) -> Any:
    return api.get(path, headers={"If-None-Match": tag})


def changed(api: TestClient, path: str, tag: str) -> str:
    """The ETag of a job of which the caller knows an older state."""
    answer = unless(api, path, tag)
    assert answer.status_code == 200
    new: str = answer.headers["etag"]
    assert new != tag
    assert unless(api, path, new).status_code == 304
    return new


def read_statements(database: Database, api: TestClient) -> list[str]:
    """The statements of reads from now on, as they are sent."""
    sent: list[str] = []
    engine = api.app.state.service.database._reader  # type: ignore[attr-defined]
    event.listen(engine, "before_cursor_execute", lambda *given: sent.append(given[2]))
    return sent


def test_a_job_is_answered_again_only_when_it_has_changed(
    database: Database, api: TestClient
) -> None:
    (job_id,) = insert_jobs(database, 1)
    path = f"/v1/jobs/{job_id}"
    tag = tag_of(api, path)
    answer = unless(api, path, tag)
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
    assert "content-type" not in answer.headers
    lease = take(database)
    tag = changed(api, path, tag)
    state_machine.renew(database, lease, SECONDS, "score", {"percent": 1.0})
    tag = changed(api, path, tag)
    state_machine.cancel(database, job_id)
    tag = changed(api, path, tag)
    state_machine.end_cancelled(database, lease)
    changed(api, path, tag)


def test_a_queued_job_changes_with_its_place_in_the_queue(
    database: Database, api: TestClient
) -> None:
    first, second = insert_jobs(database, 2)
    path = f"/v1/jobs/{second}"
    tag = tag_of(api, path)
    state_machine.cancel(database, first)
    answer = unless(api, path, tag)
    assert (answer.status_code, answer.json()["queue"]) == (200, {"ahead": 0})


def test_a_comparison_changes_with_its_children(database: Database, api: TestClient) -> None:
    parent, _ = submit(database, seeds=2)
    path = f"/v1/comparisons/{parent}"
    tag = tag_of(api, path)
    finish(database, take(database))
    answer = unless(api, path, tag)
    assert (answer.status_code, answer.json()["progress"]["step"]) == (200, 1)
    assert unless(api, path, answer.headers["etag"]).status_code == 304


@pytest.mark.parametrize(
    "header", ["{0}", "W/{0}", '"other", {0}', '"a,b" ,W/{0}', "*", ' {0},"other"']
)
def test_lists_of_etags_weak_ones_and_a_star(
    database: Database, api: TestClient, header: str
) -> None:
    (job_id,) = insert_jobs(database, 1)
    for path in (f"/v1/jobs/{job_id}", "/v1/jobs", "/v1/tasks"):
        assert unless(api, path, header.format(tag_of(api, path))).status_code == 304


@pytest.mark.parametrize("header", ['"other"', "other", "", '"', "**"])
def test_another_etag_is_answered_in_full(database: Database, api: TestClient, header: str) -> None:
    (job_id,) = insert_jobs(database, 1)
    for path in (f"/v1/jobs/{job_id}", "/v1/jobs"):
        assert unless(api, path, header).json()


@pytest.fixture
def remembered_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known of keys is read again once a second, whatever is asked: not in a test."""
    monkeypatch.setattr("app.access.keys.CACHE_SECONDS", 3600.0)


@pytest.mark.usefixtures("remembered_keys")
def test_a_poll_without_news_reads_one_narrow_row(database: Database, api: TestClient) -> None:
    (job_id,) = insert_jobs(database, 1)
    path = f"/v1/jobs/{job_id}"
    tag = tag_of(api, path)
    sent = read_statements(database, api)
    assert unless(api, path, tag).status_code == 304
    (statement,) = sent
    for column in ("spec", "resolved", "result", "transitions", "labels"):
        assert f"jobs.{column}" not in statement


@pytest.mark.usefixtures("remembered_keys")
def test_one_statement_a_read_without_a_transaction(database: Database, api: TestClient) -> None:
    (job_id, *_) = insert_jobs(database, 30)
    sent = read_statements(database, api)
    assert api.get(f"/v1/jobs/{job_id}").json()["queue"] == {"ahead": 0}
    assert len(api.get("/v1/jobs?limit=20").json()["data"]) == 20
    assert len(sent) == 2


def test_every_read_of_json_has_an_etag(database: Database, api: TestClient) -> None:
    (job_id,) = insert_jobs(database, 1)
    with database.write() as session:
        session.add(Dataset(id="ds_1", fingerprint="f", report=REPORT, path="p", created_at=EPOCH))
    gets = [
        path.replace("{job_id}", job_id)
        .replace("{dataset_id}", "ds_1")
        .replace("{name}", "glue/cola")
        for path, operations in api.get("/openapi.json").json()["paths"].items()
        if "get" in operations
    ]
    first = {path: api.get(path) for path in gets}
    answered = [
        path
        for path, answer in first.items()
        if (answer.status_code, answer.headers.get("content-type")) == (200, "application/json")
    ]
    assert len(answered) >= 10
    for path in answered:
        answer = api.get(path)
        assert answer.headers["etag"], path
        assert "no-cache" in answer.headers["cache-control"], path
        assert "Authorization" in answer.headers["vary"], path
        again = unless(api, path, answer.headers["etag"])
        assert (again.status_code, again.content) == (304, b""), path
        for name in ("etag", "cache-control", "vary"):
            assert again.headers[name] == answer.headers[name], path


def test_the_form_of_events_depends_on_accept(database: Database, api: TestClient) -> None:
    (job_id,) = insert_jobs(database, 1)
    vary = api.get(f"/v1/jobs/{job_id}/events").headers["vary"]
    assert set(vary.split(", ")) == {"Accept", "Authorization"}


def test_head_answers_as_get_does_without_the_body(database: Database, api: TestClient) -> None:
    (job_id,) = insert_jobs(database, 1)
    for path in (f"/v1/jobs/{job_id}", "/v1/jobs", "/v1/tasks", "/healthz", "/openapi.json"):
        whole, head = api.get(path), api.head(path)
        assert (head.status_code, head.content) == (200, b"")
        differing = {"x-request-id", "date"}
        assert {k: v for k, v in head.headers.items() if k not in differing} == {
            k: v for k, v in whole.headers.items() if k not in differing
        }
        assert int(head.headers["content-length"]) == len(whole.content)
        assert api.head(path, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    missing = api.head("/v1/jobs/rk_none")
    assert (missing.status_code, missing.content) == (404, b"")


def test_allow_names_every_method_of_a_path(api: TestClient) -> None:
    methods: dict[str, set[str]] = {}
    for path, operations in api.get("/openapi.json").json()["paths"].items():
        shared = methods.setdefault(path, set())
        shared |= {name.upper() for name in operations if name != "parameters"}
        shared |= {"HEAD"} if "get" in operations else set()
    for path, expected in methods.items():
        other = next(m for m in ("PUT", "PATCH", "DELETE") if m not in expected)
        refused = api.request(other, path)
        problem(refused, 405, "method_not_allowed")
        asked = api.options(path)
        assert (asked.status_code, asked.content) == (204, b"")
        for answer in (refused, asked):
            assert set(answer.headers["allow"].split(", ")) >= expected | {"OPTIONS"}, path
    assert api.options("/v1/nothing").status_code == 404
