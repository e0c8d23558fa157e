"""Writes that a database refuses for good, and others that it refuses for a while."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from app.db import Database
from app.db.tables import Job
from app.jobs import state_machine
from app.main import create_app
from app.settings import Settings
from tests.support.faults.told_attempts import ToldAttempt, begin
from tests.support.service.queued_jobs import look, submit
from worker.protocol import MetricValues, read_report
from worker.supervisor.attempt.attempt import Outcome

SHORT = {"heartbeat": timedelta(seconds=0.2), "grace": timedelta(seconds=0.5)}


def report(**message: Any) -> Any:
    """A report as the supervisor reads it from a child's pipe."""
    return read_report(json.dumps(message).encode())


def problem(detail: str, code: str = "training_diverged") -> Any:
    told = {"type": "about:blank", "title": "T", "code": code, "detail": detail, "retriable": False}
    return report(type="error", problem=told | {"errors": [{"detail": detail, "file": detail}]})


def listed(database: Database, folder: Path) -> list[dict[str, Any]]:
    """The jobs as the service answers them."""
    settings = Settings(data_dir=folder / "data", database_url=database.url)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        answer = client.get("/v1/jobs")
        assert answer.status_code == 200, answer.text
        jobs: list[dict[str, Any]] = answer.json()["data"]
        for job in jobs:
            assert client.get(f"/v1/jobs/{job['id']}").status_code == 200
        return jobs


@pytest.mark.parametrize("name", ["layer\0one", "layer\ud83d", "layer\udc80 \0"])
def test_a_hostile_name_is_stored_escaped(database: Database, tmp_path: Path, name: str) -> None:
    selected = report(type="selected", resolved={"layers": [name], "policy": "layers"})
    told = begin(database, tmp_path, [selected, problem(f"no {name} here")])
    assert told.run() is Outcome.FAILED
    (job,) = listed(database, tmp_path)
    escaped = name.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
    assert (job["status"], job["error"]["detail"]) == ("failed", f"no {escaped} here")
    assert job["error"]["errors"][0]["file"] == f"no {escaped} here"
    assert job["resolved"]["layers"] == [escaped]


def test_what_an_earlier_version_stored_so_is_listed(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'test.db'}")
    database.upgrade()
    job_id = submit(database)
    with database.write() as session:
        broken = text("UPDATE jobs SET error = :error, status = 'failed'")
        session.execute(broken, {"error": '{"code": "internal", "detail": "half \\ud83d"}'})
    (job,) = listed(database, tmp_path)
    assert (job["id"], job["error"]["detail"]) == (job_id, "half \\ud83d")
    database.close()


def test_a_write_that_is_refused_for_good_ends_the_job(database: Database, tmp_path: Path) -> None:
    """Both databases hold numbers of at most 63 bits; the lease would have been renewed for ever."""
    too_large = MetricValues(step=2**70, epoch=1.0, values={"loss": 1.0})
    told = begin(database, tmp_path, [too_large])
    assert told.run() is Outcome.KILLED
    job = look(database, told.lease.job_id)
    assert job.error is not None
    assert (job.status, job.error["code"], job.crashes) == ("failed", "unstorable", 0)
    assert "refuses what the job reported" in job.error["detail"]


def test_so_does_a_heartbeat_that_is_refused_for_good(postgres_url: str, tmp_path: Path) -> None:
    """A phase is a column of 40 characters, which only Postgres counts."""
    database = Database(postgres_url.replace("postgresql://", "postgresql+psycopg://"))
    database.upgrade()
    settings = Settings(data_dir=tmp_path, **SHORT)
    told = begin(database, tmp_path, [], settings=settings)
    told.attempt._heartbeat.set_progress("x" * 41, None)
    assert told.run() is Outcome.KILLED
    job = look(database, told.lease.job_id)
    assert job.error is not None
    assert (job.status, job.error["code"]) == ("failed", "unstorable")
    database.close()


def test_a_phase_without_end_is_no_message() -> None:
    with pytest.raises(ValueError, match="40 characters"):
        report(type="phase", name="x" * 41)


@pytest.fixture
def blocked(postgres_url: str) -> Iterator[Database]:
    """A Postgres in which nothing can be written about measurements, for a while."""
    url = postgres_url.replace("postgresql://", "postgresql+psycopg://")
    mark = "&" if "?" in url else "?"
    database = Database(f"{url}{mark}options=-c%20lock_timeout%3D200")
    database.upgrade()
    with psycopg.connect(postgres_url) as holder:
        holder.execute("LOCK TABLE metrics IN EXCLUSIVE MODE")
        yield database
    database.close()


def waiting_attempt(database: Database, folder: Path, **values: Any) -> ToldAttempt:
    """An attempt whose first report waits for the database."""
    settings = Settings(data_dir=folder, **SHORT)
    measured = MetricValues(step=1, epoch=1.0, values={"loss": 1.0})
    return begin(database, folder, [measured], settings=settings, **values)


def ended(database: Database, told: ToldAttempt) -> Job:
    assert told.run() is Outcome.KILLED
    return look(database, told.lease.job_id)


def test_a_cancel_is_heard_while_a_write_waits(blocked: Database, tmp_path: Path) -> None:
    told = waiting_attempt(blocked, tmp_path)
    state_machine.cancel(blocked, told.lease.job_id)
    assert ended(blocked, told).status == "cancelled"


def test_a_deadline_is_heard_while_a_write_waits(blocked: Database, tmp_path: Path) -> None:
    told = waiting_attempt(blocked, tmp_path, deadline_seconds=1)
    job = ended(blocked, told)
    assert job.error is not None
    assert (job.status, job.error["code"]) == ("failed", "deadline_exceeded")


def test_a_stop_of_the_worker_is_heard_while_a_write_waits(
    blocked: Database, tmp_path: Path
) -> None:
    told = waiting_attempt(blocked, tmp_path)
    told.draining.set()
    job = ended(blocked, told)
    assert (job.status, job.crashes) == ("queued", 0)


def test_the_longest_time_of_an_attempt_is_heard_while_a_write_waits(
    blocked: Database, tmp_path: Path
) -> None:
    settings = Settings(data_dir=tmp_path, deadline=timedelta(seconds=1), **SHORT)
    measured = MetricValues(step=1, epoch=1.0, values={"loss": 1.0})
    told = begin(blocked, tmp_path, [measured], settings=settings)
    job = ended(blocked, told)
    assert job.error is not None
    assert (job.status, job.error["code"]) == ("failed", "deadline_exceeded")
