"""How a database finds the next job to claim, however many jobs it has."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select, text

from app.db import Database
from app.db.tables import WORKER_KINDS
from app.jobs.state_machine.leases import _ready


def test_a_claim_walks_the_queue_and_counts_only_running_jobs(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'test.db'}")
    database.upgrade()
    ready = select(_ready(WORKER_KINDS, 4).c.id)
    statement = ready.compile(database.engine, compile_kwargs={"literal_binds": True})
    with database.engine.connect() as connection:
        steps = connection.execute(text(f"EXPLAIN QUERY PLAN {statement}")).all()
    database.close()
    plan = [step.detail for step in steps]
    assert "SCAN jobs USING INDEX jobs_queue" in plan
    assert "SCAN jobs_1 USING INDEX jobs_running" in plan
    assert not [step for step in plan if "ORDER BY" in step]
