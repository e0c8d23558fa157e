"""A real encoder is fine-tuned while its processes are killed twenty times, at random steps.

The weights it ends with are those of a run that nothing happened to, bit by bit. Where a machine is
so fast that the run is over before, another one takes the kills that are left.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.support.models.mirror import REAL_MODEL
from tests.support.service.services import Running, production, wait_until

Json = dict[str, Any]
KILLS, WORKERS_TOO = 20, 4  # of these, so many are of the whole worker
SAVED_EVERY = 4
LONGEST_STEPS = 15  # from what an attempt resumes from to the next kill
BODY: Json = {
    "model": REAL_MODEL, "dataset": "glue/rte", "selection": {"policy": "last_k", "k": 2},
    "training": {
        "epochs": 6, "batch_size": 8, "max_length": 24, "learning_rate": 1e-3,
        "evaluate_every_steps": SAVED_EVERY, "prefix_cache": "disk", "head": {"warmup_epochs": 0},
    },
    "checkpoints": {"keep": "last"},
}  # fmt: skip


@pytest.fixture
def service(
    few_mirrors: str, module_postgres: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """One that tries a job as often as it takes; the pause before that doubles each time."""
    data = tmp_path_factory.mktemp("twenty")
    own = {"SURGEON_MAX_ATTEMPTS": "100", "SURGEON_RETRY_BACKOFF": "0.000001"}
    with production(data, few_mirrors, module_postgres, redis_url, **own) as running:
        yield running


def weights_of(service: Running, job: Json) -> str:
    files = service.client.checkpoints(job["id"])[-1]["files"]
    return str(next(f["sha256"] for f in files if f["name"] == "delta.safetensors"))


def step_of(job: Json, attempt: int) -> int:
    """How far this attempt has come; -1 before it trains."""
    progress = job["progress"] or {}
    if (job["attempt"], progress.get("unit")) != (attempt, "steps") or job["phase"] != "train":
        return -1
    return int(progress["step"])


def kill(service: Running, *, worker: bool) -> None:
    """The job's own process, or its worker, with which it dies."""
    victims = service.workers() if worker else service.children()
    for victim in victims:
        victim.send_signal(signal.SIGKILL)
    psutil.wait_procs(victims, timeout=20)
    if worker:
        service.replace_worker()


def reached(service: Running, job_id: str, attempt: int, step: int) -> Json:
    """The job once this attempt has come so far, or the job is over."""
    found: Json = {}

    def arrived() -> bool:
        found.update(service.client.job(job_id))
        return found["terminal"] or step_of(found, attempt) >= step

    wait_until(arrived, 120, service.logs)
    return found


def strike(service: Running, job_id: str, choice: random.Random, most: int) -> list[str]:
    """Kill a job's processes until it is over, at most so often; how its attempts ended."""
    told: list[str] = []
    step = 0
    while len(told) < most:
        attempt = len(told) + 1
        job = reached(service, job_id, attempt, step + choice.randint(1, LONGEST_STEPS))
        if job["terminal"]:
            break
        step = step_of(job, attempt)
        worker = choice.random() < WORKERS_TOO / KILLS
        kill(service, worker=worker)
        told.append("lost" if worker else "crashed")
    return told


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills_of_a_real_fine_tune_leave_its_weights_as_they_are(service: Running) -> None:
    undisturbed = service.run("finetunes", BODY, 600)
    choice, kills = random.Random(0), 0
    while kills < KILLS:
        job = service.client.submit("finetunes", {**BODY, "name": f"after {kills} kills"})
        told = strike(service, job["id"], choice, KILLS - kills)
        kills += len(told)
        job = service.finished(job, 300)
        assert job["status"] == "succeeded", job["error"]
        assert weights_of(service, job) == weights_of(service, undisturbed)
        attempts = service.client.call("GET", f"/v1/jobs/{job['id']}/attempts")["data"]
        ends = [each["outcome"] for each in attempts]
        # One that was struck while its end was stored had ended all the same.
        assert ends in ([*told, "succeeded"], [*told[:-1], "succeeded"])
        assert len(job["result"]["epochs"]) == len(undisturbed["result"]["epochs"])
