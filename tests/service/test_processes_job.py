"""A fine-tune on several processes, over HTTP."""

from __future__ import annotations

from typing import Any

from models import TINY
from services import Running, trains, wait_until

Json = dict[str, Any]
BODY: Json = {
    "model": TINY, "dataset": "glue/rte", "selection": {"policy": "top_k", "k": 2},
    "training": {"epochs": 1, "batch_size": 8, "max_length": 16, "max_steps": 12},
    "processes": 2,
}  # fmt: skip


def test_two_processes_rank_once_and_share_every_step(embedded_service: Running) -> None:
    job = embedded_service.run("finetunes", BODY)
    result = job["result"]
    assert result["processes"] == 2
    assert result["frozen_verified"]
    assert result["ranking"].startswith("rk_")
    assert result["epochs"][-1]["step"] == 12
    checkpoints = embedded_service.client.checkpoints(job["id"])
    assert result["best_checkpoint"] in {row["id"] for row in checkpoints}


def test_all_processes_stop_when_the_job_is_cancelled(embedded_service: Running) -> None:
    training = {**BODY["training"], "epochs": 500, "max_steps": 100_000}
    job = embedded_service.client.submit("finetunes", {**BODY, "training": training})

    wait_until(lambda: trains(embedded_service.client.job(job["id"])), 120)
    embedded_service.client.call("POST", f"/v1/jobs/{job['id']}/cancel")
    wait_until(lambda: embedded_service.client.job(job["id"])["terminal"], 60)
    assert embedded_service.client.job(job["id"])["status"] == "cancelled"
