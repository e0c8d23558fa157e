"""A POST that is sent again with its key does nothing and is answered as the first time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest
from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from app.api.http.idempotency import HEADER, IdempotentRoute
from app.db import Database, db_now
from app.db.tables import DEFAULT_PROJECT, IdempotencyKey, Project
from app.settings import Settings
from app.submissions.idempotency import HeldKey, StoredAnswer, forget_old_keys, take_key
from tests.support.models.mirror import TINY
from tests.support.service.problems import ROWS, Json, problem

RANKING: Json = {"model": TINY, "dataset": "glue/rte"}
FINETUNE: Json = {**RANKING, "selection": {"policy": "last_k", "k": 1}}
KEY = {HEADER: "order-17"}
DAY = 24 * 3600


def keys(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.scalars(select(IdempotencyKey.key)))


def jobs(api: TestClient) -> list[Json]:
    return api.get("/v1/jobs").json()["data"]  # type: ignore[no-any-return]


def age(database: Database, seconds: float, column: str) -> None:
    """Let the time of every key pass."""
    with database.write() as session:
        session.execute(update(IdempotencyKey).values({column: db_now(-seconds)}))


def taken(database: Database, request: str = "one") -> HeldKey:
    key = take_key(database, DEFAULT_PROJECT, KEY[HEADER], request)
    assert isinstance(key, HeldKey)
    return key


def test_every_post_takes_a_key(either: TestClient) -> None:
    posts = {
        path: operations["post"]
        for path, operations in either.get("/openapi.json").json()["paths"].items()
        if "post" in operations
    }
    assert "/v1/rankings" in posts
    for path, operation in posts.items():
        names = [parameter["name"] for parameter in operation.get("parameters", [])]
        assert HEADER in names, f"{path}: give its router the class {IdempotentRoute.__name__}"
        assert "409" in operation["responses"], path


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/rankings", RANKING),
        ("/v1/finetunes", FINETUNE),
        ("/v1/comparisons", {**RANKING, "arms": [{"name": "all", "selection": {"policy": "all"}}]}),
        ("/v1/estimates", RANKING),
    ],
)
def test_the_first_answer_is_given_again(either: TestClient, path: str, body: Json) -> None:
    first = either.post(path, json=body, headers=KEY)
    assert first.is_success, first.text
    made = jobs(either)
    for job in made:
        either.post(f"/v1/jobs/{job['id']}/cancel")
    again = either.post(path, json=body, headers=KEY)
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    for name in ("content-type", "location", "retry-after"):
        assert again.headers.get(name) == first.headers.get(name)
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert len(jobs(either)) == len(made)


def test_another_request_with_the_key_is_refused(either: TestClient) -> None:
    either.post("/v1/rankings", json=RANKING, headers=KEY)
    for path, body in (
        ("/v1/rankings", {**RANKING, "seed": 1}),
        ("/v1/rankings?validate_only=false", RANKING),
        ("/v1/estimates", RANKING),
    ):
        refused = problem(either.post(path, json=body, headers=KEY), 422, "idempotency_key_reused")
        assert "use a new key" in refused["detail"]
    assert len(jobs(either)) == 1


def test_while_the_first_is_in_progress_the_second_is_told_to_wait(
    either: TestClient, database: Database
) -> None:
    held = taken(database)
    either.post("/v1/estimates", json=RANKING, headers={HEADER: "other"})
    with database.write() as session:
        digest = select(IdempotencyKey.request_sha256).where(IdempotencyKey.key == "other")
        session.execute(
            update(IdempotencyKey)
            .where(IdempotencyKey.key == held.key)
            .values(request_sha256=digest.scalar_subquery())
        )
    answer = either.post("/v1/estimates", json=RANKING, headers=KEY)
    assert problem(answer, 409, "idempotency_key_in_use")["retriable"] is True
    assert answer.headers["retry-after"] == "1"


def test_a_request_that_did_nothing_frees_its_key(either: TestClient, database: Database) -> None:
    for body in ({**RANKING, "model": "no/such"}, {**RANKING, "samples": -1}, {"seed": 1}):
        assert either.post("/v1/rankings", json=body, headers=KEY).status_code == 422
    assert either.post("/v1/jobs/rk_none/cancel", headers=KEY).status_code == 404
    assert either.post("/v1/rankings?validate_only=1", json=RANKING, headers=KEY).is_success
    assert keys(database) == []
    assert either.post("/v1/rankings", json=RANKING, headers=KEY).status_code == 202


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there", "\xe9"])
def test_a_key_is_printable_and_at_most_255_characters(either: TestClient, key: str) -> None:
    headers = [(HEADER.encode(), key.encode("latin-1"))]
    answer = either.post("/v1/rankings", json=RANKING, headers=headers)
    assert answer.status_code == 422, answer.text
    headers = [(HEADER.encode(), b"one"), (HEADER.encode(), b"two")]
    twice = problem(either.post("/v1/rankings", json=RANKING, headers=headers), 422, "invalid")
    assert "sent twice" in twice["detail"]
    assert jobs(either) == []


def upload(api: TestClient, text: str, boundary: str) -> Any:
    body = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="train"; filename="t.csv"\r\n\r\n'
        f"{text}\r\n--{boundary}--\r\n"
    )
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    return api.post("/v1/datasets", content=body, headers={**KEY, **kind})


def test_an_upload_is_the_same_whatever_its_boundary(either: TestClient) -> None:
    first = upload(either, ROWS, "one")
    again = upload(either, ROWS, "another")
    assert (first.status_code, again.status_code) == (201, 201)
    assert (again.json(), again.headers["idempotent-replayed"]) == (first.json(), "true")
    refused = upload(either, ROWS + "one more,1\n", "one")
    problem(refused, 422, "idempotency_key_reused")


def test_fifty_at_once_make_one_job(either: TestClient) -> None:
    start = threading.Barrier(50)
    answers: list[Any] = []

    def send() -> None:
        start.wait()
        answers.append(either.post("/v1/rankings", json=RANKING, headers=KEY))

    threads = [threading.Thread(target=send) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} <= {202, 409}
    ids = {answer.json()["id"] for answer in answers if answer.status_code == 202}
    assert ids == {job["id"] for job in jobs(either)}
    assert len(ids) == 1
    assert sum("idempotent-replayed" not in a.headers for a in answers if a.is_success) == 1


def test_an_answer_with_a_secret_is_neither_stored_nor_given_again(
    either: TestClient, database: Database
) -> None:
    router = APIRouter(route_class=IdempotentRoute)

    @router.post("/secrets")
    def create_secret() -> Response:
        headers = {"Cache-Control": "no-store", "Location": "/secrets/1"}
        return JSONResponse({"secret": "sk_canary"}, 201, headers)

    either.app.include_router(router)  # type: ignore[attr-defined]
    assert either.post("/secrets", headers=KEY).json() == {"secret": "sk_canary"}
    again = problem(either.post("/secrets", headers=KEY), 409, "idempotency_key_answered")
    assert "/secrets/1" in again["detail"]
    with database.read() as session:
        assert list(session.scalars(select(IdempotencyKey.body))) == [None]


KILLED = """
import json, os, signal, sys
from dataclasses import replace
from fastapi.testclient import TestClient
from app.main import create_app
from app.settings import Settings

app = create_app(Settings(**json.loads(sys.argv[1])))
service = app.state.service
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[4] == "after":
    app.state.service = replace(service, ring=die)  # called between the commit and the reply
else:
    import app.api.routes.jobs.kinds as kinds
    kinds.keep_answer = die
TestClient(app, base_url="http://127.0.0.1").post(
    "/v1/rankings", json=json.loads(sys.argv[2]), headers=json.loads(sys.argv[3])
)
"""


def kill_during_submission(settings: Settings, moment: str) -> None:
    """A process of the API that is killed just before or after it commits the job."""
    given = {
        "data_dir": str(settings.data_dir),
        "database_url": settings.resolved_database_url,
        "mirror_dir": settings.mirror_dir,
        "offline": True,
    }
    arguments = [json.dumps(each) for each in (given, RANKING, KEY)]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments, moment],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL


def test_after_a_crash_the_key_leads_to_the_job_that_was_committed(
    settings: Settings, either: TestClient
) -> None:
    kill_during_submission(settings, "after")
    (job,) = jobs(either)
    again = either.post("/v1/rankings", json=RANKING, headers=KEY)
    assert (again.status_code, again.json()["id"]) == (202, job["id"])
    assert again.headers["location"] == f"/v1/rankings/{job['id']}"
    assert len(jobs(either)) == 1


def test_after_a_crash_before_the_commit_the_key_is_soon_free(
    settings: Settings, either: TestClient, database: Database
) -> None:
    kill_during_submission(settings, "before")
    assert jobs(either) == []
    waiting = either.post("/v1/rankings", json=RANKING, headers=KEY)
    problem(waiting, 409, "idempotency_key_in_use")
    age(database, 1, "held_until")
    assert either.post("/v1/rankings", json=RANKING, headers=KEY).status_code == 202
    assert len(jobs(either)) == 1


def test_a_request_that_lost_its_key_can_store_nothing(database: Database) -> None:
    """As after a long stop of the process: another one has taken the key, and only it counts."""
    answer = StoredAnswer(202, {}, "{}")
    slow = taken(database)
    age(database, 1, "held_until")
    fast = taken(database)
    with pytest.raises(Exception, match="in progress"), database.write() as session:
        slow.keep(session, answer)
    slow.release(database)
    with database.write() as session:
        fast.keep(session, answer)
    assert take_key(database, DEFAULT_PROJECT, fast.key, "one") == answer


def test_a_key_that_is_renewed_stays_taken(database: Database) -> None:
    held = taken(database)
    age(database, 1, "held_until")
    held.renew(database)
    with pytest.raises(Exception, match="in progress"):
        taken(database)


def test_keys_are_forgotten_after_a_day(either: TestClient, database: Database) -> None:
    first = either.post("/v1/rankings", json=RANKING, headers=KEY).json()
    age(database, DAY - 60, "created_at")
    assert forget_old_keys(database) == 0
    assert either.post("/v1/rankings", json=RANKING, headers=KEY).json()["id"] == first["id"]
    age(database, DAY + 60, "created_at")
    assert forget_old_keys(database) == 1
    second = either.post("/v1/rankings", json=RANKING, headers=KEY)
    assert "idempotent-replayed" not in second.headers
    age(database, DAY + 60, "created_at")
    third = either.post("/v1/rankings", json={**RANKING, "seed": 2}, headers=KEY)
    assert third.status_code == 202


def test_keys_of_different_projects_are_different_keys(database: Database) -> None:
    with database.write() as session:
        other = Project(id="pr_other", name="other", limits={})
        other.created_at = db_now()
        session.add(other)
    taken(database)
    assert isinstance(take_key(database, "pr_other", KEY[HEADER], "two"), HeldKey)


def test_a_replay_needs_nothing_that_the_first_request_needed(either: TestClient) -> None:
    """The dataset is gone by then, as it may be when the first answer was lost."""
    dataset = upload(either, ROWS, "one").json()["id"]
    body, key = {**RANKING, "dataset": dataset}, {HEADER: "order-18"}
    first = either.post("/v1/rankings", json=body, headers=key)
    assert first.status_code == 202, first.text
    either.post(f"/v1/jobs/{first.json()['id']}/cancel")
    assert either.delete(f"/v1/datasets/{dataset}").is_success
    again = either.post("/v1/rankings", json=body, headers=key)
    assert (again.status_code, again.json()) == (202, first.json())
    problem(either.post("/v1/rankings", json=body), 422, "dataset_not_found")
