"""A worker whose broker holds what nobody understands, and one that takes nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from app.db import Database
from app.db.tables import Worker
from tests.support.service.queued_jobs import RESOLVED, look, submit
from tests.support.service.services import FAST, wait_until

MESSAGES = (b"5", b"[]", b"nonsense", b'{"body": 1}', b'{"properties": 1, "headers": 2}', b"\xff")


@contextmanager
def celery_worker(
    folder: Path, postgres: str, broker: str
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A worker of rankings as its container runs it, and its log."""
    log = folder / "worker.log"
    settings = {
        **FAST, "SURGEON_DATA_DIR": str(folder / "data"), "SURGEON_DATABASE_URL": postgres,
        "SURGEON_REDIS_URL": broker,
    }  # fmt: skip
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "surgeon", "worker", "--queues", "ranking"],
            env={**os.environ, **settings}, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(lambda: " ready." in log.read_text(), 60, log.read_text)
        yield process, log
        assert process.poll() is None, log.read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def restarts(database: Database) -> dict[str, Any]:
    """How often each part of the only worker has died, as it says itself."""
    with database.read() as session:
        return session.query(Worker).one().restarts


def test_messages_that_nobody_understands_end_no_worker(
    postgres_url: str, redis_url: str, tmp_path: Path
) -> None:
    """Before Celery listens again, and after it does, the jobs are found by polling."""
    database = Database(postgres_url.replace("postgresql://", "postgresql+psycopg://"))
    database.upgrade()
    broker = redis.Redis.from_url(redis_url)
    with celery_worker(tmp_path, postgres_url, redis_url) as (_, log):
        for message in MESSAGES:
            broker.lpush("surgeon:surgeon.ranking", message)
        wait_until(lambda: restarts(database).get("celery"), 30, log.read_text)
        job = submit(database, resolved=RESOLVED, spec={"model": "no/such", "dataset": "d"})
        wait_until(lambda: look(database, job).finished_at, 60, log.read_text)
        wait_until(lambda: log.read_text().count(" ready.") > 1, 60, log.read_text)
    assert "Traceback" in log.read_text()
    broker.delete("surgeon:surgeon.ranking")
    broker.close()
    database.close()
