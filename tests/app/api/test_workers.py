"""The registry of workers and the queue over HTTP, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from app.api.routes.platform.workers import expected_wait
from app.db import Database, db_now
from app.db.tables import Job, JobKind, Worker, new_id
from app.jobs import state_machine
from app.jobs.state_machine import enqueue
from app.main import create_app
from app.settings import Settings
from app.submissions.estimating.speeds import at_width, throughput
from app.submissions.fleet import (
    WorkerFacts,
    beat,
    forget_workers,
    mark_stopped,
    register,
    store_probe,
)
from surgery.schemas.jobs.estimate import Probe, ProbedSpeed, SpeedBasis
from tests.support.service.queued_jobs import LEASE, RESOLVED

Json = dict[str, Any]
DAY = 24 * 3600


@pytest.fixture
def api(database: Database, tmp_path: Path) -> Iterator[TestClient]:
    settings = Settings(data_dir=tmp_path / "data", database_url=database.url)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        yield client


def start(database: Database, name: str, *kinds: str) -> None:
    devices = [{"name": "cpu", "memory_bytes": 1 << 30}]
    register(database, WorkerFacts(name, list(kinds), devices, ["fp32"], 2, "0.1.0"))


def queued(database: Database, kind: JobKind = JobKind.RANKING, **fields: Any) -> str:
    job = Job(
        id=new_id("rk"), kind=kind, spec={}, resolved=RESOLVED, labels={}, model="m", dataset="d",
        digest="x", max_attempts=3, **fields,
    )  # fmt: skip
    with database.write() as session:
        enqueue(session, job)
    return job.id


def heard(database: Database, name: str, seconds_ago: float) -> None:
    with database.write() as session:
        then = db_now(-seconds_ago)
        session.execute(update(Worker).where(Worker.id == name).values(heartbeat_at=then))


def workers(api: TestClient) -> dict[str, Json]:
    return {each["id"]: each for each in api.get("/v1/workers").json()["data"]}


def test_a_worker_is_alive_until_it_stops_or_is_not_heard_of(
    api: TestClient, database: Database
) -> None:
    for name in ("dead:1", "stopped:1", "well:1"):
        start(database, name, "ranking", "finetune")
    heard(database, "dead:1", LEASE.total_seconds() + 1)
    mark_stopped(database, "stopped:1")
    found = workers(api)
    assert list(found) == ["well:1", "stopped:1", "dead:1"]  # newest first
    assert {name: each["alive"] for name, each in found.items()} == {
        "well:1": True, "stopped:1": False, "dead:1": False,
    }  # fmt: skip
    assert found["dead:1"]["stopped_at"] is None
    assert found["stopped:1"]["stopped_at"] is not None
    well = found["well:1"]
    assert (well["kinds"], well["devices"]) == (
        ["ranking", "finetune"], [{"name": "cpu", "memory_bytes": 1 << 30}],
    )  # fmt: skip
    start(database, "stopped:1", "ranking")  # a container that starts again has its old name
    assert workers(api)["stopped:1"]["alive"]


def test_a_worker_shows_its_job_to_the_jobs_project_alone(
    api: TestClient, database: Database
) -> None:
    start(database, "w:1", "ranking")
    own, foreign = queued(database), queued(database, project="pr_other")
    for job, shown in ((own, own), (foreign, None), (None, None)):
        assert beat(database, "w:1", job)
        worker = workers(api)["w:1"]
        assert (worker["busy"], worker["job"]) == (job is not None, shown)
    assert not beat(database, "unknown:1", None)


def test_workers_are_forgotten_after_a_week(api: TestClient, database: Database) -> None:
    for name, days in (("old:1", 7.1), ("recent:1", 6.9)):
        start(database, name, "ranking")
        heard(database, name, days * DAY)
    forget_workers(database)
    assert list(workers(api)) == ["recent:1"]


PROBE = Probe(
    device="AMD EPYC, 2 threads",
    torch="2.11.0",
    speeds=[ProbedSpeed(precision="fp32", width=384, operations_per_second=5e10)],
    failures={"bf16": "RuntimeError: not here"},
    seconds=0.8,
)


def enter(database: Database, name: str, key: str) -> bool:
    """Register a worker; whether a probe of its devices is known."""
    devices = [{"name": "cpu", "memory_bytes": 1 << 30}]
    return register(database, WorkerFacts(name, ["finetune"], devices, ["fp32"], 2, "0.1.0", key))


def test_a_probe_is_known_for_a_day_to_workers_of_the_same_device(
    api: TestClient, database: Database
) -> None:
    assert not enter(database, "w:1", "host; cpu")
    assert workers(api)["w:1"]["probe"] is None
    store_probe(database, "w:1", PROBE)
    known = workers(api)["w:1"]
    assert known["probe"] == PROBE.model_dump(mode="json")
    assert enter(database, "w:2", "host; cpu")
    again = workers(api)["w:2"]
    assert (again["probe"], again["probed_at"]) == (known["probe"], known["probed_at"])
    assert enter(database, "w:1", "host; cpu")  # the same process id, after a restart
    assert not enter(database, "w:3", "another host; cpu")
    with database.write() as session:
        session.execute(update(Worker).values(probed_at=db_now(-DAY - 1)))
    assert not enter(database, "w:4", "host; cpu")
    assert not enter(database, "w:2", "host; cpu")
    assert workers(api)["w:2"]["probe"] is None


def test_a_failed_probe_is_told_by_estimates(database: Database) -> None:
    enter(database, "w:1", "host; cpu")
    assert throughput(database, "f", None, 384)[0].accuracy.startswith("no worker has measured its")
    store_probe(database, "w:1", PROBE)
    start(database, "ranks:1", "ranking")
    store_probe(database, "ranks:1", PROBE.model_copy(update={"device": "another"}))
    known, _ = throughput(database, "f", None, 384)
    assert (known.operations_per_second, known.worker) == (5e10, "w:1")
    failed, _ = throughput(database, "f", "bf16", 384)
    assert (failed.basis, failed.operations_per_second) == (SpeedBasis.NONE, None)
    assert failed.accuracy == "w:1 could not measure bf16: RuntimeError: not here"


@pytest.mark.parametrize(
    ("width", "expected"), [(128, 1e10), (384, 1e10), (768, 2e10), (1536, 4e10), (4096, 4e10)]
)
def test_speeds_between_two_widths_are_on_a_line_of_logarithms(width: int, expected: float) -> None:
    speeds = [
        ProbedSpeed(precision="bf16", width=measured, operations_per_second=rate)
        for measured, rate in ((1536, 4e10), (384, 1e10))
    ]
    assert at_width(speeds, width) == pytest.approx(expected)


def test_workers_are_paged(api: TestClient, database: Database) -> None:
    for number in range(5):
        start(database, f"w:{number}", "ranking")
    met, query = [], {"limit": "2"}
    while True:
        page = api.get("/v1/workers", params=query).json()
        met += [each["id"] for each in page["data"]]
        if not page["has_more"]:
            break
        query["cursor"] = page["next_cursor"]
    assert met == [f"w:{number}" for number in (4, 3, 2, 1, 0)]


def test_the_queue_counts_the_callers_jobs_and_all_jobs(
    api: TestClient, database: Database
) -> None:
    empty = api.get("/v1/queue").json()["kinds"]
    assert set(empty) == {"ranking", "finetune", "search", "prediction", "export"}
    nothing = {"queued": 0, "running": 0, "paused": 0, "oldest_queued_at": None}
    assert empty["ranking"]["project"] == empty["ranking"]["all"] == nothing
    assert (empty["ranking"]["workers_alive"], empty["ranking"]["expected_wait_seconds"]) == (
        0, None,
    )  # fmt: skip
    start(database, "w:1", "ranking")
    start(database, "w:2", "ranking", "finetune")
    beat(database, "w:2", "some job")
    running, paused = queued(database), queued(database)
    assert state_machine.claim(database, "w:2", [JobKind.RANKING], LEASE)
    state_machine.pause(database, paused)
    waits = queued(database, waits_for=running)
    old = queued(database, project="pr_other")
    queued(database, JobKind.FINETUNE)
    with database.write() as session:
        session.execute(update(Job).where(Job.id == old).values(queued_at=db_now(-100)))
        session.execute(update(Job).where(Job.id == waits).values(queued_at=db_now(-50)))
    kinds = api.get("/v1/queue").json()["kinds"]
    own, every = kinds["ranking"]["project"], kinds["ranking"]["all"]
    assert [own[name] for name in ("queued", "running", "paused")] == [1, 1, 1]
    assert [every[name] for name in ("queued", "running", "paused")] == [2, 1, 1]
    ages = {
        each["id"]: each["queued_at"] for each in api.get("/v1/jobs?status=queued").json()["data"]
    }
    assert own["oldest_queued_at"] == ages[waits]
    assert every["oldest_queued_at"] < ages[waits]
    assert [kinds["ranking"][name] for name in ("workers_alive", "workers_idle")] == [2, 1]
    assert [kinds["finetune"][name] for name in ("workers_alive", "workers_idle")] == [1, 0]


@pytest.mark.parametrize(
    ("alive", "idle", "waiting", "starts", "seconds"),
    [
        (0, 0, 0, 500, None),  # nobody would start it
        (2, 1, 0, 0, 0.0),
        (2, 2, 2, 9, None),
        (2, 1, 4, 40, 360.0),
        (1, 0, 0, 40, 90.0),
    ],
)
def test_an_expected_wait_is_told_only_where_it_is_known(
    alive: int, idle: int, waiting: int, starts: int, seconds: float | None
) -> None:
    assert expected_wait(alive, idle, waiting, starts) == seconds
