"""What the answer for a job that has ended says to do next."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.api.examples.answers import RANKING_RESULT, SEARCH_RESULT
from app.jobs import state_machine
from app.tables import WORKER_KINDS
from surgeon.terminal.next_steps import step_lines
from surgery.schemas.resolved import Learned
from tests.support.models.mirror import TINY
from tests.support.service.problems import Json, upload

SEEDS = "--arm all --seeds 0,1,2"
RATES = "--learning-rates 5e-05,0.0001,0.0003"

TWO = {"k": 2, "reason": "half of the score"}


def layers(*order: int) -> list[Json]:
    [first, *_] = RANKING_RESULT["layers"]
    return [
        {**first, "rank": n, "index": i, "name": f"encoder.layer.{i}"}
        for n, i in enumerate(order, 1)
    ]


def finished(api: TestClient, collection: str, body: Json, result: Json | None) -> Json:
    """A job that ended with this result, or failed without one."""
    service: Any = api.app.state.service  # type: ignore[attr-defined]
    job = api.post(f"/v1/{collection}", json={**body, "priority": 9}).json()
    claimed = state_machine.claim(service.database, "w", WORKER_KINDS, timedelta(seconds=60))
    assert claimed is not None
    assert claimed[0].job_id == job["id"]
    if result is None:
        error = {"code": "scores_not_finite", "detail": "NaN in the weights", "retriable": False}
        state_machine.fail(service.database, claimed[0], error)
    else:
        state_machine.finish(service.database, claimed[0], result, Learned())
    answer: Json = api.get(f"/v1/jobs/{job['id']}").json()
    return answer


def commands(api: TestClient, job: Json) -> list[str]:
    """The steps as commands; each request passes every check of the service."""
    for step in job["next_steps"]:
        if step["body"] is not None:
            answer = api.post(f"{step['path']}?validate_only=true", json=step["body"])
            assert answer.status_code == 200, answer.text
    return shown(job)


def shown(job: Json, width: int = 1000) -> list[str]:
    lines = step_lines(job["next_steps"], width)
    return [line.strip() for line in lines if line.startswith("  ")]


@pytest.fixture(scope="module")
def dataset(api: TestClient) -> str:
    rows = "text,label\n" + "".join(f"sentence number {n},{n % 2}\n" for n in range(40))
    return str(upload(api, rows).json()["id"])


def test_a_ranking_that_finds_little_names_a_search(api: TestClient, dataset: str) -> None:
    prior = {**RANKING_RESULT["model_prior"], "kendall_tau": 0.9}
    head = {**RANKING_RESULT["head"], "loss": 0.69, "baseline_loss": 0.7}
    result = {**RANKING_RESULT, "layers": layers(3, 2, 0, 1), "model_prior": prior, "head": head}
    result["recommended_k"] = TWO
    result["stability"] = {**RANKING_RESULT["stability"], "ambiguous_k": [2]}
    body = {"model": TINY, "dataset": dataset, "max_length": 32}
    job = finished(api, "rankings", body, result)
    why = job["next_steps"][0]["why"]
    for doubt in ("(τ 0.90 with that on shuffled labels)", "hardly predicts", "the top 2 depends"):
        assert doubt in why
    arms = f"--arm layers=2,3 --arm first_k=2 {SEEDS} --max-length 32 {RATES}"
    assert commands(api, job) == [
        f"surgeon search {TINY} {dataset} --max-length 32",
        f"surgeon compare {TINY} {dataset} {arms}",
    ]


def test_a_ranking_without_doubts_names_the_fine_tune(api: TestClient) -> None:
    certain = {"loss": 0.3, "baseline_loss": 0.7}
    result = {
        **RANKING_RESULT, "layers": layers(0, 2, 1, 3),
        "head": {**RANKING_RESULT["head"], **certain},
        "model_prior": {**RANKING_RESULT["model_prior"], "kendall_tau": 0.1},
        "recommended_k": TWO,
    }  # fmt: skip
    job = finished(api, "rankings", {"model": TINY, "dataset": "glue/rte"}, result)
    assert commands(api, job) == [
        f"surgeon tune {TINY} glue/rte --top-k 2 --ranking {job['id']}",
        f"surgeon compare {TINY} glue/rte --arm layers=0,2 --arm last_k=2 {SEEDS} {RATES}",
    ]
    folded = shown(job, 80)
    assert all(len(line) <= 78 for line in folded)
    assert " ".join(folded).replace(" \\ ", " ") == " ".join(shown(job))
    listed = api.get("/v1/jobs", params={"fields": "id,next_steps"}).json()["data"]
    assert {"id": job["id"], "next_steps": job["next_steps"]} in listed


def test_a_search_names_what_trains_its_choice_and_a_larger_budget(api: TestClient) -> None:
    body = {
        "model": TINY, "dataset": "glue/rte", "families": ["single", "all"], "held_out": 0.3,
        "training": {"epochs": 5},
    }  # fmt: skip
    unsure = finished(api, "searches", body, {**SEARCH_RESULT, "winner": None})
    tune = f"surgeon tune {TINY} glue/rte --search --search-id {unsure['id']} --epochs 5"
    again = f"surgeon search {TINY} glue/rte --families single,all --held-out 0.3"
    assert [step["path"] for step in unsure["next_steps"]] == ["/v1/finetunes", "/v1/searches"]
    assert shown(unsure) == [tune, f"{again} --budget-share 0.7 --epochs 5"]
    sure = finished(api, "searches", body, {**SEARCH_RESULT, "winner": "1+2"})
    assert len(sure["next_steps"]) == 1


def test_a_job_that_did_not_succeed_names_its_retry(api: TestClient) -> None:
    body = {"model": TINY, "dataset": "glue/rte", "seed": 3}
    failed = finished(api, "rankings", body, None)
    [step] = failed["next_steps"]
    assert (step["path"], step["body"]) == (f"/v1/jobs/{failed['id']}/retry", None)
    assert "once what the error names is mended" in step["why"]
    assert commands(api, failed) == [f"surgeon retry {failed['id']}"]
    waiting = api.post(step["path"]).json()
    assert waiting["next_steps"] == []
    cancelled = api.post(f"/v1/jobs/{waiting['id']}/cancel").json()
    assert commands(api, cancelled) == [f"surgeon retry {waiting['id']}"]
