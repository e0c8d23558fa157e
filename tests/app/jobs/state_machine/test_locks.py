"""Which rows each call locks, and how: as Postgres is asked for it, whatever the database.

A lock of a job is one that foreign keys of others may pass, and sweeps step over what is locked.
A claim, an end or a request waits for nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, update
from sqlalchemy.dialects import postgresql

from app.db import Database, db_now
from app.db.tables import WORKER_KINDS, Job
from app.jobs import state_machine
from app.jobs.state_machine import Lease, leases
from surgery.schemas.resolved import Learned
from tests.support.service.queued_comparisons import ERROR, RANKING, submit
from tests.support.service.queued_jobs import LEASE, look, take
from tests.support.service.queued_jobs import submit as submit_job

NOW = timedelta(0)
CLAUSE = re.compile(r"FOR (?:NO KEY )?(?:UPDATE|SHARE|KEY SHARE)(?: OF jobs)?(?: SKIP LOCKED)?")
WAITS, SKIPS = "FOR NO KEY UPDATE", "FOR NO KEY UPDATE SKIP LOCKED"


@contextmanager
def locking(database: Database) -> Iterator[list[str]]:
    """The locks that are asked for meanwhile: what follows FOR, of each statement that has it."""
    found: list[str] = []

    def note(_: Any, statement: Any, *__: Any) -> None:
        if statement.is_select or statement.is_update:
            words = str(statement.compile(dialect=postgresql.dialect()))
            found.extend(each.replace(" OF jobs", "") for each in CLAUSE.findall(words))

    event.listen(database.engine, "before_execute", note)
    yield found
    event.remove(database.engine, "before_execute", note)


def locks_of(database: Database, act: Callable[[], Any]) -> list[str]:
    with locking(database) as found:
        act()
    return found


def child_of_a_comparison(database: Database) -> Lease:
    """One that somebody works on; it has a sibling that waits."""
    submit(database)
    return take(database)


ENDS: dict[str, Callable[[Database, Lease], Any]] = {
    "finish": lambda d, lease: state_machine.finish(d, lease, {}, Learned()),
    "fail": lambda d, lease: state_machine.fail(d, lease, ERROR),
    "fail_overdue": state_machine.fail_overdue,
    "end_cancelled": state_machine.end_cancelled,
    "release": state_machine.release,
    "crash": lambda d, lease: state_machine.crash(d, lease, ERROR, NOW),
}


@pytest.mark.parametrize("how", ENDS)
def test_an_end_locks_the_comparison_and_then_the_job(database: Database, how: str) -> None:
    lease = child_of_a_comparison(database)
    with database.write() as session:
        session.execute(update(Job).values(deadline_seconds=10))
    found = locks_of(database, lambda: ENDS[how](database, lease))
    assert found[:2] == [WAITS, WAITS]
    # The children that go on after it are stepped over where another has them.
    assert set(found[2:]) <= {SKIPS}


def test_a_claim_steps_over_what_others_claim(database: Database) -> None:
    submit_job(database)
    found = locks_of(database, lambda: take(database))
    assert found == [SKIPS]
    assert state_machine.claim(database, "w", WORKER_KINDS, LEASE) is None


def test_a_heartbeat_locks_its_job(database: Database) -> None:
    lease = child_of_a_comparison(database)
    told = {"percent": 1.0}
    assert locks_of(database, lambda: state_machine.renew(database, lease, LEASE, None, told)) == [
        WAITS
    ]
    assert locks_of(database, lambda: state_machine.renew(database, lease, LEASE, None, None)) == []


@pytest.mark.parametrize("ask", [state_machine.cancel, state_machine.pause, state_machine.resume])
def test_a_request_locks_the_comparison_and_then_the_job(
    database: Database, ask: Callable[[Database, str], Any]
) -> None:
    lease = child_of_a_comparison(database)
    assert locks_of(database, lambda: ask(database, lease.job_id))[:2] == [WAITS, WAITS]


def test_it_is_the_comparison_of_the_job_that_is_locked(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, asked = child_of_a_comparison(database), []
    query = leases._comparison_of

    def note(job_id: str) -> Any:
        asked.append(job_id)
        return query(job_id)

    monkeypatch.setattr(leases, "_comparison_of", note)
    with database.write() as session:
        assert leases.try_lock_comparison(session, lease.job_id)
        assert leases.locked_for_request(session, lease.job_id) is not None
        assert leases.locked_with_comparison(session, lease).id == lease.job_id
    assert asked == [lease.job_id] * 3


def test_each_child_has_its_own_comparison(database: Database) -> None:
    alone = submit_job(database)
    for parent, children in [submit(database) for _ in range(2)]:
        with database.read() as session:
            for child in children:
                found = session.scalars(leases._comparison_of(child)).all()
                assert [each.id for each in found] == [parent]
            assert session.scalars(leases._comparison_of(alone)).all() == []


def test_a_sweep_waits_for_nobody(database: Database) -> None:
    lease = child_of_a_comparison(database)
    waiting = submit_job(database, waits_for="rk_gone")
    with database.write() as session:
        late = update(Job).where(Job.id == lease.job_id)
        session.execute(late.values(lease_expires_at=db_now(-1)))

    def sweep() -> None:
        assert state_machine.reap(database, NOW) == [lease.job_id]
        with database.write() as session:
            overdue = update(Job).where(Job.id == lease.job_id)
            session.execute(overdue.values(deadline_seconds=1, deadline_at=db_now(-1)))
        assert state_machine.end_overdue(database) == [lease.job_id]
        state_machine.advance_comparisons(database)

    found = locks_of(database, sweep)
    assert set(found) == {SKIPS}
    # Comparison and job of each, what goes on after the end, and the sweep of comparisons.
    assert len(found) >= 7
    assert look(database, waiting).waits_for is None


def test_a_ranking_that_ends_locks_nothing_of_others(database: Database) -> None:
    parent, (_, waiting, _) = submit(database, ranked=True)
    lease = take(database)
    found = locks_of(database, lambda: state_machine.finish(database, lease, RANKING, Learned()))
    assert found == [WAITS, WAITS, SKIPS]
    assert look(database, waiting).waits_for is None
    assert look(database, parent).status == "running"
