"""The heartbeat of an attempt: what it writes, what it learns, and when it gives the lease up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.exc import DataError, OperationalError

from app.db import Database, db_now
from app.db.tables import Job
from app.jobs import state_machine
from app.jobs.state_machine import Fenced, Lease, Renewal
from app.settings import Settings
from surgery.schemas.answers.usage import Usage
from surgery.schemas.resolved import PeakMemory
from tests.support.service.queued_jobs import look, submit, take
from tests.support.service.services import wait_until
from worker.supervisor.attempt import heartbeat
from worker.supervisor.attempt.heartbeat import REASON_CHARACTERS, Heartbeat, WriteRefused

SPENT = Usage(worker_seconds={"cpu": 2.5}, peak_memory_bytes=PeakMemory(host=700, device=None))
HOUR = timedelta(hours=1)
SOON = timedelta(seconds=0.05)
# Of a lease of 3000 s, 2000 may pass before it is given up.
MARGIN = {"term": timedelta(seconds=3000), "fence_margin": timedelta(seconds=1000)}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress may be written at once."""
    monkeypatch.setattr(heartbeat, "PROGRESS_SECONDS", 0.01)


def heart(
    database: Database,
    lease: Lease,
    *,
    age: float = 0.0,
    term: timedelta = HOUR,
    **settings: timedelta,
) -> Heartbeat:
    """The heartbeat of a lease that was claimed ``age`` seconds ago for a ``term``."""
    given = {"heartbeat": SOON, "lease": term, "fence_margin": timedelta(seconds=1), **settings}
    claimed_at = time.monotonic() - age
    return Heartbeat(Settings.model_validate(given), database, lease, claimed_at, lambda: SPENT)


def leased(database: Database) -> Lease:
    submit(database)
    return take(database, HOUR)


def test_it_renews_the_lease_and_writes_what_it_was_told(database: Database) -> None:
    lease = leased(database)
    with heart(database, lease) as beating:
        beating.set_progress("train", {"percent": 12.0})
        wait_until(lambda: look(database, lease.job_id).progress == {"percent": 12.0}, 20)
        job = look(database, lease.job_id)
        assert (job.phase, Usage.of(job.usage)) == ("train", SPENT)
        first = job.heartbeat_at
        wait_until(lambda: look(database, lease.job_id).heartbeat_at != first, 20)
        beating.check()
        assert not beating.cancel_requested.is_set()
        assert not beating.pause_requested.is_set()
        assert not beating.is_overdue()


def test_the_first_one_says_that_the_job_is_starting(database: Database) -> None:
    lease = leased(database)
    with database.write() as session:
        session.execute(update(Job).values(phase=None, progress={"percent": 3.0}))
    with heart(database, lease):
        wait_until(lambda: look(database, lease.job_id).phase == "starting", 20)
    assert look(database, lease.job_id).progress == {"percent": 3.0}


def test_progress_does_not_wait_for_the_next_beat(database: Database) -> None:
    lease = leased(database)
    with heart(database, lease, heartbeat=timedelta(minutes=10)) as beating:
        beating.set_progress("train", None)
        wait_until(lambda: look(database, lease.job_id).phase == "train", 20)


def test_a_beat_is_due_a_pause_after_the_one_before(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the first, which comes a pause after the claim: one that is long ago makes it due."""
    lease = leased(database)
    monkeypatch.setattr(heartbeat, "PROGRESS_SECONDS", 600.0)
    with heart(database, lease, heartbeat=timedelta(minutes=10)) as early:
        early.set_progress("train", None)
        time.sleep(0.3)
    assert look(database, lease.job_id).phase == "starting", "ten minutes are not over"
    due = heart(database, lease, age=601.0, heartbeat=timedelta(minutes=10))
    due.set_progress("train", None)
    with due:
        wait_until(lambda: look(database, lease.job_id).phase == "train", 20)


def test_it_learns_of_requests_and_of_the_deadline(database: Database) -> None:
    lease = leased(database)
    with database.write() as session:
        session.execute(update(Job).values(deadline_at=db_now(1000)))
    with heart(database, lease) as beating:
        state_machine.pause(database, lease.job_id)
        assert beating.pause_requested.wait(20)
        assert not beating.cancel_requested.is_set()
        assert not beating.is_overdue(), "it has a quarter of an hour"
        state_machine.cancel(database, lease.job_id)
        assert beating.cancel_requested.wait(20)
        with database.write() as session:
            session.execute(update(Job).values(deadline_at=db_now(-1)))
        wait_until(beating.is_overdue, 20)


def test_a_lease_that_was_lost_stops_it(database: Database) -> None:
    lease = leased(database)
    with heart(database, lease) as beating:
        with database.write() as session:
            session.execute(update(Job).values(lease_epoch=2))
        wait_until(lambda: not beating._thread.is_alive(), 20)
        for _ in range(2):
            with pytest.raises(Fenced):
                beating.check()


def test_the_lease_is_given_up_a_margin_before_its_end(database: Database) -> None:
    """By the clock, whether it beats or not."""
    lease = leased(database)
    heart(database, lease, age=1900.0, **MARGIN).check()
    late = heart(database, lease, age=2000.0, **MARGIN)
    with pytest.raises(Fenced):
        late.check()


def test_the_guard_kills_by_the_clock_and_every_check_says_so(database: Database) -> None:
    beating, killed = heart(database, leased(database), age=1999.5, **MARGIN), threading.Event()
    with beating.guard(killed.set):
        assert killed.wait(20)
        beating._renewed = time.monotonic()  # as if a renewal was answered after all
        with pytest.raises(Fenced):
            beating.check()


def test_the_guard_kills_nothing_that_was_renewed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks again when it wakes: the lease may have been renewed meanwhile."""
    beating, killed = heart(database, leased(database), **MARGIN), threading.Event()
    ends, again = [time.monotonic()], threading.Event()

    def fence_at() -> float:
        if ends:
            return ends.pop()
        again.set()
        return time.monotonic() + 1000

    monkeypatch.setattr(beating, "_fence_at", fence_at)
    with beating.guard(killed.set):
        assert again.wait(20)
        time.sleep(0.2)
        assert not killed.is_set()
        beating.check()
        guards = [each for each in threading.enumerate() if each.name == "fence"]
    for guard in guards:  # the block is over, and with it what could kill
        guard.join(20)
        assert not guard.is_alive()
    assert not killed.is_set()


def failing(error: Exception, times: int) -> Callable[..., Any]:
    """`renew`, which fails so many times before it works."""
    left, renew = [error] * times, state_machine.renew

    def beat(*arguments: Any) -> Any:
        if left:
            raise left.pop()
        return renew(*arguments)

    return beat


def test_an_outage_is_survived_and_the_lease_counts_from_the_last_answer(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lease = leased(database)
    gone = OperationalError("UPDATE", {}, Exception("database is locked"))
    monkeypatch.setattr(state_machine, "renew", failing(gone, 2))
    claimed = time.monotonic() - 1500
    with caplog.at_level(logging.WARNING), heart(database, lease, age=1500, **MARGIN) as beating:
        wait_until(lambda: "heartbeat failed" in caplog.text, 20)
        wait_until(lambda: beating._renewed > claimed + 1000, 20)
        beating.check()
    [first, *_] = [each for each in caplog.records if "heartbeat failed" in each.getMessage()]
    assert first.getMessage().startswith(f"{lease.job_id}: heartbeat failed, trying again: ")
    assert "database is locked" in first.getMessage()
    assert (first.job_id, first.epoch) == (lease.job_id, lease.epoch)  # type: ignore[attr-defined]


def test_the_lease_counts_from_when_the_renewal_was_sent(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, renew, hung = leased(database), state_machine.renew, threading.Event()

    def slow(*arguments: Any) -> Any:
        hung.wait(20)
        return renew(*arguments)

    monkeypatch.setattr(state_machine, "renew", slow)
    beating = heart(database, lease, age=100)
    before = time.monotonic()
    answering = threading.Thread(target=beating._renew)
    answering.start()
    time.sleep(0.2)
    answered = time.monotonic()
    hung.set()
    answering.join(20)
    assert before <= beating._renewed < answered


def test_what_the_database_refuses_for_good_is_said_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = leased(database)
    words = "no such thing " + "x" * 400 + "\nDETAIL: more"
    refused = DataError("UPDATE", {}, Exception(words))
    monkeypatch.setattr(state_machine, "renew", failing(refused, 99))
    with heart(database, lease) as beating:
        wait_until(lambda: not beating._thread.is_alive(), 20)
        with pytest.raises(WriteRefused) as raised:
            beating.check()
        assert str(raised.value) == words[:REASON_CHARACTERS]
        beating.check()  # whoever asked has been told


def test_its_thread_has_the_context_of_the_attempt(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that its messages say which job they are about."""
    subject, seen = ContextVar("subject", default=""), list[str]()
    subject.set("this job")

    def renew(*_: Any) -> Renewal:
        seen.append(subject.get())
        return Renewal(cancel_requested=False, pause_requested=False, seconds_left=None)

    monkeypatch.setattr(state_machine, "renew", renew)
    beating = heart(database, leased(database))
    subject.set("another one")
    with beating:
        wait_until(lambda: seen, 20)
    assert set(seen) == {"this job"}


def test_a_refusal_has_the_database_s_first_line() -> None:
    refused = WriteRefused.by(DataError("UPDATE", {}, Exception("  bad \x00 value\nDETAIL: x\ny")))
    assert str(refused) == "bad \\x00 value"
    assert str(WriteRefused.by(ValueError("half \ud83d of it"))) == "half \\ud83d of it"


def test_it_ends_with_its_block_also_while_it_waits(database: Database) -> None:
    lease = leased(database)
    with heart(database, lease, heartbeat=timedelta(minutes=10)) as beating:
        pass
    assert not beating._thread.is_alive()
    assert beating._thread.name == "heartbeat"
