"""Databases that do not answer, sessions that freeze with what they have locked, deaf processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.db import Database, is_outage
from app.db.postgres import ImpatientConnection
from app.jobs import state_machine
from app.jobs.queue import unannounced_jobs
from app.jobs.state_machine import Fenced, locked_with_comparison
from app.settings import Settings
from tests.support.faults.proxy import Proxy, proxy_to
from tests.support.faults.told_attempts import begin
from tests.support.service.live_api import live_api
from tests.support.service.queued_comparisons import NOW
from tests.support.service.queued_comparisons import submit as submit_comparison
from tests.support.service.queued_jobs import look, submit, take
from tests.support.service.services import wait_until
from worker.protocol import MetricValues, WorkOrder
from worker.supervisor.child_process import ChildProcess, ProcessEnded


def url_of(postgres_url: str, **limits: int) -> str:
    """The URL for SQLAlchemy; ``limits`` in milliseconds instead of the service's own."""
    url = postgres_url.replace("postgresql://", "postgresql+psycopg://")
    options = "%20".join(f"-c%20{name}%3D{value}" for name, value in limits.items())
    return f"{url}{'&' if '?' in url else '?'}options={options}" if limits else url


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[Proxy]:
    """A proxy to an empty database that is migrated."""
    with closing(Database(url_of(postgres_url))) as direct:
        direct.upgrade()
    with proxy_to(postgres_url) as between:
        yield between


def limits_of(database: Database) -> list[dict[str, str]]:
    found = []
    query = text("SELECT name, setting FROM pg_settings WHERE name LIKE '%\\_timeout'")
    for transaction in (database.read, database.write):
        with transaction() as session:
            found.append({row.name: row.setting for row in session.execute(query)})
    return found


def test_every_connection_has_limits(postgres_url: str) -> None:
    with closing(Database(url_of(postgres_url))) as database:
        for limits in limits_of(database):
            assert limits["statement_timeout"] == "10000"
            assert limits["lock_timeout"] == "5000"
            assert limits["idle_in_transaction_session_timeout"] == "15000"
    with closing(Database(url_of(postgres_url, lock_timeout=7))) as database:
        for limits in limits_of(database):
            assert (limits["lock_timeout"], limits["statement_timeout"]) == ("7", "10000")


def test_a_migration_has_none(postgres_url: str) -> None:
    with closing(Database(url_of(postgres_url), unlimited=True)) as database:
        assert [limits["statement_timeout"] for limits in limits_of(database)] == ["0", "0"]


def test_what_takes_too_long_fails_for_a_while(postgres_url: str) -> None:
    limits = {"statement_timeout": 150, "idle_in_transaction_session_timeout": 150}
    with closing(Database(url_of(postgres_url, **limits))) as database:
        with pytest.raises(DBAPIError) as slow, database.read() as session:
            session.execute(text("SELECT pg_sleep(30)"))
        with database.write() as session:
            session.execute(text("SELECT 1"))
            time.sleep(0.5)
            with pytest.raises(DBAPIError) as idle:
                session.execute(text("SELECT 1"))
            session.rollback()
    assert is_outage(slow.value)
    assert is_outage(idle.value)


def test_a_lock_that_is_not_free_fails_for_a_while(postgres_url: str) -> None:
    with closing(Database(url_of(postgres_url, lock_timeout=150))) as database:
        database.upgrade()
        submit(database)
        lease = take(database)
        with database.write() as frozen:
            locked_with_comparison(frozen, lease)
            with pytest.raises(DBAPIError) as raised:
                state_machine.cancel(database, lease.job_id)
        assert is_outage(raised.value)
        assert state_machine.cancel(database, lease.job_id) is not None


def ask(database: Database, proxy: Proxy) -> None:
    """A statement of a read that is never answered."""
    with database.read() as session:
        session.execute(text("SELECT 1"))
        proxy.hang()
        session.execute(text("SELECT 2"))


def commit(database: Database, proxy: Proxy) -> None:
    """A commit that is never answered."""
    with database.write() as session:
        session.execute(text("SELECT 1"))
        proxy.hang()


@pytest.mark.parametrize("wait", [ask, commit])
def test_a_server_that_hangs_is_given_up(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, wait: Callable[[Database, Proxy], None]
) -> None:
    monkeypatch.setattr(ImpatientConnection, "reply_seconds", 0.5)
    with closing(Database(proxy.url)) as database:
        with pytest.raises(DBAPIError) as raised:
            wait(database, proxy)
        assert is_outage(raised.value)
        proxy.resume()
        with database.read() as session:
            assert session.scalar(text("SELECT 3")) == 3


def test_the_api_answers_503_while_its_database_hangs_and_then_goes_on(
    proxy: Proxy, tmp_path: Path
) -> None:
    """Whatever it was asked; the client's own limit of 30 s is the test's."""
    with live_api(tmp_path, proxy.url) as live:
        assert live.http.get("/v1/jobs").status_code == 200
        proxy.hang()
        paths = ["/v1/jobs", "/readyz", "/v1/workers", "/v1/jobs/rk_none"] * 3
        with ThreadPoolExecutor(len(paths)) as pool:
            answers = list(pool.map(live.http.get, paths))
        assert {answer.status_code for answer in answers} == {503}
        assert all("retry-after" in answer.headers for answer in answers)
        assert live.http.get("/healthz").status_code == 200
        proxy.resume()
        wait_until(lambda: live.http.get("/v1/jobs").status_code == 200, 20)


SHORT = {
    "lease": timedelta(seconds=4), "heartbeat": timedelta(seconds=0.5),
    "fence_margin": timedelta(seconds=2),
}  # fmt: skip


@pytest.mark.slow
def test_a_worker_is_fenced_while_a_call_of_the_database_hangs(
    proxy: Proxy, tmp_path: Path
) -> None:
    """Its process is killed by the clock, not when the call has come back."""
    with closing(Database(proxy.url)) as database:
        settings = Settings(data_dir=tmp_path, **SHORT)
        told = begin(database, tmp_path, [], settings=settings)
        proxy.hang()
        told.child.say(MetricValues(step=1, epoch=1.0, values={"loss": 1.0}))
        fenced: list[type[BaseException]] = []

        def run() -> None:
            try:
                told.run()
            except Fenced as error:
                fenced.append(type(error))

        running = threading.Thread(target=run)
        running.start()
        assert told.child.killed.wait(30)
        assert running.is_alive()  # it waits for the database
        running.join(60)
        assert fenced == [Fenced]
        proxy.resume()


def test_the_lease_counts_from_when_the_claim_was_sent(database: Database, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, **SHORT)
    told = begin(database, tmp_path, [], settings=settings, claim_took=3.0)
    with pytest.raises(Fenced):
        told.run()
    assert told.child.killed.is_set()


def test_a_session_that_freezes_while_it_ends_a_job_holds_up_no_other(postgres_url: str) -> None:
    """Neither reaping, nor sweeping, nor a cancel; what it has locked is stepped over."""
    with closing(Database(url_of(postgres_url))) as database:
        database.upgrade()
        _, (frozen, sibling, late) = submit_comparison(database, ranked=True)
        with database.write() as session:
            session.execute(
                text("UPDATE jobs SET waits_for = NULL, kind = 'finetune' WHERE parent IS NOT NULL")
            )
            session.execute(
                text("UPDATE jobs SET deadline_seconds = 1, deadline_at = now() WHERE id = :id"),
                {"id": late},
            )
        held = take(database)
        assert held.job_id == frozen
        lost = take(database, timedelta(seconds=-1))
        assert lost.job_id == sibling
        unrelated, cancelled = submit(database), submit(database)
        assert take(database, timedelta(seconds=-1)).job_id == unrelated
        with ExitStack() as freezing:
            locked_with_comparison(freezing.enter_context(database.write()), held)
            assert state_machine.reap(database, NOW) == [unrelated]
            assert state_machine.end_overdue(database) == []
            state_machine.settle_waiting(database)
            state_machine.advance_comparisons(database)
            job = state_machine.cancel(database, cancelled)
            assert job is not None
            assert job.status == "cancelled"
        assert state_machine.reap(database, NOW) == [sibling]
        assert state_machine.end_overdue(database) == [late]


def test_jobs_that_are_locked_are_announced_later(postgres_url: str) -> None:
    with closing(Database(url_of(postgres_url))) as database:
        database.upgrade()
        first, second = submit(database), submit(database)
        with database.write() as session:
            state_machine.locked_for_request(session, first)
            assert [job.id for job in unannounced_jobs(database, -1)] == [second]
        assert [job.id for job in unannounced_jobs(database, -1)] == [first, second]


def test_a_lock_of_equal_rankings_is_stepped_over(postgres_url: str) -> None:
    """By whoever settles; who submits an equal ranking waits for it."""
    with closing(Database(url_of(postgres_url))) as database, psycopg.connect(postgres_url) as held:
        database.upgrade()
        waiting = submit(database, waits_for="rk_gone")
        lock = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"
        held.execute(lock, ["pr_default x"])
        state_machine.settle_waiting(database)
        assert look(database, waiting).waits_for == "rk_gone"
        held.rollback()
        state_machine.settle_waiting(database)
        assert look(database, waiting).waits_for is None


DEAF = 'import time; print(\'{"type": "ready"}\', flush=True); time.sleep(3600)'


def test_an_order_to_a_process_that_does_not_read_holds_up_nobody(tmp_path: Path) -> None:
    """A pipe holds 64 KiB."""
    (tmp_path / "deaf.py").write_text(DEAF)
    child = ChildProcess(("deaf",), {"PYTHONPATH": str(tmp_path)})
    child.send(WorkOrder(spec={"name": "x" * 1_000_000}, scratch=tmp_path))
    child.send(WorkOrder(spec={}, scratch=tmp_path))
    assert child.alive
    child.kill()
    assert not child.alive


GOES_ON = "import os, time; os.close(1); time.sleep(3600)"


def test_a_process_that_closes_its_pipe_and_goes_on_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.supervisor.child_process.END_SECONDS", 0.2)
    (tmp_path / "silent.py").write_text(GOES_ON)
    child: Any = ChildProcess(("silent",), {"PYTHONPATH": str(tmp_path)})
    try:
        assert isinstance(child.receive(60), ProcessEnded)
        assert "SIGKILL" in child.how_it_ended()
    finally:
        child.kill()
