"""What a caller can choose of jobs: their fields, and filters that are given several times."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event

from app.db import Database, db_now
from app.db.tables import Project
from app.jobs import state_machine
from app.main import create_app
from app.settings import Settings
from surgery.schemas.answers.job import JobView
from tests.support.service.problems import problem, says
from tests.support.service.queued_jobs import insert_jobs, take


@pytest.fixture
def api(database: Database, tmp_path: Path) -> Iterator[TestClient]:
    """The API on a database of each kind."""
    settings = Settings(data_dir=tmp_path / "data", database_url=database.url)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        yield client


def ids(api: TestClient, query: str) -> set[str]:
    return {job["id"] for job in api.get(f"/v1/jobs?limit=200&{query}").json()["data"]}


def test_only_the_named_fields_are_answered_and_read(database: Database, api: TestClient) -> None:
    job_id, _ = insert_jobs(database, 2)
    whole = api.get(f"/v1/jobs/{job_id}").json()
    sent: list[str] = []
    engine = api.app.state.service.database._reader  # type: ignore[attr-defined]
    event.listen(engine, "before_cursor_execute", lambda *given: sent.append(given[2]))
    for name in JobView.model_fields:
        assert api.get(f"/v1/jobs/{job_id}?fields={name}").json() == {name: whole[name]}
    some = api.get(f"/v1/finetunes/{job_id}?fields=status, id,queue").json()
    assert some == {"id": job_id, "status": "queued", "queue": {"ahead": 0}}
    sent.clear()
    listed = api.get("/v1/jobs?fields=id,status").json()["data"]
    assert [set(job) for job in listed] == [{"id", "status"}] * 2
    (statement,) = sent
    assert not any(f"jobs.{large}" in statement for large in ("result", "spec", "resolved"))


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/rankings", "/v1/jobs/{}"])
def test_a_field_that_no_job_has(database: Database, api: TestClient, path: str) -> None:
    (job_id,) = insert_jobs(database, 1)
    answer = api.get(path.format(job_id), params={"fields": "id,staus"})
    says(problem(answer, 422, "invalid"), "/fields", "'staus'", "did you mean 'status'?")
    nothing = api.get(path.format(job_id), params={"fields": ""})
    says(problem(nothing, 422, "invalid"), "/fields", "a job has: id, kind")


def test_a_filter_given_twice_means_any_of_them(database: Database, api: TestClient) -> None:
    labels = [{"team": "a"}, {"team": "b"}, {"team": "c", 'o."dd': "x"}]
    made = [
        insert_jobs(database, 1, model=f"m{n}", dataset=f"d{n}", labels=labels[n])[0]
        for n in range(3)
    ]
    take(database)
    state_machine.cancel(database, made[1])
    assert ids(api, "status=running&status=cancelled") == {made[0], made[1]}
    assert ids(api, "model=m0&model=m2&model=none") == {made[0], made[2]}
    assert ids(api, "dataset=d1&dataset=d2") == {made[1], made[2]}
    assert ids(api, "kind=ranking&kind=finetune") == set(made)
    assert ids(api, "kind=comparison&kind=ranking") == set()
    assert ids(api, "metadata[team]=a&metadata[team]=c") == {made[0], made[2]}
    assert ids(api, "metadata[team]=a&metadata[team]=c&metadata[o.%22dd]=x") == {made[2]}
    assert ids(api, "model=m0&model=m1&status=queued&status=running") == {made[0]}
    many = "".join(f"&model=m{n}&dataset=d{n}" for n in range(20))  # too many to look up each
    assert ids(api, f"{many}&status=running&status=running") == {made[0]}


def test_the_pages_of_an_or_are_in_order_and_whole(database: Database, api: TestClient) -> None:
    insert_jobs(database, 30)
    for _ in range(7):
        take(database)
    query, met = "status=running&status=queued&limit=4", []
    cursor = ""
    while cursor is not None:
        page = api.get(f"/v1/jobs?{query}" + (f"&cursor={cursor}" if cursor else "")).json()
        met += [(job["created_at"], job["id"]) for job in page["data"]]
        cursor = page["next_cursor"]
    assert met == sorted(set(met), reverse=True)
    assert len(met) == 30


def test_the_place_in_the_queue_is_that_of_the_claims(database: Database, api: TestClient) -> None:
    """By priority, then by age, among the jobs of all projects, and never counting itself."""
    with database.write() as session:
        session.add(Project(id="pr_other", name="other", limits={}, created_at=db_now()))
    insert_jobs(database, 4)
    insert_jobs(database, 3, priority=5, project="pr_other")
    insert_jobs(database, 4, priority=5)
    insert_jobs(database, 2, priority=-1)
    own = {
        job["id"]: job["queue"]["ahead"]
        for job in api.get("/v1/jobs?limit=200&fields=id,queue").json()["data"]
    }
    assert len(own) == 10
    order = [take(database).job_id for _ in range(13)]
    assert own == {job_id: order.index(job_id) for job_id in own}
    assert {job["queue"] for job in api.get("/v1/jobs?fields=queue").json()["data"]} == {None}
