"""Jobs of every kind and state that the first version has written are read by this one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from app.db import Database, alembic_config
from app.db.tables import Checkpoint, Job, JobLabel, Metric
from app.jobs import state_machine
from app.main import create_app
from app.settings import Settings
from bench.migrate.__main__ import measure
from bench.migrate.rows import KINDS, METRICS, STATUSES

JOBS = 1001  # every comparison has its fine-tune
STEPS = {"queued": 1, "running": 2}  # changes of status; 3 of what has ended


@pytest.fixture
def filled(database: Database) -> Database:
    """Every migration has been applied to the rows of the first."""
    command.downgrade(alembic_config(database.url), "base")
    measured = list(measure(database.url, JOBS))
    assert [each.name[:4] for each in measured][-1] == database.head
    assert all(each.seconds > 0 for each in measured)
    assert database.is_at_head()
    return database


@pytest.fixture
def api(filled: Database, tmp_path: Path) -> Iterator[TestClient]:
    settings = Settings(data_dir=tmp_path / "data", database_url=filled.url)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        yield client


def pages(api: TestClient) -> Iterator[dict[str, Any]]:
    address = "/v1/jobs?limit=100"
    while True:
        page = api.get(address).raise_for_status().json()
        yield from page["data"]
        if not page["has_more"]:
            return
        address = f"/v1/jobs?limit=100&cursor={page['next_cursor']}"


def test_every_job_arrives_with_its_history(api: TestClient, filled: Database) -> None:
    jobs = list(pages(api))
    assert len({job["id"] for job in jobs}) == JOBS
    counted = Counter((job["kind"], job["status"]) for job in jobs)
    assert counted.keys() == {(kind, status) for kind in KINDS for status in STATUSES}
    assert max(counted.values()) - min(counted.values()) <= 1
    for job in jobs[:: JOBS // 50]:
        whole = api.get(f"/v1/jobs/{job['id']}").raise_for_status().json()
        told = [change["status"] for change in whole["transitions"]]
        assert told == ["queued", "running", job["status"]][: STEPS.get(job["status"], 3)]
        assert whole["metadata"] == {"team": f"team-{int(job['id'].rpartition('_')[2]) % 40}"}
    with filled.read() as session:
        assert session.scalar(select(func.count()).select_from(JobLabel)) == JOBS
        tuned = counted["finetune", "succeeded"]
        assert session.scalar(select(func.count()).select_from(Checkpoint)) == tuned
        assert session.scalar(select(func.count()).select_from(Metric)) == tuned * METRICS
        last = session.scalar(select(func.max(Metric.seq)))
        assert last == METRICS, "each job's measurements are numbered by themselves"


def test_what_waited_and_what_ran_goes_on(filled: Database) -> None:
    """A lease of a worker that is gone is taken back; the oldest of the highest priority is next."""
    with filled.read() as session:
        query = select(Job.id).where(Job.status == "running", Job.kind != "comparison")
        running = set(session.scalars(query))
    state_machine.reap(filled, Settings().retry_backoff)
    with filled.read() as session:
        left = session.scalars(select(Job.id).where(Job.id.in_(running), Job.status == "running"))
        assert list(left) == []
    claimed = state_machine.claim(filled, "w", ["ranking", "finetune"], Settings().lease)
    assert claimed is not None
    assert claimed[1].priority == 2
