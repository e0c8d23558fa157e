"""Attempts and logs over HTTP, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from app.db import Database
from app.db.tables import Job, JobKind, new_id
from app.jobs import state_machine
from app.jobs.state_machine import Lease, enqueue
from app.main import create_app
from app.settings import Settings
from surgery.schemas.answers.usage import Usage
from surgery.schemas.resolved import Learned, PeakMemory
from tests.support.service.problems import problem
from tests.support.service.queued_jobs import RESOLVED, take
from worker.supervisor.job_log import NO_SECRETS, JobLog

Json = dict[str, Any]
ERROR = {"code": "worker_lost", "detail": "gone"}
TEXT = {"Accept": "text/plain"}


@pytest.fixture
def api(database: Database, tmp_path: Path) -> Iterator[TestClient]:
    settings = Settings(data_dir=tmp_path / "data", database_url=database.url)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        yield client


def queued(database: Database, kind: JobKind = JobKind.RANKING) -> str:
    job = Job(
        id=new_id("rk"), kind=kind, spec={}, resolved=RESOLVED, labels={}, model="m", dataset="d",
        digest="x", max_attempts=3,
    )  # fmt: skip
    with database.write() as session:
        enqueue(session, job)
    return job.id


def log_of(api: TestClient, database: Database, lease: Lease) -> JobLog:
    storage = api.app.state.service.storage  # type: ignore[attr-defined]
    return JobLog(database, storage, lease, NO_SECRETS)


def test_attempts_are_listed_with_what_they_used(api: TestClient, database: Database) -> None:
    job = queued(database)
    assert api.get(f"/v1/jobs/{job}/attempts").json()["data"] == []
    spent = Usage(worker_seconds={"cpu": 1.5}, peak_memory_bytes=PeakMemory(host=10, device=None))
    state_machine.crash(database, take(database), ERROR, timedelta(0), spent)
    state_machine.renew(database, take(database), timedelta(60), "score", None, spent)
    first, second = api.get(f"/v1/jobs/{job}/attempts").json()["data"]
    assert (first["number"], first["outcome"], first["error"]) == (1, "crashed", ERROR)
    assert (second["number"], second["outcome"], second["ended_at"]) == (2, None, None)
    assert first["usage"] == second["usage"] == {
        "worker_seconds": {"cpu": 1.5}, "peak_memory_bytes": {"host": 10, "device": None},
    }  # fmt: skip
    read = api.get(f"/v1/jobs/{job}").json()
    assert read["usage"]["worker_seconds"] == {"cpu": 3.0}
    assert read["links"]["attempts"] == f"/v1/jobs/{job}/attempts"
    page = api.get(f"/v1/jobs/{job}/attempts?limit=1").json()
    assert page["has_more"]
    rest = api.get(f"/v1/jobs/{job}/attempts?limit=1&cursor={page['next_cursor']}").json()
    assert [page["data"][0], *rest["data"]] == [first, second]


def test_a_log_is_followed_to_its_end(api: TestClient, database: Database) -> None:
    job = queued(database)
    path = f"/v1/jobs/{job}/logs"
    assert api.get(path).json() == {
        "attempt": None, "data": [], "next": 0, "cut_bytes": 0, "complete": False,
    }  # fmt: skip
    lease = take(database)
    with log_of(api, database, lease) as log:
        log.write("supervisor", "attempt 1 begins")
        log._store(closed=False)
        page = api.get(path).json()
        assert (page["attempt"], page["complete"]) == (1, False)
        log.write("job", "\x1b[31mloading")
        log._store(closed=False)
        news = api.get(path, params={"after": page["next"], "attempt": 1}).json()
        assert [(line["source"], line["text"]) for line in news["data"]] == [
            ("job", "\\x1b[31mloading")
        ]
        state_machine.finish(database, lease, {}, Learned())
        log.write("supervisor", "the job succeeded")
    rest = api.get(path, params={"after": news["next"], "attempt": 1}).json()
    assert [line["text"] for line in rest["data"]] == ["the job succeeded"]
    assert rest["complete"]
    text = api.get(path, headers=TEXT)
    assert text.headers["content-type"] == "text/plain; charset=utf-8"
    assert [line.split(" ", 2)[1:] for line in text.text.splitlines()] == [
        [line["source"], line["text"]] for line in page["data"] + news["data"] + rest["data"]
    ]
    assert text.headers["link"] == (
        f'</v1/jobs/{job}/logs?attempt=1&after={rest["next"]}>; rel="next"'
    )


def test_each_attempt_has_a_log_of_its_own(api: TestClient, database: Database) -> None:
    """A worker that was given up for dead writes on into its own log, and into no other."""
    job = queued(database)
    stale = take(database, timedelta(seconds=-1))
    with log_of(api, database, stale) as old:
        old.write("job", "of the first")
        state_machine.reap(database, timedelta(0))
        with log_of(api, database, take(database)) as new:
            new.write("job", "of the second")
        old.write("supervisor", "the lease is lost")
    logs = {n: api.get(f"/v1/jobs/{job}/logs?attempt={n}").json() for n in (1, 2)}
    assert [line["text"] for line in logs[1]["data"]] == ["of the first", "the lease is lost"]
    assert [line["text"] for line in logs[2]["data"]] == ["of the second"]
    assert api.get(f"/v1/jobs/{job}/logs").json() == logs[2]


def test_what_is_not_there_is_said_so(api: TestClient, database: Database) -> None:
    job = queued(database)
    take(database)
    told = problem(api.get(f"/v1/jobs/{job}/logs?attempt=2"), 404, "not_found")["detail"]
    assert "no attempt 2; 1 were made" in told
    told = problem(api.get(f"/v1/jobs/{job}/logs?after=7"), 422, "invalid")
    assert told["errors"][0]["pointer"] == "/after"
    problem(api.get(f"/v1/jobs/{job}/logs?attempt=0"), 422, "invalid")
    comparison = queued(database, JobKind.COMPARISON)
    told = problem(api.get(f"/v1/jobs/{comparison}/logs"), 404, "not_found")["detail"]
    assert f"/v1/jobs?parent={comparison}" in told


def test_another_projects_attempts_do_not_exist(api: TestClient, database: Database) -> None:
    job = queued(database)
    with database.write() as session:
        session.execute(update(Job).values(project="pr_other"))
    for what in ("attempts", "logs"):
        problem(api.get(f"/v1/jobs/{job}/{what}"), 404, "not_found")


@pytest.mark.parametrize(
    ("accept", "text"),
    [
        ("*/*", False), ("application/json", False), ("text/plain", True),
        ("text/*;q=0.5, application/json;q=0.4", True), ("text/plain;q=0.1, */*", False),
        ("text/plain;q=odd", False), ("", False),
    ],
)  # fmt: skip
def test_a_log_is_text_for_those_who_prefer_it(
    api: TestClient, database: Database, accept: str, text: bool
) -> None:
    answer = api.get(f"/v1/jobs/{queued(database)}/logs", headers={"Accept": accept})
    kind = "text/plain; charset=utf-8" if text else "application/json"
    assert answer.headers["content-type"] == kind
    assert "Accept" in answer.headers["vary"].split(", ")
