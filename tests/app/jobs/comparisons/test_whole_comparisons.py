"""What a request to a comparison writes, in its own row and in those of its children."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from app.db import Database
from app.db.tables import Job, JobKind
from app.errors import Conflict
from app.jobs import state_machine
from app.jobs.state_machine import children as family
from app.jobs.state_machine import queueing
from app.jobs.webhooks.notices import Look
from app.process import restarts
from app.process.restarts import Restarts
from surgery.schemas.answers.usage import Usage
from surgery.schemas.resolved import Learned
from tests.app.jobs.state_machine.test_whole_rows import (
    AGO,
    LONG,
    NOW,
    PROGRESS,
    change,
    put_back,
    status_event,
)
from tests.app.jobs.state_machine.test_whole_rows import SPENT as SPENT_BY_ONE
from tests.support.service.queued_comparisons import ERROR, RANKING, new_job, submit
from tests.support.service.queued_jobs import LEASE, look, statuses, take

Json = dict[str, Any]
THEN = f"-{AGO} s"


def aged(database: Database, *ids: str, **values: Any) -> None:
    for job_id in ids:
        put_back(database, job_id, **values)


def test_a_new_comparison(database: Database) -> None:
    parent, made = submit(database)
    job = look(database, parent)
    assert (job.status, job.started_at is not None) == ("running", True)
    assert statuses(database, parent) == ["queued", "running"]
    assert [statuses(database, child) for child in made] == [["queued"], ["queued"]]
    queued = [look(database, each).queued_at for each in (parent, *made)]
    assert queued == sorted(set(queued)), "each later than the one before"


def test_its_jobs_are_queued_when_they_were_seen_one_after_the_other(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rankings look for equal ones in one order, whichever comparison they are of."""
    seen, shared = Look(datetime(2026, 5, 1, tzinfo=UTC), told=False), list[str]()
    monkeypatch.setattr(queueing, "share_ranking", lambda _, job: shared.append(job.digest))
    parent = new_job(JobKind.COMPARISON, None)
    children = [new_job(JobKind.RANKING, parent.id, digest=each) for each in ("b", "c", "a")]
    with database.write() as session:
        state_machine.enqueue_comparison(session, parent, children, seen)
    queued = [look(database, job.id).queued_at - seen.now for job in (parent, *children)]
    assert queued == [timedelta(microseconds=place) for place in range(4)]
    assert shared == ["a", "b", "c"]


def test_a_cancel_of_a_comparison(database: Database) -> None:
    parent, (running, waiting) = submit(database)
    lease = take(database, LONG)
    assert lease.job_id == running
    aged(database, parent, running, waiting, progress=PROGRESS)
    asked: Json = {"cancel_requested": True, "updated_at": NOW}

    def cancel() -> None:
        assert state_machine.cancel(database, parent, by="key_1").cancel_requested  # type: ignore[union-attr]

    written, history = change(database, parent, cancel)
    written.pop("usage", None)
    assert written == asked
    assert history == [("cancel_requested", 0, NOW, {"by": "key_1"})]
    child = look(database, running)
    assert (child.status, child.cancel_requested) == ("running", True)
    ended = look(database, waiting)
    told = f"comparison {parent} was cancelled"
    assert (ended.status, ended.error["detail"]) == ("cancelled", told)  # type: ignore[index]
    written, history = change(
        database, parent, lambda: state_machine.end_cancelled(database, lease, SPENT_BY_ONE)
    )
    assert (written["status"], written["finished_at"]) == ("cancelled", NOW)
    assert written["error"]["detail"] == "cancelled on request of key_1"
    assert Usage.of(written["usage"]) == SPENT_BY_ONE
    assert history == [status_event("cancelled", 0, code="cancelled")]
    assert look(database, running).error["detail"] == told  # type: ignore[index]


def test_the_cancel_of_a_child_says_who_asked(database: Database) -> None:
    parent, (child, _) = submit(database)
    aged(database, parent, child)

    def cancel() -> None:
        state_machine.cancel(database, parent, by="key_1")

    _, history = change(database, child, cancel)
    assert history[0] == ("cancel_requested", 0, NOW, {"by": "key_1", "comparison": parent})


def test_the_last_cancel_is_the_one_that_is_told(database: Database) -> None:
    """Whatever else has happened since."""
    parent, _ = submit(database)
    lease = take(database, LONG)
    state_machine.cancel(database, lease.job_id, by="key_1")
    state_machine.cancel(database, parent, by="key_2")
    with database.write() as session:
        state_machine.record_event(session, lease.job_id, 1, "test", {"by": "key_3"})
    state_machine.end_cancelled(database, lease)
    error = look(database, lease.job_id).error
    assert error is not None
    assert error["detail"] == f"comparison {parent} was cancelled"


def test_a_pause_of_a_comparison_and_its_end(database: Database) -> None:
    parent, (running, waiting) = submit(database)
    lease = take(database, LONG)
    aged(database, parent, running, waiting, progress=PROGRESS)
    written, history = change(database, parent, lambda: state_machine.pause(database, parent))
    written.pop("usage", None)
    assert written == {"pause_requested": True, "updated_at": NOW}
    assert history == [("pause_requested", 0, NOW, {})]
    assert (look(database, running).pause_requested, look(database, waiting).status) == (
        True, "paused",
    )  # fmt: skip
    aged(database, parent)
    written, history = change(database, parent, lambda: state_machine.release(database, lease))
    written.pop("usage", None)
    assert written.pop("progress")["eta_seconds"] is None
    assert (written["status"], written["pause_requested"]) == ("paused", False)
    assert history == [status_event("paused", 0)]
    with pytest.raises(Conflict, match=f"belongs to comparison {parent}, which is paused"):
        state_machine.resume(database, waiting)
    aged(database, parent, running, waiting)
    queued: list[str] = []

    def resume() -> None:
        job, again = state_machine.resume(database, parent)
        assert (job.id, job.status) == (parent, "running")  # type: ignore[union-attr]
        queued.extend(each.id for each in again)

    written, history = change(database, parent, resume)
    assert written == {
        "status": "running", "updated_at": NOW,
        "transitions": [{"status": "running", "at": NOW, "reason": "resumed"}],
    }  # fmt: skip
    assert history == [status_event("running", 0, reason="resumed")]
    assert sorted(queued) == sorted([running, waiting])
    for child in queued:
        assert look(database, child).transitions[-1]["reason"] == "resumed"


def test_a_child_of_a_comparison_that_shall_pause_is_not_resumed(database: Database) -> None:
    parent, (running, waiting) = submit(database)
    take(database, LONG)
    state_machine.pause(database, parent)
    assert look(database, parent).status == "running"
    with pytest.raises(Conflict, match="which is paused"):
        state_machine.resume(database, waiting)
    state_machine.resume(database, parent)
    assert not look(database, running).pause_requested
    state_machine.pause(database, waiting)
    state_machine.resume(database, waiting)  # the comparison itself goes on
    assert look(database, waiting).status == "queued"


def test_a_pause_leaves_a_child_that_is_cancelled_or_over(database: Database) -> None:
    parent, (cancelled, ended) = submit(database)
    take(database, LONG)
    other = take(database, LONG)
    state_machine.cancel(database, cancelled)
    state_machine.fail(database, other, ERROR)
    state_machine.pause(database, parent)
    assert not look(database, cancelled).pause_requested
    assert (look(database, ended).status, look(database, parent).pause_requested) == (
        "failed",
        True,
    )


def test_the_end_of_a_child_is_a_change_of_its_comparison(database: Database) -> None:
    parent, _ = submit(database)
    lease = take(database, LONG)
    take(database, LONG)
    aged(database, parent)
    written, history = change(
        database, parent, lambda: state_machine.fail(database, lease, ERROR, SPENT_BY_ONE)
    )
    assert Usage.of(written.pop("usage")) == SPENT_BY_ONE
    assert written == {"updated_at": NOW}
    assert history == []


def test_a_comparison_that_is_over_is_not_advanced(database: Database) -> None:
    parent, _ = submit(database)
    state_machine.cancel(database, parent)
    with database.write() as session:
        session.execute(update(Job).where(Job.parent == parent).values(status="succeeded"))
    aged(database, parent)
    assert change(database, parent, lambda: advance(database, parent)) == ({}, [])


def test_a_sweep_advances_each_comparison_that_goes_on_whatever_becomes_of_another(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    going_on, over, paused, broken, gone = (submit(database)[0] for _ in range(5))
    state_machine.cancel(database, over)
    state_machine.pause(database, paused)
    counted, advanced = Restarts(), list[str]()
    monkeypatch.setattr(restarts, "RESTARTS", counted)

    def note(_: Any, comparison: Job) -> None:
        if comparison.id == broken:
            raise LookupError("unheard of")
        if comparison.id == gone:
            raise OperationalError("SELECT", {}, Exception("the server is gone"))
        advanced.append(comparison.id)

    monkeypatch.setattr(family, "advance_comparison", note)
    state_machine.advance_comparisons(database)
    assert sorted(advanced) == sorted([going_on, paused])
    assert counted.counted() == {"sweeper": 1}


def advance(database: Database, parent: str) -> None:
    with database.write() as session:
        comparison = session.get(Job, parent)
        assert comparison is not None
        family.advance_comparison(session, comparison)


def test_a_job_without_a_comparison_has_a_parent_that_stays_as_it_is(database: Database) -> None:
    """A search that a fine-tune has made is its child; the fine-tune does not advance."""
    parent, (first, second) = submit(database)
    with database.write() as session:
        tied = update(Job).where(Job.id == second)
        session.execute(tied.values(parent=first, kind=JobKind.RANKING))
    aged(database, first, parent)
    assert change(database, first, lambda: state_machine.cancel(database, second)) == ({}, [])


@pytest.mark.parametrize("how", ["failed", "cancelled"])
def test_a_child_whose_ranking_gave_no_result(database: Database, how: str) -> None:
    parent, (ranking, waiting, _) = submit(database, ranked=True)
    aged(database, waiting, parent)

    def end() -> None:
        if how == "failed":
            state_machine.fail(database, take(database), ERROR)
        else:
            state_machine.cancel(database, ranking)

    written, history = change(database, waiting, end)
    code = {"failed": "out_of_memory", "cancelled": "cancelled"}[how]
    assert written["error"]["code"] == code  # whose fault it is, says the cause
    assert ranking in written["error"]["detail"]
    assert (written["status"], written["finished_at"]) == ("failed", NOW)
    assert history == [status_event("failed", 0, code=code)]
    assert look(database, parent).status == "running"


def test_a_child_learns_its_ranking(database: Database) -> None:
    _, (ranking, waiting, _) = submit(database, ranked=True)
    lease = take(database)
    assert lease.job_id == ranking
    aged(database, waiting)
    written, history = change(
        database, waiting, lambda: state_machine.finish(database, lease, RANKING, Learned())
    )
    resolved = written.pop("resolved")
    assert (resolved["ranking"], resolved["arm"]) == (ranking, "a")
    assert written == {"waits_for": None, "updated_at": NOW}
    assert history == [("ranking", 0, NOW, {"id": ranking})]
    assert take(database, LEASE).job_id == waiting
