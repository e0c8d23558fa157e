"""A fine-tune on several processes, over HTTP."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from surgeon.client import ApiError
from tests.support.models.mirror import TINY
from tests.support.service.services import Running, trains, wait_until

Json = dict[str, Any]
BODY: Json = {
    "model": TINY, "dataset": "glue/rte", "selection": {"policy": "top_k", "k": 2},
    "training": {"epochs": 1, "batch_size": 8, "max_length": 16, "max_steps": 12},
    "processes": 2,
}  # fmt: skip


@pytest.mark.slow
def test_two_processes_rank_once_and_share_every_step(embedded_service: Running) -> None:
    job = embedded_service.run("finetunes", BODY)
    result = job["result"]
    assert result["processes"] == 2
    assert result["frozen_verified"]
    assert result["ranking"].startswith("rk_")
    assert result["epochs"][-1]["step"] == 12
    checkpoints = embedded_service.client.checkpoints(job["id"])
    assert result["best_checkpoint"] in {row["id"] for row in checkpoints}


def processes_of(service: Running) -> list[psutil.Process]:
    """Every process of its jobs on this machine, whoever its parent is by now."""
    own = str(service.data).encode()
    found = []
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
            if "worker.child.distributed_process" in command or "worker.child.launcher" in command:
                named = own in b" ".join(part.encode() for part in process.cmdline())
                home = process.environ().get("HOME", "").encode()
                found += [process] if named or home.startswith(own) else []
        except psutil.Error:  # it ended meanwhile
            continue
    return found


def cancel(service: Running, job: Json) -> None:
    service.client.call("POST", f"/v1/jobs/{job['id']}/cancel")


def kill_the_child(service: Running, job: Json) -> None:
    for process in service.children():
        process.kill()
    cancel(service, job)


def kill_the_supervisor(service: Running, job: Json) -> None:
    for process in service.workers():
        process.kill()
    cancel(service, job)


def stopped_supervisor(service: Running, job: Json) -> None:
    """It can hear nothing any more, and is then killed."""
    for process in service.workers():
        process.suspend()
        os.kill(process.pid, signal.SIGKILL)
    cancel(service, job)


@pytest.mark.parametrize(
    ("end", "when"),
    [
        pytest.param(cancel, "starting", id="cancel-starting", marks=pytest.mark.slow),
        pytest.param(
            kill_the_supervisor, "starting", id="supervisor-starting", marks=pytest.mark.slow
        ),
        pytest.param(
            stopped_supervisor, "training", id="supervisor-training", marks=pytest.mark.slow
        ),
        pytest.param(cancel, "training", id="cancel-training", marks=pytest.mark.slow),
        pytest.param(kill_the_child, "training", id="child-training", marks=pytest.mark.slow),
        pytest.param(kill_the_child, "starting", id="child-starting", marks=pytest.mark.slow),
    ],
)
def test_no_process_outlives_its_job(
    embedded_service: Running, end: Callable[[Running, Json], None], when: str
) -> None:
    training = {**BODY["training"], "epochs": 500, "max_steps": 100_000}
    body = {**BODY, "training": training, "selection": {"policy": "last_k", "k": 1}}
    job = embedded_service.client.submit("finetunes", body)
    # The first of them is seen long before it has imported torch.
    wait_until(lambda: processes_of(embedded_service), 120, embedded_service.logs)
    if when == "training":
        wait_until(lambda: trains(embedded_service.client.job(job["id"])), 120)
        assert len(processes_of(embedded_service)) == 3  # the launcher and two
    end(embedded_service, job)
    wait_until(lambda: not processes_of(embedded_service), 20)
    wait_until(lambda: embedded_service.client.job(job["id"])["terminal"], 60)
    assert embedded_service.client.job(job["id"])["status"] == "cancelled"
    assert processes_of(embedded_service) == []


def test_more_processes_than_the_machine_has_are_refused(embedded_service: Running) -> None:
    with pytest.raises(ApiError) as refused:
        embedded_service.client.submit("finetunes", {**BODY, "processes": 64})
    problem = refused.value.problem
    assert (problem["status"], problem["code"]) == (422, "not_runnable")
    assert problem["errors"][0]["pointer"] == "/processes"
    most = len(os.sched_getaffinity(0))
    assert f"64 processes are more than the {most} that a worker can run" in problem["detail"]
