"""Rate limits, quotas, usage and the audit log, over HTTP and on both databases."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from app.access.rates import RateLimiter
from app.db import Database, db_now
from app.db.tables import WORKER_KINDS, Attempt, Job, JobKind, Project, Status, new_id
from app.errors import QuotaExceeded
from app.jobs import state_machine
from app.jobs.deletion import delete_job
from app.jobs.state_machine import enqueue
from app.main import create_app
from app.settings import Settings
from app.submissions.admission import admit, admit_bytes
from tests.support.service.problems import problem
from tests.support.service.queued_jobs import RESOLVED
from tests.support.service.services import free_port
from tests.support.service.tenants import (
    Tenants,
    insert_dataset,
    insert_job,
    make_project,
    tenants_on,
)

LEASE = timedelta(seconds=60)


@pytest.fixture
def tenants(database: Database, tmp_path: Path) -> Iterator[Tenants]:
    with tenants_on(database, tmp_path) as opened:
        yield opened


def limit(tenants: Tenants, project: str, **limits: Any) -> None:
    """Give a project limits of its own, as its operator does."""
    path = f"/v1/projects/{project}"
    answer = tenants.send("operator", "PATCH", path, json={"limits": limits})
    assert answer.status_code == 200, answer.text


def queued(project: str) -> Job:
    """A job that is not inserted yet."""
    return Job(
        id=new_id("rk"), project=project, kind=JobKind.RANKING, spec={}, labels={}, model="m",
        dataset="d", digest="x", max_attempts=1, resolved=RESOLVED,
    )  # fmt: skip


def test_a_key_is_limited_by_itself(tenants: Tenants) -> None:
    limit(tenants, tenants.owner, requests_per_minute=3)
    answers = [tenants.get("reader", "/v1/tasks") for _ in range(4)]
    assert [each.status_code for each in answers] == [200, 200, 200, 429]
    assert [each.headers["ratelimit-policy"] for each in answers] == ['"requests";q=3;w=60'] * 4
    assert answers[0].headers["ratelimit"] == '"requests";r=2;t=20'
    body = problem(answers[3], 429, "rate_limited")
    assert body["retriable"] is True
    assert 1 <= int(answers[3].headers["retry-after"]) <= 20
    assert tenants.get("submitter", "/v1/tasks").status_code == 200
    unlimited = tenants.get("other", "/v1/tasks")
    assert unlimited.status_code == 200
    assert "ratelimit" not in unlimited.headers
    assert tenants.api.get("/healthz").status_code == 200


def test_processes_count_together_in_redis(
    database: Database, tmp_path: Path, redis_url: str
) -> None:
    settings = {"redis_url": redis_url, "limit_requests_per_minute": 5}
    with tenants_on(database, tmp_path, **settings) as first:
        given = first.api.app.state.service.settings  # type: ignore[attr-defined]
        with TestClient(create_app(given), base_url="http://127.0.0.1") as second:
            headers = {"Authorization": f"Bearer {first.keys['owner']}"}
            statuses = [
                api.get("/v1/tasks", headers=headers).status_code
                for _ in range(3)
                for api in (first.api, second)
            ]
    assert statuses == [200] * 5 + [429]


@pytest.mark.parametrize("kind", ["down", "hangs"])
def test_without_redis_each_process_counts_by_itself(
    database: Database, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One request waits for it, and says so in the log; the next ones do not ask it."""
    caplog.set_level(logging.WARNING)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(16)  # connections open, and nothing is ever answered
        port = silent.getsockname()[1] if kind == "hangs" else free_port()
        settings = {"redis_url": f"redis://127.0.0.1:{port}/0", "limit_requests_per_minute": 3}
        with tenants_on(database, tmp_path, **settings) as tenants:
            statuses = [tenants.get("owner", "/v1/tasks").status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    said = [each for each in caplog.messages if "Redis does not answer" in each]
    assert len(said) == 1


def test_a_bucket_refills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("app.access.rates.time", SimpleNamespace(monotonic=lambda: clock[0]))
    rates = RateLimiter(Settings(data_dir=tmp_path))

    async def sent(count: int) -> list[bool]:
        return [(await rates.take("k", 60)).allowed for _ in range(count)]

    assert asyncio.run(sent(61)) == [True] * 60 + [False]
    clock[0] += 2.5
    assert asyncio.run(sent(3)) == [True, True, False]
    clock[0] += 3600
    assert asyncio.run(sent(61)) == [True] * 60 + [False]


def test_a_full_queue_refuses_more(tenants: Tenants) -> None:
    service = tenants.service_of(tenants.owner)
    limit(tenants, tenants.owner, queued_jobs=2)
    insert_job(tenants.database, tenants.owner, JobKind.RANKING)
    insert_job(tenants.database, tenants.other, JobKind.RANKING)
    with tenants.database.write() as session:
        admit(session, service, [queued(tenants.owner)])
    with tenants.database.write() as session, pytest.raises(QuotaExceeded) as caught:
        admit(session, service, [queued(tenants.owner), queued(tenants.owner)])
    assert "queued_jobs is 2, with 1 used and 2 more needed" in str(caught.value)
    assert caught.value.errors[0]["quota"] == "queued_jobs"
    assert int(caught.value.headers["Retry-After"]) > 0


def test_submissions_at_once_cannot_overfill_the_queue(tenants: Tenants) -> None:
    limit(tenants, tenants.owner, queued_jobs=3)
    service = tenants.service_of(tenants.owner)

    def submit(_: int) -> bool:
        try:
            with tenants.database.write() as session:
                job = queued(tenants.owner)
                admit(session, service, [job])
                enqueue(session, job)
        except QuotaExceeded:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(submit, range(16))) == 3


def test_storage_and_device_hours(tenants: Tenants) -> None:
    database, owner = tenants.database, tenants.owner
    service = tenants.service_of(owner)
    limit(tenants, owner, stored_bytes=1000, device_hours_per_month=1)
    insert_dataset(database, owner, size=600)
    with database.write() as session:
        admit_bytes(session, service, 400)
        admit(session, service, [queued(owner)])
    with database.write() as session, pytest.raises(QuotaExceeded, match="stored_bytes is 1,000"):
        admit_bytes(session, service, 401)
    job = insert_job(database, owner, JobKind.RANKING)
    insert_attempt(database, job, {"GPU": 3000.0, "cpu": 600.0})
    with database.write() as session, pytest.raises(QuotaExceeded) as caught:
        admit(session, service, [queued(owner)])
    assert "device_hours_per_month is 1, with 1 used; it frees with the next month" in str(
        caught.value
    )
    shown = tenants.get("owner", "/v1/limits").json()
    assert shown["device_hours_per_month"]["remaining"] == 0
    assert (shown["stored_bytes"]["used"], shown["stored_bytes"]["remaining"]) == (600, 400)
    assert (shown["queued_jobs"]["used"], shown["queued_jobs"]["limit"]) == (1, None)


def test_a_deleted_job_stays_in_what_was_used(tenants: Tenants) -> None:
    """Its seconds and its number, beside those of jobs that are there, running ones too."""
    database, owner = tenants.database, tenants.owner
    for number in range(4):
        job = insert_job(database, owner, JobKind.RANKING)
        insert_attempt(database, job, {"GPU": 100.0 + number, "cpu": 10.0})
        with database.write() as session:
            row = session.get_one(Job, job)
            row.status = Status.SUCCEEDED if number < 3 else Status.RUNNING
    running = job
    before = tenants.get("owner", "/v1/usage").json()
    hours = tenants.get("owner", "/v1/limits").json()["device_hours_per_month"]["used"]
    assert before["total"]["worker_seconds"] == {"GPU": 406.0, "cpu": 40.0}
    assert before["total"]["jobs"] == 4
    jobs = tenants.get("owner", "/v1/jobs").json()["data"]
    for each in jobs:
        if each["id"] != running:
            delete_job(database, each["id"], lambda _: None)
    for by in ("day", "month"):
        after = tenants.get("owner", f"/v1/usage?by={by}").json()
        assert after["total"] == before["total"]
        assert [row["kind"] for row in after["data"]] == ["ranking"]
    assert tenants.get("owner", "/v1/limits").json()["device_hours_per_month"]["used"] == hours
    assert tenants.get("other", "/v1/usage").json()["total"]["jobs"] == 0
    assert tenants.get("owner", "/v1/usage?from=2020-01-01&to=2020-02-01").json()["data"] == []


def insert_attempt(database: Database, job: str, seconds: dict[str, float]) -> None:
    """An attempt of a job that has used so many seconds of each device."""
    row = Attempt(job_id=job, epoch=1, worker="w", usage={"worker_seconds": seconds})
    row.started_at = db_now()
    with database.write() as session:
        session.add(row)


def test_jobs_of_a_project_at_its_limit_wait(database: Database) -> None:
    busy, idle = make_project(database, "busy", running_jobs=1), make_project(database, "idle")
    waiting = [insert_job(database, busy, JobKind.RANKING) for _ in range(2)]
    other = [insert_job(database, idle, JobKind.FINETUNE) for _ in range(3)]

    def claimed() -> str | None:
        found = state_machine.claim(database, "w", WORKER_KINDS, LEASE, running_jobs=2)
        return found and found[1].id

    assert [claimed() for _ in range(4)] == [waiting[0], other[0], other[1], None]
    with database.write() as session:
        session.execute(update(Project).where(Project.id == busy).values(limits={}))
    assert claimed() == waiting[1]


def test_usage_by_day_and_kind(tenants: Tenants) -> None:
    database, owner = tenants.database, tenants.owner
    ranking = insert_job(database, owner, JobKind.RANKING)
    tuned = insert_job(database, owner, JobKind.FINETUNE)
    insert_job(database, tenants.other, JobKind.FINETUNE)
    insert_attempt(database, ranking, {"cpu": 1.5})
    insert_attempt(database, tuned, {"A10": 2.25, "cpu": 0.5})
    with database.write() as session:
        session.execute(update(Job).where(Job.id == tuned).values(stored_bytes=70))
        moment = session.get_one(Job, tuned).created_at
    insert_dataset(database, owner, size=30)
    for by, length in (("day", 10), ("month", 7)):
        answer = tenants.get("owner", f"/v1/usage?by={by}").json()
        period = moment.isoformat()[:length]
        assert answer["data"] == [
            row(period, "dataset", 0, {}, 30),
            row(period, "finetune", 1, {"A10": 2.25, "cpu": 0.5}, 70),
            row(period, "ranking", 1, {"cpu": 1.5}, 0),
        ]
        assert answer["total"] == {
            "jobs": 2, "worker_seconds": {"A10": 2.25, "cpu": 2.0}, "stored_bytes": 100,
        }  # fmt: skip
    before = tenants.get("owner", "/v1/usage?from=2020-01-01&to=2020-02-01").json()
    assert before["data"] == []
    for query in ("from=2020-02-01&to=2020-01-01", "from=2000-01-01&to=2020-01-01", "by=year"):
        problem(tenants.get("owner", f"/v1/usage?{query}"), 422, "invalid")


def row(period: str, kind: str, jobs: int, seconds: dict[str, float], size: int) -> Any:
    return {
        "period": period, "kind": kind, "jobs": jobs, "worker_seconds": seconds,
        "stored_bytes": size,
    }  # fmt: skip


def test_changes_are_recorded_and_nothing_else(tenants: Tenants) -> None:
    job = insert_job(tenants.database, tenants.owner, JobKind.RANKING)
    tenants.get("submitter", "/v1/jobs")
    tenants.send("reader", "POST", f"/v1/jobs/{job}/cancel")
    tenants.send("other", "POST", f"/v1/jobs/{job}/cancel")
    assert tenants.get("owner", "/v1/audit").json()["data"] == []
    tenants.send("submitter", "POST", f"/v1/jobs/{job}/cancel", headers={"X-Request-ID": "r-1"})
    made = tenants.send("owner", "POST", "/v1/keys", json={"name": "ci"}).json()
    tenants.send("owner", "DELETE", f"/v1/keys/{made['id']}")
    listed = tenants.get("owner", "/v1/audit").json()["data"]
    submitter = f"key_{tenants.keys['submitter'].split('_')[1]}"
    assert [(each["action"], each["target"]) for each in listed] == [
        ("revoke_key", made["id"]),
        ("create_key", made["id"]),
        ("cancel_job", job),
    ]
    assert (listed[2]["actor"], listed[2]["request_id"]) == (submitter, "r-1")
    some = tenants.get("owner", f"/v1/audit?action=cancel_job&actor={submitter}").json()["data"]
    assert some == [listed[2]]
    assert tenants.get("other", "/v1/audit").json()["data"] == []
    assert tenants.get("other", f"/v1/audit?project={tenants.owner}").status_code == 404
    seen = tenants.get("operator", f"/v1/audit?project={tenants.owner}").json()["data"]
    assert seen == listed
    assert tenants.get("submitter", "/v1/audit").status_code == 403
