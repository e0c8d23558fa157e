"""Lists of jobs, walked page by page while others come and go, on both databases."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from fastapi.testclient import TestClient
from sqlalchemy import delete

from app.db import Database, alembic_config
from app.db.tables import Job, JobEvent
from app.main import create_app
from app.settings import Settings
from tests.support.service.problems import problem, says
from tests.support.service.queued_jobs import insert_jobs


def remove(database: Database, job_id: str) -> None:
    with database.write() as session:
        session.execute(delete(JobEvent).where(JobEvent.job_id == job_id))
        session.execute(delete(Job).where(Job.id == job_id))


@pytest.fixture
def api(database: Database, tmp_path: Path) -> Iterator[TestClient]:
    """The API on a database of each kind."""
    settings = Settings(data_dir=tmp_path / "data", database_url=database.url)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        yield client


@pytest.mark.parametrize(
    ("path", "limit"),
    [("/v1/jobs", 1), ("/v1/jobs", 7), ("/v1/jobs", 199), ("/v1/jobs", 200), ("/v1/rankings", 7)],
)
def test_a_walk_meets_every_old_job_once(
    database: Database, api: TestClient, path: str, limit: int
) -> None:
    """Others are inserted meanwhile, and the job at which a cursor stands is deleted."""
    own = insert_jobs(database, 200)
    if path == "/v1/rankings":
        own = [each for each in own if each.startswith("rk")]
    met: list[str] = []
    query: dict[str, Any] = {"limit": limit}
    while True:
        page = api.get(path, params=query).json()
        met += [each["id"] for each in page["data"]]
        assert len(met) <= 200
        if not page["has_more"]:
            break
        query["cursor"] = page["next_cursor"]
        if len(met) % 10 in {0, 9}:
            insert_jobs(database, 2)
            remove(database, met[-1])
    assert sorted(met) == sorted(own)


def test_newest_first_and_the_moment_before_the_id(database: Database, api: TestClient) -> None:
    insert_jobs(database, 40)
    listed = api.get("/v1/jobs", params={"limit": 40}).json()["data"]
    order = [(each["created_at"], each["id"]) for each in listed]
    assert order == sorted(order, reverse=True)


def test_no_job_waits_for_itself(database: Database, api: TestClient) -> None:
    insert_jobs(database, 60)
    listed = api.get("/v1/jobs", params={"limit": 60}).json()["data"]
    queued = [(datetime.fromisoformat(each["queued_at"]), each["id"]) for each in listed]
    assert [each["queue"]["ahead"] for each in listed] == [
        sum(other < own for other in queued) for own in queued
    ]


def test_what_is_read_is_what_is_stored(database: Database) -> None:
    (job_id,) = insert_jobs(database, 1)
    moments = [datetime(2026, 1, 2, 3, 4, 5, 999_999, UTC), datetime(2254, 12, 31, tzinfo=UTC)]
    moments += [datetime(1999, 5, 6, tzinfo=UTC) + timedelta(microseconds=n) for n in range(9)]
    for moment in moments:
        with database.write() as session:
            session.get_one(Job, job_id).started_at = moment
        with database.read() as session:
            assert session.get_one(Job, job_id).started_at == moment
            assert session.query(Job).filter(Job.started_at == moment).count() == 1
    with database.read() as session:
        row = session.get_one(Job, job_id)
        assert session.query(Job).filter(Job.created_at == row.created_at).count() == 1
        assert abs((row.created_at - datetime.now(UTC)).total_seconds()) < 3600


def first_cursor(api: TestClient, path: str, **query: Any) -> str:
    """The cursor at the end of the first page."""
    cursor = api.get(path, params={"limit": 1, **query}).json()["next_cursor"]
    assert isinstance(cursor, str)
    return cursor


def test_a_cursor_that_was_altered_is_refused(database: Database, api: TestClient) -> None:
    insert_jobs(database, 3)
    cursor = first_cursor(api, "/v1/jobs")
    other = "A" if cursor[20] != "A" else "B"
    for altered in ("", "x", "ä", cursor[:-4], cursor[:20] + other + cursor[21:], "A" * 80):
        answer = api.get("/v1/jobs", params={"cursor": altered})
        says(problem(answer, 422, "invalid"), "/cursor", "no such cursor")


def test_a_cursor_belongs_to_its_list_and_filters(database: Database, api: TestClient) -> None:
    insert_jobs(database, 6)
    cursor = first_cursor(api, "/v1/jobs", status="queued")
    assert api.get("/v1/jobs", params={"status": "queued", "cursor": cursor}).json()["data"]
    for path, filters in (
        ("/v1/jobs", {}),
        ("/v1/jobs", {"status": "queued", "kind": "ranking"}),
        ("/v1/jobs", {"status": "running"}),
        ("/v1/rankings", {"status": "queued"}),
        ("/v1/datasets", {}),
    ):
        answer = api.get(path, params={**filters, "cursor": cursor})
        says(problem(answer, 422, "invalid"), "/cursor", "belongs to another list")


def test_every_process_takes_the_cursors_of_the_others(
    database: Database, api: TestClient, tmp_path: Path
) -> None:
    insert_jobs(database, 3)
    cursor = first_cursor(api, "/v1/jobs")
    settings = Settings(data_dir=tmp_path / "other", database_url=database.url)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as other:
        page = other.get("/v1/jobs", params={"cursor": cursor}).json()
    assert len(page["data"]) == 2


def test_moments_of_before_are_converted(tmp_path: Path) -> None:
    """A SQLite file as the migrations before made it: seconds, finer than a microsecond."""
    path = tmp_path / "old.db"
    config = alembic_config(f"sqlite:///{path}")
    command.upgrade(config, "0003")
    old = 1_764_388_800.123_456_7
    job = {
        "id": "rk_1", "kind": "ranking", "labels": "{}", "priority": 0, "model": "m",
        "dataset": "d", "digest": "x", "status": "queued", "crashes": 0, "max_attempts": 1,
        "cancel_requested": 0, "lease_epoch": 0, "spec": "{}", "created_at": old, "queued_at": old,
        "updated_at": old + 0.25, "resolved": '{"model": {"id": "m"}, "dataset": {"id": "d"}}',
    }  # fmt: skip
    event = {"seq": 1, "job_id": "rk_1", "lease_epoch": 0, "type": "status", "at": old}
    event["data"] = '{"status": "queued"}'
    with sqlite3.connect(path) as raw:
        for table, row in (("jobs", job), ("job_events", event)):
            names, marks = ", ".join(row), ", ".join("?" * len(row))
            raw.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(row.values()))
    raw.close()
    settings = Settings(data_dir=tmp_path / "data", database_url=f"sqlite:///{path}")
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as api:  # migrates it
        (listed,) = api.get("/v1/jobs").json()["data"]
        moment = datetime(2025, 11, 29, 4, 0, 0, 123_457, UTC)
        assert datetime.fromisoformat(listed["created_at"]) == moment
        assert datetime.fromisoformat(listed["updated_at"]) == moment + timedelta(seconds=0.25)
        assert datetime.fromisoformat(listed["transitions"][0]["at"]) == moment
        assert listed["started_at"] is None
        assert listed["queue"]["ahead"] == 0
    command.downgrade(config, "0003")
    with sqlite3.connect(path) as raw:
        (back,) = raw.execute("SELECT created_at FROM jobs").fetchone()
    raw.close()
    assert back == pytest.approx(old, abs=1e-6)
