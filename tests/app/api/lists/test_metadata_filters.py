"""Lists filtered by labels: always those that the jobs have now, and read by an index."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event, select, text

from app.db import Database
from app.db.tables import Job, JobLabel, Project
from app.main import create_app
from app.settings import Settings
from tests.support.service.queued_jobs import insert_jobs

Json = dict[str, Any]


@pytest.fixture
def api(database: Database, tmp_path: Path) -> Iterator[TestClient]:
    """The API on a database of each kind."""
    settings = Settings(data_dir=tmp_path / "data", database_url=database.url)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        yield client


def listed(api: TestClient, limit: int = 200, **labels: str | list[str]) -> list[str]:
    """The ids of all pages, in their order."""
    params: Json = {f"metadata[{name}]": value for name, value in labels.items()}
    found, cursor = [], None
    while True:
        given = {**params, "limit": limit} | ({"cursor": cursor} if cursor else {})
        page = api.get("/v1/jobs", params=given).json()
        found += [job["id"] for job in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            return found


def test_a_changed_label_is_found_and_the_old_one_is_not(
    database: Database, api: TestClient
) -> None:
    (job,) = insert_jobs(database, 1, labels={"team": "a", "run": "1"})
    (other,) = insert_jobs(database, 1, labels={"team": "a"})
    assert listed(api, team="a") == [other, job]
    patch = {"metadata": {"team": "b", "run": None, "über": "“q”"}}
    assert api.patch(f"/v1/jobs/{job}", json=patch).status_code == 200
    assert listed(api, team="a") == [other]
    assert listed(api, team="b") == listed(api, über="“q”") == [job]
    assert listed(api, run="1") == []
    assert api.patch(f"/v1/jobs/{job}", json={"metadata": None}).status_code == 200
    assert listed(api, team="b") == []


def test_the_labels_of_a_deleted_job_go_with_it(database: Database, api: TestClient) -> None:
    job, other = insert_jobs(database, 2, labels={"team": "a", "run": "1"})
    assert api.post(f"/v1/jobs/{job}/cancel").status_code == 200
    assert api.delete(f"/v1/jobs/{job}").status_code == 204
    assert listed(api, team="a") == [other]
    with database.read() as session:
        assert set(session.scalars(select(JobLabel.job_id))) == {other}


def test_the_labels_of_other_projects_are_not_found(database: Database, api: TestClient) -> None:
    with database.write() as session:
        row = session.get(Project, "pr_default")
        assert row is not None
        session.add(Project(id="pr_x", name="x", limits={}, created_at=row.created_at))
    insert_jobs(database, 2, labels={"team": "a"}, project="pr_x")
    (mine,) = insert_jobs(database, 1, labels={"team": "a"})
    assert listed(api, team="a") == [mine]


def test_pages_are_those_of_a_filter_over_all_jobs(database: Database, api: TestClient) -> None:
    draw = random.Random(0)
    for _ in range(40):
        given = {name: draw.choice("ab") for name in draw.sample("xyz", draw.randint(0, 3))}
        insert_jobs(database, 1, labels=given, model=draw.choice("mn"))
    with database.read() as session:
        jobs = session.scalars(select(Job).order_by(Job.created_at.desc(), Job.id.desc())).all()
    for wanted in (
        {"x": "a"},
        {"x": ["a", "b"]},
        {"x": "a", "y": ["a", "b"]},
        {"x": "b", "z": "a"},
    ):
        chosen = [
            job.id
            for job in jobs
            if all(job.labels.get(name) in list(value) for name, value in wanted.items())
        ]
        assert listed(api, 4, **wanted) == chosen
        some = api.get(
            "/v1/jobs",
            params={f"metadata[{name}]": v for name, v in wanted.items()} | {"model": "m"},
        )
        models = {job.id: job.model for job in jobs}
        assert [job["id"] for job in some.json()["data"]] == [
            name for name in chosen if models[name] == "m"
        ]


def test_a_label_that_few_jobs_have_reads_few_jobs(database: Database, api: TestClient) -> None:
    insert_jobs(database, 300, labels={"team": "a"})
    (rare,) = insert_jobs(database, 1, labels={"team": "b"})
    with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("ANALYZE"))
    sent: list[tuple[str, Any]] = []
    engine = api.app.state.service.database._reader  # type: ignore[attr-defined]
    event.listen(engine, "before_cursor_execute", lambda *given: sent.append(given[2:4]))
    params = {"metadata[team]": "b", "fields": "id"}
    assert api.get("/v1/jobs", params=params).json()["data"] == [{"id": rare}]
    (statement, parameters) = sent[-1]
    sqlite = database.engine.dialect.name == "sqlite"
    with database.engine.connect() as connection:
        cursor = connection.connection.cursor()
        how = "EXPLAIN QUERY PLAN " if sqlite else "EXPLAIN "
        cursor.execute(how + statement, parameters)
        plan = " ".join(str(row) for row in cursor.fetchall())
    assert not re.search("(?:Seq Scan on|SCAN) job", plan), plan
    assert ("PRIMARY KEY (project=? AND key=? AND value=?" if sqlite else "job_labels_pkey") in plan
