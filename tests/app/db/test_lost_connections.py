"""A Postgres that has restarted: connections that rested are replaced before they are used."""

from __future__ import annotations

import time

import psycopg

from app.db import RESTED_SECONDS, Database
from app.jobs import state_machine
from tests.support.service.queued_jobs import insert_jobs, look, take


def drop_connections(postgres: str, name: str | None) -> int:
    """End every connection to a database, as a restart does; how many there were."""
    ending = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = %s"
    with psycopg.connect(postgres, autocommit=True) as connection:
        row = connection.execute(ending, [name]).fetchone()
    assert row is not None
    return int(row[0])


def test_reads_and_writes_go_on_after_a_restart(postgres: str, postgres_url: str) -> None:
    database = Database(postgres_url.replace("postgresql://", "postgresql+psycopg://"))
    database.upgrade()
    (job_id,) = insert_jobs(database, 1)
    assert look(database, job_id).status == "queued"
    assert drop_connections(postgres, database.engine.url.database) >= 2
    time.sleep(RESTED_SECONDS)
    assert look(database, job_id).status == "queued"
    assert take(database).job_id == job_id
    state_machine.cancel(database, job_id)
    assert look(database, job_id).cancel_requested
    database.close()
