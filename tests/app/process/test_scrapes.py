"""The numbers of /metrics, on both databases."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from app.api import statistics
from app.api.statistics import Statistics
from app.db import Database, db_now
from app.db.tables import DEFAULT_PROJECT, Attempt, Job, JobKind, Worker, new_id
from app.jobs import state_machine
from app.jobs.state_machine import enqueue
from app.main import create_app
from app.settings import Settings
from surgery.schemas.resolved import Learned
from tests.support.service.problems import problem
from tests.support.service.queued_jobs import take
from tests.support.service.tenants import insert_key, make_project

Numbers = dict[tuple[str, ...], float]


def numbers(api: TestClient, **headers: str) -> Numbers:
    """Every sample of a scrape: its name and the values of its labels."""
    answer = api.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


@pytest.fixture
def settings(database: Database, tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", database_url=database.url)


@pytest.fixture
def api(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """An API whose numbers are always read anew, and whose sums wait for nobody."""
    monkeypatch.setattr(statistics, "FRESH_SECONDS", -1.0)
    monkeypatch.setattr(statistics, "LATE", timedelta(0))
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        yield client


def submit(database: Database, kind: JobKind = JobKind.RANKING) -> str:
    job = Job(
        id=new_id("rk"), kind=kind, spec={}, resolved={}, labels={}, model="m", dataset="d",
        digest="x", max_attempts=1,
    )  # fmt: skip
    with database.write() as session:
        enqueue(session, job)
    return job.id


def test_requests_are_counted_by_route(api: TestClient) -> None:
    for path in ("/v1/jobs/rk_1", "/v1/jobs/rk_2", "/v1/jobs", "/nowhere"):
        api.get(path)
    api.head("/v1/jobs")
    api.head("/v1/jobs/rk_1")
    found = numbers(api)
    assert found["surgeon_http_requests_total", "HEAD", "/v1/jobs", "200"] == 1
    assert found["surgeon_http_requests_total", "HEAD", "/v1/jobs/{job_id}", "404"] == 1
    assert found["surgeon_http_requests_total", "GET", "/v1/jobs/{job_id}", "404"] == 2
    assert found["surgeon_http_requests_total", "GET", "/v1/jobs", "200"] == 1
    assert found["surgeon_http_requests_total", "GET", "none", "404"] == 1
    assert found["surgeon_http_request_seconds_count", "GET", "/v1/jobs/{job_id}"] == 2
    assert found["process_cpu_seconds_total",] > 0


def test_jobs_are_counted_where_they_stand_and_as_they_end(
    database: Database, api: TestClient
) -> None:
    assert numbers(api)["surgeon_jobs", "ranking", "queued"] == 0
    for kind in (JobKind.RANKING, JobKind.RANKING, JobKind.RANKING, JobKind.FINETUNE):
        submit(database, kind)
    lease = take(database)
    found = numbers(api)
    assert found["surgeon_jobs", "ranking", "queued"] == 2
    assert found["surgeon_jobs", "ranking", "running"] == 1
    assert found["surgeon_jobs", "finetune", "queued"] == 1
    assert found["surgeon_queue_oldest_seconds", "ranking"] > 0
    assert found["surgeon_queue_wait_seconds_count",] == 1
    state_machine.finish(database, lease, {}, Learned())
    state_machine.fail(database, take(database), {"code": "internal", "detail": "…"})
    for _ in range(2):  # nothing is counted twice
        found = numbers(api)
    assert found["surgeon_jobs", "ranking", "running"] == 0
    assert found["surgeon_jobs_ended_total", "ranking", "succeeded"] == 1
    assert found["surgeon_jobs_ended_total", "ranking", "failed"] == 1
    assert found["surgeon_attempts_ended_total", "succeeded"] == 1
    assert found["surgeon_queue_wait_seconds_count",] == 2


def test_lost_leases_crashes_and_the_time_of_devices(database: Database, api: TestClient) -> None:
    submit(database)
    take(database, timedelta(seconds=-1))
    with database.write() as session:
        usage = {"worker_seconds": {"cpu": 2.5}, "peak_memory_bytes": {}}
        session.execute(update(Attempt).values(usage=usage))
    state_machine.reap(database, timedelta(0))
    submit(database)
    state_machine.crash(database, take(database), {"code": "worker_lost"}, timedelta(0))
    found = numbers(api)
    assert found["surgeon_attempts_ended_total", "lost"] == 1
    assert found["surgeon_attempts_ended_total", "crashed"] == 1
    assert found["surgeon_device_seconds_total", "cpu"] == 2.5


def test_workers_that_are_alive(database: Database, api: TestClient) -> None:
    for name, job, seconds in (("a", "rk_1", 0), ("b", None, 0), ("c", None, -3600)):
        worker = Worker(
            id=name, kinds=[], devices=[], precisions=[], max_processes=1, version="1", job=job
        )
        worker.started_at, worker.heartbeat_at = db_now(), db_now(seconds)
        with database.write() as session:
            session.add(worker)
    found = numbers(api)
    assert (found["surgeon_workers", "busy"], found["surgeon_workers", "idle"]) == (1, 1)


def test_what_ended_long_ago_is_not_read(database: Database) -> None:
    """A look adds what has happened since the one before, however much there is from before."""
    submit(database)
    state_machine.fail(database, take(database), {"code": "internal", "detail": "…"})
    with database.write() as session:
        session.execute(update(Job).values(finished_at=db_now(-3600)))
        session.execute(update(Attempt).values(started_at=db_now(-3600), ended_at=db_now(-3600)))
    _, sums = Statistics(database, timedelta(seconds=60)).read()
    assert (sums.jobs, sums.attempts, sums.waits) == ({}, {}, {})


def test_numbers_are_kept_for_some_seconds(database: Database) -> None:
    kept = Statistics(database, timedelta(seconds=60))
    first, _ = kept.read()
    submit(database)
    assert kept.read()[0] is first


def test_without_a_database_the_process_still_answers(
    api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise OperationalError("SELECT 1", {}, Exception("gone"))

    monkeypatch.setattr(Statistics, "_look", gone)
    found = numbers(api)
    assert found["surgeon_database_up",] == 0
    assert ("surgeon_jobs", "ranking", "queued") not in found


def test_the_numbers_of_all_projects_are_not_one_projects(
    database: Database, settings: Settings
) -> None:
    other = insert_key(database, make_project(database, "other"), "admin")
    reader = insert_key(database, DEFAULT_PROJECT, "submit")
    operator = insert_key(database, DEFAULT_PROJECT, "admin")
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as api:
        for key in (other, reader):
            refused = api.get("/metrics", headers={"authorization": f"Bearer {key}"})
            assert "default project" in problem(refused, 403, "forbidden")["detail"]
        assert numbers(api, authorization=f"Bearer {operator}")["surgeon_database_up",] == 1


def test_where_keys_are_it_takes_one_unless_it_is_opened(settings: Settings) -> None:
    hashed = hashlib.sha256(b"sk_operator").hexdigest()
    for open_ in (False, True):
        own = settings.model_copy(update={"api_key_hashes": [hashed], "metrics_open": open_})
        with TestClient(create_app(own), base_url="http://127.0.0.1") as api:
            assert api.get("/metrics").status_code == (200 if open_ else 401)
            assert numbers(api, authorization="Bearer sk_operator")["surgeon_database_up",] == 1
