"""Rows that an earlier release has written arrive whole in the tables with projects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from fastapi.testclient import TestClient
from sqlalchemy import Connection, text

from app.api.examples.answers import DATASET
from app.db import Database, Instant, alembic_config
from app.main import create_app
from app.settings import Settings
from surgery.schemas.data.dataset import DatasetReport

Json = dict[str, Any]
BEGAN = datetime(2026, 1, 2, 3, 4, 5, 60_708, UTC)
CHANGES: list[Json] = [
    {"status": "queued"},
    {"status": "running", "worker": "w"},
    {"status": "queued", "reason": "drained"},
    {"status": "running", "worker": "w"},
    {"status": "failed", "code": "out_of_memory"},
]
REPORT = {name: value for name, value in DATASET.items() if name in DatasetReport.model_fields}
JOB: Json = {
    "id": "rk_1", "kind": "ranking", "name": "old", "labels": {"team": "a"}, "priority": 3,
    "model": "m", "dataset": "ds_1", "digest": "x", "status": "failed", "crashes": 1,
    "max_attempts": 3, "cancel_requested": False, "lease_epoch": 2,
    "spec": {"model": "m"}, "resolved": {"model": {"id": "m"}, "dataset": {"id": "ds_1"}},
    "error": {"code": "out_of_memory", "detail": "too large"}, "created_at": BEGAN,
    "queued_at": BEGAN, "started_at": BEGAN, "finished_at": BEGAN + timedelta(seconds=4),
    "updated_at": BEGAN + timedelta(seconds=4),
}  # fmt: skip


def insert(connection: Connection, table: str, row: Json) -> None:
    """A row, with values as the dialect stores them."""
    dialect = connection.dialect
    stored = {
        name: json.dumps(value) if isinstance(value, (dict, list))
        else Instant().process_bind_param(value, dialect) if isinstance(value, datetime)
        else value
        for name, value in row.items()
    }  # fmt: skip
    names, marks = ", ".join(stored), ", ".join(f":{name}" for name in stored)
    connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({marks})"), stored)


@pytest.fixture
def api(database: Database, tmp_path: Path) -> Iterator[TestClient]:
    """The API on a database of each kind, whose rows the release before this one has written."""
    config = alembic_config(database.url)
    command.downgrade(config, "0004")
    with database.engine.execution_options(writes=True).begin() as connection:
        insert(connection, "jobs", JOB)
        for number, change in enumerate(CHANGES):
            at = BEGAN + timedelta(seconds=number)
            event = {"job_id": "rk_1", "lease_epoch": 1, "type": "status", "data": change, "at": at}
            insert(connection, "job_events", event)
        insert(connection, "job_events", {**event, "type": "checkpoint", "data": {"id": "ck_1"}})
        dataset = {"id": "ds_1", "fingerprint": "f", "report": REPORT, "path": "p"}
        insert(connection, "datasets", {**dataset, "created_at": BEGAN})
    command.upgrade(config, "head")
    settings = Settings(data_dir=tmp_path / "data", database_url=database.url)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        yield client


def test_a_job_keeps_all_it_had_and_gets_its_history(api: TestClient) -> None:
    job = api.get("/v1/jobs/rk_1").json()
    for name in ("id", "kind", "name", "priority", "status", "spec", "resolved"):
        assert job[name] == JOB[name]
    assert job["error"].items() >= JOB["error"].items()
    assert (job["metadata"], job["attempt"]) == (JOB["labels"], 2)
    for name in ("created_at", "queued_at", "started_at", "finished_at", "updated_at"):
        assert datetime.fromisoformat(job[name]) == JOB[name]
    assert [
        (change["status"], datetime.fromisoformat(change["at"]), change["reason"])
        for change in job["transitions"]
    ] == [
        (change["status"], BEGAN + timedelta(seconds=n), change.get("reason") or change.get("code"))
        for n, change in enumerate(CHANGES)
    ]
    events = api.get("/v1/jobs/rk_1/events").json()["data"]
    assert [event["data"] for event in events] == [*CHANGES, {"id": "ck_1"}]
    assert [each["id"] for each in api.get("/v1/rankings?dataset=ds_1").json()["data"]] == ["rk_1"]


def test_a_dataset_keeps_all_it_had(api: TestClient) -> None:
    answer = api.get("/v1/datasets/ds_1")
    assert answer.status_code == 200, answer.text
    dataset = answer.json()
    report = DatasetReport.model_validate(REPORT).model_dump(mode="json")
    assert dataset.items() >= report.items()
    assert datetime.fromisoformat(dataset["created_at"]) == BEGAN
    assert [each["id"] for each in api.get("/v1/datasets").json()["data"]] == ["ds_1"]
