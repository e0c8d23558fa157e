"""What no worker could run is refused at submission, whether it is only checked or meant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from app.db import Database, db_now
from app.db.tables import Worker
from app.settings import Settings
from app.submissions.fleet import WorkerFacts, mark_stopped, register
from surgery.training.costs.devices import cores_here
from tests.support.models.mirror import TINY
from tests.support.service.problems import problem

Json = dict[str, Any]
RANKING: Json = {"model": TINY, "dataset": "glue/rte", "cache": "bypass"}
FINETUNE: Json = {
    "model": TINY, "dataset": "glue/rte", "selection": {"policy": "last_k", "k": 1},
}  # fmt: skip
CPU = ("fp32", "bf16")
GPU = (*CPU, "tf32", "fp16")


def worker(
    database: Database,
    name: str = "w:1",
    kinds: Sequence[str] = ("ranking", "finetune"),
    precisions: Sequence[str] = CPU,
    processes: int = 2,
) -> None:
    device = "cpu" if precisions == CPU else "NVIDIA H200"
    devices = [{"name": device, "memory_bytes": 1 << 30}]
    register(
        database, WorkerFacts(name, list(kinds), devices, list(precisions), processes, "0.1.0")
    )


def training(precision: str) -> Json:
    return {**FINETUNE, "training": {"precision": precision}}


def refused(api: TestClient, path: str, body: Json) -> Json:
    """The problem, which is the same whether the request is only checked or meant."""
    # A comparison gathers the faults of all its arms.
    code = "invalid" if path == "/v1/comparisons" else "not_runnable"
    checked = problem(api.post(f"{path}?validate_only=true", json=body), 422, code)
    meant = problem(api.post(path, json=body), 422, code)
    assert (checked["detail"], checked["errors"]) == (meant["detail"], meant["errors"])
    assert api.get("/v1/jobs").json()["data"] == []
    return meant


@pytest.mark.parametrize(
    ("path", "body", "pointer", "words"),
    [
        ("finetunes", {**FINETUNE, "processes": 3}, "/processes", "more than the 2"),
        ("finetunes", training("tf32"), "/training/precision", "no worker computes in tf32"),
        (
            "comparisons",
            {
                "model": TINY, "dataset": "glue/rte", "training": {"precision": "fp16"},
                "arms": [
                    {"name": "one", "selection": {"policy": "last_k", "k": 1}},
                    {"name": "all", "selection": {"policy": "all"}},
                ],
            },
            "/training/precision",
            "no worker computes in fp16",
        ),
    ],
    ids=["processes", "precision", "comparison"],
)  # fmt: skip
def test_what_no_worker_can_run_is_refused(
    either: TestClient, database: Database, path: str, body: Json, pointer: str, words: str
) -> None:
    worker(database)
    told = refused(either, f"/v1/{path}", body)
    assert told["errors"][0]["pointer"] == pointer
    assert words in told["errors"][0]["detail"]
    assert "w:1 (cpu; 2 processes)" in told["errors"][0]["detail"]


def test_one_worker_must_be_able_to_run_all_of_it(either: TestClient, database: Database) -> None:
    worker(database, "wide:1", processes=8)
    worker(database, "gpu:1", precisions=GPU, processes=1)
    told = refused(either, "/v1/finetunes", {**training("tf32"), "processes": 2})
    assert "no worker of those with enough devices computes in tf32" in told["detail"]
    assert either.post("/v1/finetunes", json=training("tf32")).status_code == 202
    assert either.post("/v1/finetunes", json={**FINETUNE, "processes": 8}).status_code == 202


def test_a_kind_that_nobody_serves_is_refused(either: TestClient, database: Database) -> None:
    worker(database, kinds=["finetune"])
    told = refused(either, "/v1/rankings", RANKING)
    assert "no worker runs jobs of kind ranking" in told["detail"]
    answer = either.post("/v1/finetunes", json=FINETUNE)
    assert (answer.status_code, answer.json()["warnings"]) == (202, [])


def test_a_cpu_scores_in_any_format(either: TestClient, database: Database) -> None:
    worker(database)
    assert either.post("/v1/rankings", json={**RANKING, "precision": "fp16"}).status_code == 202


def test_without_workers_jobs_are_queued_with_a_warning(either: TestClient) -> None:
    checked = either.post("/v1/rankings?validate_only=true", json=RANKING)
    job = either.post("/v1/rankings", json=RANKING)
    assert (checked.status_code, job.status_code) == (200, 202)
    assert [each["code"] for each in job.json()["warnings"]] == ["no_worker"]
    assert checked.json()["warnings"] == job.json()["warnings"]
    read = either.get(job.json()["links"]["self"]).json()
    assert read["warnings"] == job.json()["warnings"]


def test_workers_of_yesterday_do_not_count_and_stopped_ones_do(
    either: TestClient, database: Database
) -> None:
    worker(database)
    mark_stopped(database, "w:1")
    told = either.post("/v1/rankings", json=RANKING).json()["warnings"]
    assert [each["code"] for each in told] == ["no_worker_alive"]
    with database.write() as session:
        session.execute(update(Worker).values(heartbeat_at=db_now(-25 * 3600)))
    told = either.post("/v1/rankings", json=RANKING).json()["warnings"]
    assert [each["code"] for each in told] == ["no_worker"]


def test_an_embedded_service_knows_its_machine_before_its_workers_register(
    either: TestClient, settings: Settings
) -> None:
    many = {**FINETUNE, "processes": 64}
    if not settings.embedded:
        assert either.post("/v1/finetunes", json=many).status_code == 202
        return
    told = refused(either, "/v1/finetunes", many)
    assert told["errors"][0]["pointer"] == "/processes"
    assert f"more than the {cores_here()} that" in told["detail"]
