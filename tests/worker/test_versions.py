"""A worker of another version than its database takes no job, says so and ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, text

from app.db import Database, open_database
from app.db.tables import Status, Worker
from app.errors import NewerDatabase, NotMigrated
from app.settings import Settings
from tests.support.service.queued_jobs import look, submit, take
from tests.support.service.services import wait_until

NEWER = "9999"


def migrated_to(database: Database, revision: str) -> None:
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :name"), {"name": revision})


@pytest.mark.parametrize(("revision", "error"), [(NEWER, NewerDatabase), ("0001", NotMigrated)])
def test_no_job_of_another_version_is_claimed(
    revision: str, error: type[Exception], database: Database
) -> None:
    job = submit(database)
    migrated_to(database, revision)
    with pytest.raises(error) as raised:
        take(database)
    assert type(raised.value) is error
    assert look(database, job).status == Status.QUEUED
    migrated_to(database, str(database.head))
    assert take(database).job_id == job


def test_a_newer_database_is_not_opened(database: Database, tmp_path: Path) -> None:
    migrated_to(database, NEWER)
    with pytest.raises(NewerDatabase, match="install that version"):
        open_database(Settings(data_dir=tmp_path, database_url=database.url))


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    settings = {"SURGEON_DATA_DIR": str(tmp_path), "SURGEON_POLL": "0.1", "SURGEON_OFFLINE": "true"}
    command = [sys.executable, "-m", "worker.main", "--queues", "ranking"]
    with subprocess.Popen(
        command, env={**os.environ, **settings}, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


@pytest.mark.slow
def test_a_running_worker_ends_when_its_database_is_migrated(
    worker: subprocess.Popen[str], tmp_path: Path
) -> None:
    database = open_database(Settings(data_dir=tmp_path))

    def registered() -> bool:
        with database.read() as session:
            return session.scalar(select(Worker.id)) is not None

    wait_until(registered, 60)
    migrated_to(database, NEWER)
    job = submit(database)
    _, said = worker.communicate(timeout=120)
    assert worker.returncode == 1
    assert "no job is claimed any more: A newer version of Layer Surgeon" in said
    assert said.rstrip().endswith("install that version here")
    assert look(database, job).status == Status.QUEUED
    database.close()
