"""Processes are killed in the middle of real fine-tunes, which then must succeed all the same."""

from __future__ import annotations

import signal
from typing import Any

import psutil
import pytest

from app.artifacts.storage import open_storage
from app.db import Database
from app.settings import Settings
from tests.support.models.mirror import TINY
from tests.support.service.services import Running, wait_until
from worker.supervisor.environments import WorkerFolders
from worker.supervisor.upkeep.sweeper import Sweeper

Json = dict[str, Any]
EPOCHS = 20  # long enough that a fast machine is still at it when the test strikes
BODY: Json = {
    "model": TINY, "dataset": "glue/rte", "selection": {"policy": "last_k", "k": 2},
    "training": {"epochs": EPOCHS, "batch_size": 64, "max_length": 16, "learning_rate": 1e-3},
    "checkpoints": {"keep": "last"},
}  # fmt: skip


# How a worker's death is noticed, and who takes its job over, differs from one deployment to the
# other; a job's own process dies the same way in both.
BOTH = pytest.mark.parametrize(
    "fragile_service",
    ["production", pytest.param("embedded", marks=pytest.mark.slow)],
    indirect=True,
)
PRODUCTION = pytest.mark.parametrize("fragile_service", ["production"], indirect=True)


@pytest.fixture(scope="module")
def service(fragile_service: Running) -> Running:
    return fragile_service


@pytest.fixture(scope="module")
def undisturbed(service: Running) -> str:
    """SHA-256 of the weights that the run ends with when nothing happens."""
    return weights_of(service, service.run("finetunes", BODY))


def weights_of(service: Running, job: Json) -> str:
    files = service.client.checkpoints(job["id"])[-1]["files"]
    return str(next(f["sha256"] for f in files if f["name"] == "delta.safetensors"))


def in_the_middle(service: Running, body: Json = BODY) -> Json:
    """Submit a fine-tune and wait until it has trained some epochs and saved its state."""
    job = service.client.submit("finetunes", body)

    def far_enough() -> bool:
        found = service.client.checkpoints(job["id"])
        return bool(found) and found[-1]["epoch"] >= 2

    wait_until(far_enough, 90, service.logs)
    assert service.client.job(job["id"])["status"] == "running"
    return job


def reasons(job: Json) -> list[str | None]:
    return [change["reason"] for change in job["transitions"]]


def outcomes(service: Running, job: Json) -> list[str]:
    """How each attempt ended; all of them have used the worker's time."""
    attempts = service.client.call("GET", f"/v1/jobs/{job['id']}/attempts")["data"]
    # What a worker used that was killed is not known.
    used = [each["usage"]["worker_seconds"] for each in attempts if each["usage"]]
    seconds = [sum(own.values()) for own in used]
    assert all(spent > 0 for spent in seconds)
    assert sum(job["usage"]["worker_seconds"].values()) == pytest.approx(sum(seconds), abs=0.01)
    assert job["usage"]["peak_memory_bytes"]["host"] > 0
    assert job["usage"]["stored_bytes"] > sum(
        each["bytes"] for each in service.client.checkpoints(job["id"])
    )
    return [each["outcome"] for each in attempts]


def log_of(service: Running, job: Json, attempt: int) -> Json:
    """The log of an attempt, once it is complete."""
    path = f"/v1/jobs/{job['id']}/logs"

    def read() -> Json:
        return service.client.call("GET", path, params={"attempt": attempt})

    wait_until(lambda: read()["complete"], 30, service.logs)
    return read()


def says(log: Json, source: str, words: str) -> bool:
    return any(words in line["text"] for line in log["data"] if line["source"] == source)


@pytest.mark.slow
@BOTH
def test_a_killed_child_costs_an_attempt_and_nothing_else(
    service: Running, undisturbed: str
) -> None:
    job = in_the_middle(service)
    (child,) = service.children()
    child.send_signal(signal.SIGKILL)
    job = service.finished(job)
    assert (job["status"], job["attempt"]) == ("succeeded", 2)
    assert "worker_lost" in reasons(job)
    assert weights_of(service, job) == undisturbed
    assert len(job["result"]["epochs"]) == EPOCHS
    assert outcomes(service, job) == ["crashed", "succeeded"]
    first, second = (log_of(service, job, number) for number in (1, 2))
    assert says(first, "fetcher", "fetch")
    assert says(first, "job", "train")
    assert says(first, "supervisor", "killed by SIGKILL")
    assert says(second, "supervisor", "the job succeeded")


@BOTH
def test_a_killed_supervisor_takes_its_child_along_and_the_job_goes_on(
    service: Running, undisturbed: str
) -> None:
    job = in_the_middle(service)
    (worker,), (child,) = service.workers(), service.children()
    # Its worker is killed before it could say any more.
    path = f"/v1/jobs/{job['id']}/logs"
    wait_until(lambda: says(service.client.call("GET", path), "job", "train"), 30, service.logs)
    worker.send_signal(signal.SIGKILL)
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running()
    service.replace_worker()
    job = service.finished(job)
    assert (job["status"], job["attempt"]) == ("succeeded", 2)
    assert "worker_lost" in reasons(job)
    assert weights_of(service, job) == undisturbed
    assert outcomes(service, job) == ["lost", "succeeded"]
    assert says(log_of(service, job, 1), "job", "train")
    workers = service.client.call("GET", "/v1/workers")["data"]
    alive = {each["id"].rpartition(":")[2]: each["alive"] for each in workers}
    assert not alive.pop(str(worker.pid))
    assert list(alive.values()) == [True]


@pytest.mark.slow
@PRODUCTION
def test_a_drained_worker_gives_its_job_back_uncharged(service: Running, undisturbed: str) -> None:
    job = in_the_middle(service)
    (worker,) = service.workers()
    worker.send_signal(signal.SIGTERM)
    psutil.wait_procs([worker], timeout=20)
    assert not worker.is_running()
    service.replace_worker()
    job = service.finished(job)
    assert (job["status"], job["attempt"]) == ("succeeded", 1)
    assert "drained" in reasons(job)
    assert weights_of(service, job) == undisturbed
    assert outcomes(service, job) == ["drained", "succeeded"]
    assert says(log_of(service, job, 1), "supervisor", "the job is given back (drained)")


@BOTH
def test_cancelling_a_running_job_stops_it_within_a_step(service: Running) -> None:
    endless = {**BODY, "training": {**BODY["training"], "epochs": 500}}
    job = in_the_middle(service, endless)
    service.client.call("POST", f"/v1/jobs/{job['id']}/cancel")
    job = service.finished(job, 15)
    assert (job["status"], job["result"]) == ("cancelled", None)
    assert service.run("rankings", {"model": TINY, "dataset": "glue/rte", "cache": "bypass"})


@BOTH
def test_a_paused_job_frees_its_worker_and_goes_on_uncharged(
    service: Running, undisturbed: str
) -> None:
    job = in_the_middle(service)
    service.client.pause(job["id"])
    wait_until(lambda: service.client.job(job["id"])["status"] == "paused", 30, service.logs)
    assert service.run("rankings", {"model": TINY, "dataset": "glue/rte", "cache": "bypass"})
    assert service.client.job(job["id"])["status"] == "paused"
    service.client.resume(job["id"])
    job = service.finished(job)
    assert (job["status"], job["attempt"]) == ("succeeded", 1)
    assert [change["status"] for change in job["transitions"]] == [
        "queued", "running", "paused", "queued", "running", "succeeded",
    ]  # fmt: skip
    assert weights_of(service, job) == undisturbed


@pytest.mark.slow
@PRODUCTION
def test_a_worker_killed_during_a_pause_loses_nothing(service: Running, undisturbed: str) -> None:
    """Whether its child has saved the last state by then or not; the crash is not charged."""
    job = in_the_middle(service)
    (worker,) = service.workers()
    service.client.pause(job["id"])
    worker.send_signal(signal.SIGKILL)
    service.replace_worker()
    wait_until(lambda: service.client.job(job["id"])["status"] == "paused", 30, service.logs)
    assert service.run("rankings", {"model": TINY, "dataset": "glue/rte", "cache": "bypass"})
    assert service.client.job(job["id"])["status"] == "paused"
    service.client.resume(job["id"])
    job = service.finished(job)
    assert (job["status"], job["attempt"]) == ("succeeded", 1)
    assert weights_of(service, job) == undisturbed
    assert len(job["result"]["epochs"]) == EPOCHS
    first, second = outcomes(service, job)
    assert first in {"lost", "paused"}
    assert second == "succeeded"


@PRODUCTION
def test_a_running_job_ends_at_its_deadline(service: Running) -> None:
    endless = {**BODY["training"], "epochs": 500}
    job = service.client.submit(
        "finetunes", {**BODY, "training": endless, "deadline_seconds": 8, "name": "endless"}
    )
    job = service.finished(job, 60)
    assert (job["status"], job["error"]["code"]) == ("failed", "deadline_exceeded")
    assert job["error"]["instance"] == f"/v1/jobs/{job['id']}"
    assert service.run("rankings", {"model": TINY, "dataset": "glue/rte", "cache": "bypass"})


@BOTH
def test_what_no_row_names_is_collected(
    service: Running, undisturbed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a day had passed: states and scratch of dead attempts go, checkpoints stay.

    So does the scratch folder of the running worker, which is why this is the last test.
    """
    jobs = service.client.call("GET", "/v1/jobs")["data"]
    assert all(job["terminal"] for job in jobs)
    url = service.environment.get("SURGEON_DATABASE_URL", "")
    settings = Settings(data_dir=service.data, database_url=url)
    database = Database(settings.resolved_database_url)
    storage = open_storage(settings)
    monkeypatch.setattr("worker.supervisor.upkeep.sweeper.GARBAGE_AGE_SECONDS", -1.0)
    sweeper = Sweeper(settings, database, storage, WorkerFolders.new(service.data), None)
    artifacts, scratch = service.data / "artifacts", service.data / "scratch"

    def only_checkpoints_stay() -> bool:
        sweeper.collect_garbage()  # again: the worker may still be removing what it has just ended
        return not [*artifacts.rglob("state-*"), *scratch.iterdir()]

    wait_until(only_checkpoints_stay, 20, service.logs)
    database.close()
    kept = sum(len(service.client.checkpoints(job["id"])) for job in jobs)
    assert len(list(artifacts.rglob("delta.safetensors"))) == kept
