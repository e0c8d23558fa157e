"""Of equal rankings one is computed, and every caller has a job of their own with its result."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from app.db import Database
from app.db.tables import Job, JobKind
from app.jobs import state_machine
from app.jobs.state_machine import sharing
from surgery.schemas.resolved import Learned
from tests.support.models.mirror import TINY, TINY_LAYERS
from tests.support.service.finished_runs import ranking_result
from tests.support.service.problems import Json, problem
from tests.support.service.queued_jobs import LEASE, look, take

RANKING: Json = {"model": TINY, "dataset": "glue/rte", "samples": 8}
TUNE: Json = {
    "model": TINY, "dataset": "glue/rte",
    "selection": {"policy": "top_k", "k": 1, "ranking": {"samples": 8}},
}  # fmt: skip
SCORES = {"fisher": {f"encoder.layer.{place}": 1.0 / (place + 1) for place in range(TINY_LAYERS)}}
RESULT = ranking_result(SCORES).model_dump(mode="json")
LEARNED = Learned(versions={"torch": "2"}, labels=["no", "yes"])
DIED = {"code": "scores_not_finite", "detail": "not a number"}


def post(api: TestClient, path: str = "rankings", body: Json = RANKING, **more: Any) -> Json:
    answer = api.post(f"/v1/{path}", json={**body, **more})
    assert answer.is_success, answer.text
    return answer.json()  # type: ignore[no-any-return]


def get(api: TestClient, job: Json) -> Json:
    return api.get(f"/v1/jobs/{job['id']}").json()  # type: ignore[no-any-return]


def nothing_to_claim(database: Database) -> bool:
    return state_machine.claim(database, "w", list(JobKind), LEASE) is None


def finish(database: Database, **_: Any) -> str:
    """Compute whatever a worker would claim next."""
    lease = take(database)
    state_machine.finish(database, lease, RESULT, LEARNED)
    return lease.job_id


def test_a_stored_result_is_answered_as_a_job_of_ones_own(
    either: TestClient, database: Database
) -> None:
    first = post(either, name="first")
    finish(database)
    own = {"name": "mine", "metadata": {"team": "b"}}
    answer = either.post("/v1/rankings", json={**RANKING, **own})
    job = answer.json()
    assert (answer.status_code, job["status"], job["cached"]) == (200, "succeeded", True)
    assert answer.headers["location"] == f"/v1/rankings/{job['id']}"
    assert "retry-after" not in answer.headers
    assert (job["name"], job["metadata"]) == ("mine", {"team": "b"})
    assert (job["result_of"], job["result"]) == (first["id"], RESULT)
    assert job["resolved"]["labels"] == ["no", "yes"]
    assert [change["status"] for change in job["transitions"]] == ["queued", "succeeded"]
    assert get(either, job) == job
    mine = either.get("/v1/rankings", params={"metadata[team]": "b"}).json()["data"]
    assert [(each["id"], each["result"]) for each in mine] == [(job["id"], RESULT)]
    view = either.get(f"/v1/rankings/{job['id']}/selection?k=1").json()
    assert [layer["name"] for layer in view["selection"]["layers"]] == ["encoder.layer.0"]
    third = post(either)
    assert third["result_of"] == first["id"]
    with database.read() as session:
        stored = select(func.count()).where(Job.own_result.is_not(None))
        assert session.scalar(stored) == 1


def test_a_selection_by_a_cached_ranking_names_the_layers(
    either: TestClient, database: Database
) -> None:
    post(either)
    finish(database)
    cached = post(either)
    selection = {"policy": "top_k", "k": 1, "ranking": cached["id"]}
    tuned = post(either, "finetunes", {**TUNE, "selection": selection})
    assert tuned["resolved"]["layers"] == ["encoder.layer.0"]


def test_the_second_waits_for_the_first_and_has_its_result(
    either: TestClient, database: Database
) -> None:
    first, second, third = post(either), post(either, name="b"), post(either, metadata={"x": "y"})
    assert [job["status"] for job in (first, second, third)] == ["queued"] * 3
    assert [job["waits_for"] for job in (first, second, third)] == [None, first["id"], first["id"]]
    lease = take(database)
    assert lease.job_id == first["id"]
    assert nothing_to_claim(database)
    while_it_runs = post(either)
    assert while_it_runs["waits_for"] == first["id"]
    state_machine.finish(database, lease, RESULT, LEARNED)
    for job in (second, third, while_it_runs):
        now = get(either, job)
        assert (now["status"], now["cached"], now["result_of"]) == (
            "succeeded", True, first["id"],
        )  # fmt: skip
        assert (now["result"], now["waits_for"]) == (RESULT, None)
    assert get(either, first)["cached"] is False


def test_a_shared_result_outlives_the_ranking_that_computed_it(
    either: TestClient, database: Database
) -> None:
    first = post(either)
    finish(database)
    second, third = post(either), post(either)
    assert either.delete(f"/v1/jobs/{first['id']}").status_code == 204
    now = [get(either, job) for job in (second, third)]
    assert [job["result"] for job in now] == [RESULT, RESULT]
    assert [job["result_of"] for job in now] == [None, second["id"]]
    assert post(either)["result_of"] == second["id"]
    for job in now:
        assert either.delete(f"/v1/jobs/{job['id']}").status_code == 204


def end_failed(either: TestClient, database: Database, first: Json) -> None:
    state_machine.fail(database, take(database), DIED)


def end_cancelled(either: TestClient, database: Database, first: Json) -> None:
    either.post(f"/v1/jobs/{first['id']}/cancel")


def end_cancelled_running(either: TestClient, database: Database, first: Json) -> None:
    lease = take(database)
    either.post(f"/v1/jobs/{first['id']}/cancel")
    state_machine.end_cancelled(database, lease)


def end_paused(either: TestClient, database: Database, first: Json) -> None:
    either.post(f"/v1/jobs/{first['id']}/pause")


@pytest.mark.parametrize("end", [end_failed, end_cancelled, end_cancelled_running, end_paused])
def test_where_the_first_gives_no_result_the_next_is_computed(
    either: TestClient, database: Database, end: Any
) -> None:
    first, second, third = post(either), post(either), post(either)
    end(either, database, first)
    assert get(either, second)["waits_for"] is None
    assert get(either, third)["waits_for"] == second["id"]
    assert get(either, first)["status"] != "queued"
    assert finish(database) == second["id"]
    assert get(either, third)["result_of"] == second["id"]
    assert nothing_to_claim(database)


def test_one_that_is_being_cancelled_is_not_waited_for(
    either: TestClient, database: Database
) -> None:
    first = post(either)
    take(database)
    either.post(f"/v1/jobs/{first['id']}/cancel")
    assert post(either)["waits_for"] is None


def test_one_that_waits_can_be_cancelled_and_paused_alone(
    either: TestClient, database: Database
) -> None:
    first, second, third = post(either), post(either), post(either)
    assert either.post(f"/v1/jobs/{second['id']}/cancel").json()["status"] == "cancelled"
    either.post(f"/v1/jobs/{third['id']}/pause")
    assert finish(database) == first["id"]
    assert get(either, third)["status"] == "paused"
    either.post(f"/v1/jobs/{third['id']}/resume")
    assert (get(either, third)["status"], get(either, third)["cached"]) == ("succeeded", True)


def test_bypass_waits_for_nobody(either: TestClient, database: Database) -> None:
    first = post(either)
    forced = post(either, cache="bypass")
    assert forced["waits_for"] is None
    assert {finish(database), finish(database)} == {first["id"], forced["id"]}
    again = either.post("/v1/rankings", json={**RANKING, "cache": "bypass"})
    assert (again.status_code, again.json()["cached"]) == (202, False)


def test_an_urgent_one_makes_the_one_it_waits_for_urgent(
    either: TestClient, database: Database
) -> None:
    first = post(either)
    other = post(either, seed=5, priority=3)
    post(either, priority=9)
    assert get(either, first)["priority"] == 9
    assert [finish(database), finish(database)] == [first["id"], other["id"]]


def test_a_finetune_waits_for_a_ranking_in_flight(either: TestClient, database: Database) -> None:
    ranking = post(either)
    tune, doomed = post(either, "finetunes", TUNE), post(either, "finetunes", TUNE)
    assert tune["waits_for"] == ranking["id"]
    either.post(f"/v1/jobs/{doomed['id']}/cancel")
    assert finish(database) == ranking["id"]
    now = get(either, tune)
    assert (now["status"], now["waits_for"]) == ("queued", None)
    assert now["resolved"]["ranking"] == ranking["id"]
    assert take(database).job_id == tune["id"]


def test_a_finetune_ranks_by_itself_where_the_ranking_fails(
    either: TestClient, database: Database
) -> None:
    post(either)
    tune = post(either, "finetunes", TUNE)
    state_machine.fail(database, take(database), DIED)
    assert get(either, tune)["waits_for"] is None
    assert "ranking" not in get(either, tune)["resolved"]
    assert take(database).job_id == tune["id"]


def test_comparisons_share_a_ranking(either: TestClient, database: Database) -> None:
    """The second's ranking waits for the first's, and its fine-tunes for its own."""
    arms = [
        {"name": "a", "selection": TUNE["selection"]},
        {"name": "all", "selection": {"policy": "all"}},
    ]
    body = {"model": TINY, "dataset": "glue/rte", "arms": arms}
    first, second = post(either, "comparisons", body), post(either, "comparisons", body)

    def children(comparison: Json) -> dict[str, Json]:
        rows = either.get("/v1/jobs", params={"parent": comparison["id"]}).json()["data"]
        return {row["kind"] if row["kind"] == "ranking" else row["name"]: row for row in rows}

    ranking = children(first)["ranking"]
    assert children(second)["ranking"]["waits_for"] == ranking["id"]
    lease = take(database)
    while lease.job_id != ranking["id"]:
        lease = take(database)
    state_machine.finish(database, lease, RESULT, LEARNED)
    assert children(second)["ranking"]["cached"] is True
    for comparison in (first, second):
        assert children(comparison)["a, seed 0"]["waits_for"] is None
        assert get(either, comparison)["status"] == "running"
    third = post(either, "comparisons", body)
    assert "ranking" not in children(third)


def test_many_at_once_are_one_computation(either: TestClient, database: Database) -> None:
    start = threading.Barrier(16)

    def send() -> None:
        start.wait()
        post(either)

    threads = [threading.Thread(target=send) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    finish(database)
    assert nothing_to_claim(database)
    rows = either.get("/v1/rankings").json()["data"]
    assert [row["status"] for row in rows] == ["succeeded"] * 16
    assert sum(not row["cached"] for row in rows) == 1


def test_what_was_left_untaken_is_taken_by_the_sweeper(
    either: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a process dies between the end of the first and the next transaction."""
    post(either)
    second = post(either)
    with monkeypatch.context() as patched:
        patched.setattr(sharing, "settle_waiting", lambda _: None)
        finish(database)
    assert look(database, second["id"]).status == "queued"
    state_machine.settle_waiting(database)
    assert get(either, second)["status"] == "succeeded"


@pytest.mark.parametrize(("path", "body"), [("rankings", RANKING), ("finetunes", TUNE)])
def test_a_dry_run_says_what_a_submission_would_do(
    either: TestClient, database: Database, path: str, body: Json
) -> None:
    def dry() -> Json:
        return either.post(f"/v1/{path}?validate_only=true", json=body).json()  # type: ignore[no-any-return]

    assert dry()["waits_for"] is None
    ranking = post(either)
    assert dry()["waits_for"] == ranking["id"]
    finish(database)
    assert dry()["cached"] is (path == "rankings")
    assert len(either.get("/v1/jobs").json()["data"]) == 1


def test_a_dry_run_fails_where_the_submission_would(either: TestClient) -> None:
    rows = "text,label\n" + "".join(f"sentence {i},{i % 2}\n" for i in range(20))
    dataset = either.post("/v1/datasets", files={"train": ("t.csv", rows)}).json()["id"]
    body = {**RANKING, "dataset": dataset}
    assert either.post("/v1/rankings?validate_only=true", json=body).json()["valid"] is True
    either.delete(f"/v1/datasets/{dataset}")
    for query in ("", "?validate_only=true"):
        problem(either.post(f"/v1/rankings{query}", json=body), 422, "dataset_not_found")
