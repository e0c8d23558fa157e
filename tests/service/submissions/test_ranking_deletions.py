"""A ranking is deleted while fine-tunes are submitted that choose their layers by it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.db import Database
from app.errors import Conflict
from app.jobs import state_machine
from app.jobs.deletion import delete_job
from app.submissions.submit import insert, prepare_finetune
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.schemas.resolved import Learned
from tests.support.models.mirror import TINY, TINY_LAYERS
from tests.support.service.finished_runs import ranking_result
from tests.support.service.problems import Json
from tests.support.service.queued_jobs import take

SCORES = {"fisher": {f"encoder.layer.{place}": 1.0 / (place + 1) for place in range(TINY_LAYERS)}}
RESULT = ranking_result(SCORES).model_dump(mode="json")
ROUNDS = 6


def rank(api: TestClient, seed: int) -> Json:
    body = {"model": TINY, "dataset": "glue/rte", "samples": 8, "seed": seed}
    answer = api.post("/v1/rankings", json=body)
    assert answer.status_code == 202, answer.text
    return answer.json()  # type: ignore[no-any-return]


def tune(ranking: Any) -> Json:
    selection = {"policy": "top_k", "k": 1, "ranking": ranking}
    return {"model": TINY, "dataset": "glue/rte", "selection": selection}


def test_no_fine_tune_is_left_with_a_ranking_that_is_gone(
    either: TestClient, database: Database
) -> None:
    """Whoever comes first: a fine-tune whose ranking stays, or a ranking that goes and no user."""
    for seed in range(ROUNDS):
        ranking = rank(either, seed)
        state_machine.finish(database, take(database), RESULT, Learned())
        named, described = tune(ranking["id"]), tune({"samples": 8, "seed": seed})
        start = threading.Barrier(3)

        def send(
            method: str, path: str, body: Json | None = None, start: threading.Barrier = start
        ) -> Any:
            start.wait(30)
            return either.request(method, path, json=body)

        with ThreadPoolExecutor(3) as pool:
            by_id, by_spec, deleted = (
                sent.result(60)
                for sent in (
                    pool.submit(send, "POST", "/v1/finetunes", named),
                    pool.submit(send, "POST", "/v1/finetunes", described),
                    pool.submit(send, "DELETE", f"/v1/jobs/{ranking['id']}"),
                )
            )
        accepted = [answer.json() for answer in (by_id, by_spec) if answer.status_code == 202]
        users = [job for job in accepted if job["resolved"].get("ranking") == ranking["id"]]
        stays = either.get(f"/v1/rankings/{ranking['id']}").status_code == 200
        assert (deleted.status_code, by_id.status_code) in (
            {(409, 202)} if users and stays else {(409, 202), (204, 422), (204, 409)}
        ), (deleted.text, by_id.text)
        assert by_spec.status_code in {202, 409}, by_spec.text
        assert stays or not users
        for job in accepted:
            assert either.post(f"/v1/jobs/{job['id']}/cancel").status_code == 200


def test_a_ranking_that_was_just_taken_stays(either: TestClient, database: Database) -> None:
    """The fine-tune was checked while the ranking was computed, and takes its result now."""
    ranking = rank(either, 0)
    service = either.app.state.service  # type: ignore[attr-defined]
    spec = FinetuneSpec.model_validate(tune({"samples": 8}))
    prepared = prepare_finetune(service, spec)
    state_machine.finish(database, take(database), RESULT, Learned())
    with ThreadPoolExecutor() as pool:
        with database.write() as session:
            insert(session, service, prepared)
            assert prepared.job.resolved["ranking"] == ranking["id"]
            deletion = pool.submit(delete_job, database, ranking["id"], lambda _: None)
            with pytest.raises(TimeoutError):
                deletion.result(0.3)
        with pytest.raises(Conflict, match=prepared.job.id):
            deletion.result(30)
    assert either.get(f"/v1/rankings/{ranking['id']}").status_code == 200
