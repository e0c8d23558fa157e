"""What jobs become that share a ranking, wait for one or go on without it, on both databases."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from app.db import Database
from app.db.tables import DEFAULT_PROJECT, Job, JobEvent, JobKind, new_id
from app.jobs import state_machine
from app.jobs.shared_rankings import RankingKey
from app.jobs.state_machine import (
    enqueue,
    enqueue_with_ranking,
    queueing,
    share_ranking,
    sharing,
)
from app.jobs.webhooks.notices import Look
from app.process import restarts
from app.process.restarts import Restarts
from surgery.schemas.resolved import Learned
from tests.support.service.queued_comparisons import ERROR, new_job
from tests.support.service.queued_comparisons import submit as submit_comparison
from tests.support.service.queued_jobs import LEASE, RESOLVED, look, take

Json = dict[str, Any]
KEY = RankingKey(DEFAULT_PROJECT, "ranked")
LEARNED = Learned(versions={"torch": "2"}, labels=["no", "yes"])
PROGRESS = {"percent": 40.0, "step": 4, "total_steps": 10, "unit": "steps", "eta_seconds": 7.0}
WHOLE = {**PROGRESS, "percent": 100.0, "eta_seconds": 0.0}


def rank(database: Database, **values: Any) -> str:
    """Submit a ranking that shares the work of an equal one."""
    job = new_job(JobKind.RANKING, None, **{"digest": KEY.digest, **values})
    with database.write() as session:
        enqueue(session, job)
        share_ranking(session, job)
    return job.id


def tune(database: Database, key: RankingKey = KEY, **values: Any) -> str:
    """Submit a fine-tune that needs this ranking."""
    job = Job(
        id=new_id("ft"), kind=JobKind.FINETUNE, spec={}, labels={}, model="m", dataset="d",
        digest="tuned", max_attempts=3, resolved=RESOLVED, priority=0, project=key.project, **values,
    )  # fmt: skip
    with database.write() as session:
        enqueue_with_ranking(session, job, key)
    return job.id


def finish(database: Database, result: Json) -> str:
    lease = take(database)
    state_machine.renew(database, lease, LEASE, "score", PROGRESS)
    state_machine.finish(database, lease, result, LEARNED)
    return lease.job_id


def events(database: Database, job_id: str) -> list[tuple[str, int, Json]]:
    with database.read() as session:
        rows = session.scalars(
            select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.seq)
        ).all()
    return [(each.type, each.lease_epoch, each.data) for each in rows]


def waits_for(database: Database, *ids: str) -> list[str | None]:
    return [look(database, each).waits_for for each in ids]


def test_a_ranking_that_was_computed_is_taken_at_once(database: Database) -> None:
    first = rank(database)
    assert finish(database, {"scores": 1, "stopped": True}) == first
    second = look(database, rank(database))
    assert (second.status, second.result_of, second.waits_for) == ("succeeded", first, None)
    assert second.result == {"scores": 1, "stopped": True}
    assert second.own_result is None
    assert second.started_at is not None
    assert second.progress == {**WHOLE, "step": 4}
    learned = (second.resolved["versions"], second.resolved["labels"])
    assert learned == ({"torch": "2"}, ["no", "yes"])
    assert second.resolved["model"] == RESOLVED["model"]
    third = look(database, rank(database))
    assert third.result_of == first, "the one that has the result, not one that shares it"


@pytest.mark.parametrize("other", [{"digest": "another"}, {"project": "pr_other"}])
def test_another_ranking_is_not_shared(database: Database, other: Json) -> None:
    rank(database)
    assert waits_for(database, rank(database, **other)) == [None]


def test_the_urgent_one_hurries_the_one_it_waits_for(database: Database) -> None:
    first = rank(database, priority=2)
    before = look(database, first)
    calm, equal = rank(database, priority=1), rank(database, priority=2)
    assert waits_for(database, calm, equal) == [first, first]
    assert look(database, first).version == before.version
    urgent = rank(database, priority=3)
    after = look(database, first)
    assert (after.priority, look(database, urgent).waits_for) == (3, first)
    assert after.updated_at > before.updated_at


def test_all_that_waited_have_the_result(database: Database) -> None:
    first, second, third = rank(database), rank(database), rank(database)
    tuned = tune(database)
    assert waits_for(database, second, third, tuned) == [first] * 3
    finish(database, {"scores": 1})
    for job_id in (second, third):
        job = look(database, job_id)
        assert (job.status, job.result_of, job.waits_for) == ("succeeded", first, None)
    job = look(database, tuned)
    assert (job.status, job.waits_for, job.resolved["ranking"]) == ("queued", None, first)
    assert events(database, tuned)[1:] == [("ranking", 0, {"id": first})]


def test_a_fine_tune_that_waited_for_a_sharer_names_the_one_that_was_computed(
    database: Database,
) -> None:
    first, second = rank(database), rank(database)
    tuned = tune(database)
    with database.write() as session:
        job = session.get(Job, tuned)
        assert job is not None
        job.waits_for = second
    finish(database, {"scores": 1})
    state_machine.settle_waiting(database)
    assert look(database, tuned).resolved["ranking"] == first


def test_without_a_result_the_next_is_computed_and_the_others_wait_for_it(
    database: Database,
) -> None:
    first, second, third = rank(database), rank(database), rank(database)
    tuned, moved = tune(database), look(database, third).updated_at
    state_machine.fail(database, take(database), ERROR)
    assert waits_for(database, second, third, tuned) == [None, second, second]
    assert events(database, second)[1:] == [("ranking_given_up", 0, {"id": first})]
    assert look(database, third).updated_at > moved
    assert finish(database, {"scores": 2}) == second
    assert look(database, third).result_of == second
    assert look(database, tuned).resolved["ranking"] == second


def test_a_fine_tune_alone_computes_its_ranking_itself(database: Database) -> None:
    first, tuned = rank(database), tune(database)
    other = tune(database)
    before = look(database, tuned).updated_at
    state_machine.cancel(database, first)
    assert waits_for(database, tuned, other) == [None, None]
    assert "ranking" not in look(database, tuned).resolved
    assert look(database, tuned).updated_at > before
    assert events(database, other)[1:] == [("ranking_given_up", 0, {"id": first})]


def test_a_fine_tune_takes_a_ranking_that_was_computed(database: Database) -> None:
    first = rank(database)
    finish(database, {"scores": 1})
    tuned = look(database, tune(database))
    assert (tuned.status, tuned.waits_for, tuned.resolved["ranking"]) == ("queued", None, first)
    assert tuned.resolved["model"] == RESOLVED["model"]
    alone = look(database, tune(database, RankingKey(DEFAULT_PROJECT, "another")))
    assert (alone.waits_for, alone.resolved) == (None, RESOLVED)


def test_children_of_another_comparison_wait_for_their_own_ranking(database: Database) -> None:
    """A fine-tune of a comparison waits for its comparison's ranking, and is settled with it."""
    _, (ranking, waiting, _) = submit_comparison(database, ranked=True)
    follower = rank(database, digest="x")
    assert waits_for(database, follower, waiting) == [ranking, ranking]
    state_machine.cancel(database, ranking)
    assert waits_for(database, follower) == [None]
    child = look(database, waiting)
    assert (child.status, child.waits_for) == ("failed", ranking)


def test_one_that_is_gone_or_over_by_now_is_left_alone(database: Database) -> None:
    first, second = rank(database), rank(database)
    with database.write() as session:
        sharing.settle_one(session, "rk_none")
        sharing.settle_one(session, second)  # what it waits for goes on
    assert waits_for(database, second) == [first]
    state_machine.cancel(database, second)
    state_machine.cancel(database, first)
    before = look(database, second)
    with database.write() as session:
        sharing.settle_one(session, second)
    assert look(database, second).version == before.version


def test_only_the_one_that_was_meant_goes_on(database: Database) -> None:
    gone = [rank(database, waits_for="rk_gone") for _ in range(3)]
    with database.write() as session:
        for job_id in gone:  # each waits for what nobody has
            job = session.get(Job, job_id)
            assert job is not None
            job.waits_for, job.digest = "rk_gone", job_id
        session.flush()
        sharing.settle_one(session, gone[1])
    assert waits_for(database, *gone) == [gone[1], None, gone[1]]


@pytest.mark.parametrize("free", ["name", "comparison"])
def test_who_settles_it_already_is_not_waited_for(
    database: Database, monkeypatch: pytest.MonkeyPatch, free: str
) -> None:
    """The lock of the ranking's key comes first, then the comparison's row."""
    waiting, asked = rank(database), []
    with database.write() as session:
        job = session.get(Job, waiting)
        assert job is not None
        job.waits_for = "rk_gone"

    def try_name(_: Any, name: str) -> bool:
        asked.append(name)
        return free == "name"

    def try_comparison(_: Any, job_id: str) -> bool:
        asked.append(job_id)
        return False

    monkeypatch.setattr(sharing, "try_lock_name", try_name)
    monkeypatch.setattr(sharing, "try_lock_comparison", try_comparison)
    with database.write() as session:
        sharing.settle_one(session, waiting)
    assert asked == [KEY.lock, waiting][: 2 if free == "name" else 1]
    assert waits_for(database, waiting) == ["rk_gone"]


def test_a_fine_tune_is_queued_under_the_lock_of_its_ranking_and_when_it_was_seen(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked: list[str] = []
    monkeypatch.setattr(queueing, "lock_name", lambda _, name: locked.append(name))
    seen = Look(datetime(2026, 5, 1, tzinfo=UTC), told=False)
    job = new_job(JobKind.FINETUNE, None, priority=0, project=DEFAULT_PROJECT)
    with database.write() as session:
        enqueue_with_ranking(session, job, KEY, seen)
    assert (locked, look(database, job.id).queued_at) == ([KEY.lock], seen.now)


def test_what_cannot_go_on_now_goes_on_with_a_later_sweep(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The end of the one that it waited for is committed; only the step after it is not done."""
    first, second = rank(database), rank(database)

    def broken(_: Database) -> None:
        raise OperationalError("SELECT", {}, Exception("the server is gone"))

    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setattr(sharing, "settle_waiting", broken)
        finish(database, {"scores": 1})
    assert "go on later" in caplog.text
    assert "the server is gone" in caplog.text
    assert (look(database, first).status, look(database, second).status) == ("succeeded", "queued")
    state_machine.settle_waiting(database)
    assert look(database, second).status == "succeeded"


def test_one_that_fails_keeps_no_other_from_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    counted, seen = Restarts(), list[str]()
    monkeypatch.setattr(restarts, "RESTARTS", counted)

    def act(job_id: str) -> bool:
        seen.append(job_id)
        if job_id == "b":
            raise OperationalError("SELECT", {}, Exception("the server is gone"))
        return job_id != "c"

    assert sharing.each_of(["a", "b", "c", "d"], act) == ["a", "d"]
    assert seen == ["a", "b", "c", "d"]
    assert counted.counted() == {}, "an outage is not the sweeper's fault"
    assert sharing.each_of(["a"], lambda job_id: bool({}[job_id])) == []
    assert counted.counted() == {"sweeper": 1}
