"""A dataset deleted while a job that uses it is submitted: one of the two finds the other.

On Postgres both run at once and the dataset's row is what they wait for; on SQLite one writes at a
time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event, text

from app.db import Database
from app.main import create_app
from app.settings import Settings
from tests.support.models.mirror import TINY
from tests.support.service.problems import Json, problem, upload
from tests.support.service.services import wait_until

SECONDS = 30
ROUNDS = 6


@pytest.fixture
def api(database: Database, tmp_path: Path, mirrors: str) -> Iterator[TestClient]:
    """An API on each kind of database."""
    settings = Settings(
        database_url=database.url, data_dir=tmp_path / "data", mirror_dir=mirrors, offline=True
    )
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        yield client


ON_POSTGRES = pytest.mark.parametrize("database", ["postgres"], indirect=True)


def new_dataset(api: TestClient, word: str) -> str:
    rows = "".join(f"{word} {n},{n % 2}\n" for n in range(20))
    return str(upload(api, f"text,label\n{rows}").json()["id"])


def rank(api: TestClient, dataset: str) -> Any:
    return api.post("/v1/rankings", json={"model": TINY, "dataset": dataset})


def delete(api: TestClient, dataset: str) -> Any:
    return api.delete(f"/v1/datasets/{dataset}")


class Pause:
    """Stops the first transaction that has run a statement with these words, until let go."""

    def __init__(self, api: TestClient, words: str) -> None:
        self.words, self.reached, self.go = words, threading.Event(), threading.Event()
        engine = api.app.state.service.database.engine  # type: ignore[attr-defined]
        event.listen(engine, "after_cursor_execute", self._after)

    def _after(self, *given: Any) -> None:
        _, _, statement, *_ = given
        if self.words in statement and not self.reached.is_set():
            self.reached.set()
            assert self.go.wait(SECONDS)


def waits_for_a_lock(database: Database) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with database.read() as session:
        return bool(session.scalar(text(query)))


def second_waits_for_first(
    api: TestClient,
    database: Database,
    words: str,
    first: Callable[[], Any],
    second: Callable[[], Any],
) -> tuple[Any, Any]:
    """Both answers; the second request met the lock of the first."""
    pause = Pause(api, words)
    with ThreadPoolExecutor(2) as pool:
        one: Future[Any] = pool.submit(first)
        assert pause.reached.wait(SECONDS)
        two: Future[Any] = pool.submit(second)
        try:
            wait_until(lambda: waits_for_a_lock(database), SECONDS)
            assert not two.done()
        finally:
            pause.go.set()
        return one.result(SECONDS), two.result(SECONDS)


@ON_POSTGRES
def test_a_deletion_waits_for_a_submission_and_finds_its_job(
    api: TestClient, database: Database
) -> None:
    dataset = new_dataset(api, "held")
    ranked, deleted = second_waits_for_first(
        api, database, "FOR SHARE", lambda: rank(api, dataset), lambda: delete(api, dataset)
    )
    assert ranked.status_code == 202, ranked.text
    assert ranked.json()["id"] in problem(deleted, 409, "conflict")["detail"]
    assert api.get(f"/v1/datasets/{dataset}").status_code == 200


@ON_POSTGRES
def test_a_submission_waits_for_a_deletion_and_misses_the_dataset(
    api: TestClient, database: Database
) -> None:
    dataset = new_dataset(api, "gone")
    deleted, ranked = second_waits_for_first(
        api, database, "FOR UPDATE", lambda: delete(api, dataset), lambda: rank(api, dataset)
    )
    assert deleted.status_code == 204, deleted.text
    assert "deleted meanwhile" in problem(ranked, 422, "dataset_not_found")["detail"]
    assert api.get("/v1/jobs").json()["data"] == []


@ON_POSTGRES
def test_two_submissions_do_not_wait_for_each_other(api: TestClient) -> None:
    dataset = new_dataset(api, "shared")
    pause = Pause(api, "FOR SHARE")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(rank, api, dataset)
        assert pause.reached.wait(SECONDS)
        body: Json = {"model": TINY, "dataset": dataset, "seed": 1}
        assert api.post("/v1/rankings", json=body).status_code == 202
        pause.go.set()
        assert first.result(SECONDS).status_code == 202


def test_no_job_is_left_without_its_dataset(api: TestClient) -> None:
    """Whoever comes first: a job whose dataset stays, or a dataset that goes and no job."""
    for number in range(ROUNDS):
        dataset, start = new_dataset(api, f"round {number}"), threading.Barrier(4)

        def at_once(
            act: Callable[..., Any], dataset: str = dataset, start: threading.Barrier = start
        ) -> int:
            start.wait(SECONDS)
            return int(act(api, dataset).status_code)

        with ThreadPoolExecutor(4) as pool:
            codes = list(pool.map(at_once, (rank, delete, rank, delete)))
        jobs = [
            job for job in api.get("/v1/jobs").json()["data"]
            if job["resolved"]["dataset"]["id"] == dataset
        ]  # fmt: skip
        kept = api.get(f"/v1/datasets/{dataset}").status_code == 200
        assert kept == bool(jobs), codes
        assert set(codes[::2]) <= ({202} if kept else {422}), codes
        assert sorted(codes[1::2]) == ([409, 409] if kept else [204, 404]), codes
