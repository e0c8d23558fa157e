"""Pausing and resuming jobs and comparisons, on both databases."""

from __future__ import annotations

from datetime import timedelta

import pytest

from app.artifacts.attempt_logs import log_key
from app.db import Database
from app.db.tables import WORKER_KINDS, Status
from app.errors import Conflict
from app.jobs import state_machine
from app.jobs.outputs import records
from app.jobs.queue import unannounced_jobs
from app.jobs.state_machine import Fenced
from surgery.schemas.resolved import Learned
from tests.support.service.queued_comparisons import RANKING, finish
from tests.support.service.queued_comparisons import submit as submit_comparison
from tests.support.service.queued_jobs import LEASE, look, statuses, submit, take

ERROR = {"code": "worker_lost", "detail": "gone"}
NOW = timedelta(0)


def state_of(database: Database, job_id: str) -> tuple[str, bool, bool]:
    job = look(database, job_id)
    return job.status, job.pause_requested, job.cancel_requested


def test_a_queued_job_is_paused_at_once_and_keeps_its_place(database: Database) -> None:
    first, second = submit(database), submit(database)
    for _ in range(2):
        job = state_machine.pause(database, first)
        assert job is not None
        assert (job.status, job.pause_requested) == (Status.PAUSED, False)
    assert first not in [job.id for job in unannounced_jobs(database, -1)]
    lease = take(database)
    assert lease.job_id == second
    assert state_machine.claim(database, "w", WORKER_KINDS, LEASE) is None
    assert state_machine.reap(database, NOW) == []
    state_machine.release(database, lease)
    resumed, queued = state_machine.resume(database, first)
    assert resumed is not None
    assert [job.id for job in queued] == [first]
    assert take(database).job_id == first  # before the second, as when it was submitted
    assert statuses(database, first) == ["queued", "paused", "queued", "running"]


def test_a_running_job_saves_its_state_and_frees_its_worker_uncharged(database: Database) -> None:
    job_id = submit(database)
    lease = take(database)
    for _ in range(2):
        state_machine.pause(database, job_id)
        assert state_of(database, job_id) == ("running", True, False)
    assert state_machine.renew(database, lease, LEASE, "train", None).pause_requested
    records.commit_state(database, lease, "jobs/state-5", 5, 10)
    state_machine.release(database, lease)
    job = look(database, job_id)
    assert (job.status, job.pause_requested, job.crashes) == (Status.PAUSED, False, 0)
    assert job.state == {"path": "jobs/state-5", "step": 5, "bytes": 10}
    assert records.referenced_paths(database) == {"jobs/state-5", log_key(job_id, lease.epoch)}
    for write in (
        lambda: state_machine.renew(database, lease, LEASE, None, None),
        lambda: state_machine.finish(database, lease, {}, Learned()),
        lambda: state_machine.release(database, lease),
    ):
        with pytest.raises(Fenced):
            write()
    state_machine.resume(database, job_id)
    again = take(database)
    assert (again.job_id, again.epoch) == (job_id, lease.epoch + 1)


@pytest.mark.parametrize("how", ["crashes", "is lost"])
def test_a_job_whose_attempt_dies_while_it_shall_pause_is_paused(
    database: Database, how: str
) -> None:
    job_id = submit(database, max_attempts=1)
    lease = take(database, LEASE if how == "crashes" else timedelta(seconds=-1))
    state_machine.pause(database, job_id)
    if how == "crashes":
        assert state_machine.crash(database, lease, ERROR, NOW) is Status.PAUSED
    else:
        assert state_machine.reap(database, NOW) == [job_id]
    assert state_of(database, job_id) == ("paused", False, False)
    assert look(database, job_id).crashes == 0


def test_a_job_that_ends_before_it_pauses_has_ended(database: Database) -> None:
    job_id = submit(database)
    lease = take(database)
    state_machine.pause(database, job_id)
    state_machine.finish(database, lease, {"answer": 1}, Learned())
    assert look(database, job_id).result == {"answer": 1}
    with pytest.raises(Conflict, match=r"is over: it succeeded.*possible now: delete"):
        state_machine.pause(database, job_id)
    with pytest.raises(Conflict, match="so resume is not possible"):
        state_machine.resume(database, job_id)


def test_a_cancel_precedes_a_pause(database: Database) -> None:
    job_id = submit(database)
    lease = take(database)
    state_machine.pause(database, job_id)
    state_machine.cancel(database, job_id)
    assert state_of(database, job_id) == ("running", False, True)
    with pytest.raises(Conflict, match="is being cancelled"):
        state_machine.pause(database, job_id)
    with pytest.raises(Conflict, match="is being cancelled"):
        state_machine.resume(database, job_id)
    state_machine.release(database, lease)  # the worker heard of the pause first
    assert state_of(database, job_id) == ("cancelled", False, True)


def test_a_paused_job_can_be_cancelled(database: Database) -> None:
    job_id = submit(database)
    state_machine.pause(database, job_id)
    state_machine.cancel(database, job_id)
    assert statuses(database, job_id) == ["queued", "paused", "cancelled"]


def test_resuming_before_the_worker_stops_withdraws_the_request(database: Database) -> None:
    job_id = submit(database)
    lease = take(database)
    state_machine.pause(database, job_id)
    _, queued = state_machine.resume(database, job_id)
    assert queued == []
    assert state_of(database, job_id) == ("running", False, False)
    state_machine.release(database, lease, "resumed")  # it had stopped the process by then
    assert state_of(database, job_id) == ("queued", False, False)
    state_machine.resume(database, job_id)  # changes nothing
    assert statuses(database, job_id) == ["queued", "running", "queued"]


def test_resuming_does_not_wait_out_an_earlier_crash(database: Database) -> None:
    job_id = submit(database)
    state_machine.crash(database, take(database), ERROR, timedelta(hours=1))
    state_machine.pause(database, job_id)
    state_machine.resume(database, job_id)
    assert take(database).job_id == job_id
    assert look(database, job_id).crashes == 1


def test_a_comparison_is_paused_when_none_of_its_children_runs(database: Database) -> None:
    parent, children = submit_comparison(database, seeds=2)
    first, second = take(database), take(database)
    for _ in range(2):
        state_machine.pause(database, parent)
        assert [state_of(database, child) for child in children] == [
            ("running", True, False), ("running", True, False),
            ("paused", False, False), ("paused", False, False),
        ]  # fmt: skip
        assert state_of(database, parent) == ("running", True, False)
    state_machine.release(database, first)
    assert state_of(database, parent) == ("running", True, False)
    finish(database, second)  # it ended before it heard of the pause
    assert state_of(database, parent) == ("paused", False, False)
    state_machine.advance_comparisons(database)
    assert statuses(database, parent) == ["queued", "running", "paused"]
    with pytest.raises(Conflict, match=f"/v1/jobs/{parent}/resume"):
        state_machine.resume(database, children[3])
    _, queued = state_machine.resume(database, parent)
    assert {job.id for job in queued} == {children[0], children[2], children[3]}
    for _ in queued:
        finish(database, take(database))
    assert statuses(database, parent) == ["queued", "running", "paused", "running", "succeeded"]


def test_a_paused_child_learns_of_its_ranking_and_waits_to_be_resumed(database: Database) -> None:
    parent, (ranking, waiting, other) = submit_comparison(database, ranked=True)
    first, second = take(database), take(database)
    assert (first.job_id, second.job_id) == (ranking, other)
    state_machine.pause(database, parent)
    state_machine.finish(database, first, RANKING, Learned())
    finish(database, second)
    child = look(database, waiting)
    assert (child.status, child.waits_for, child.resolved["ranking"]) == ("paused", None, ranking)
    assert look(database, parent).status == Status.PAUSED
    state_machine.resume(database, parent)
    finish(database, take(database))
    assert look(database, parent).status == Status.SUCCEEDED


def test_a_child_can_be_paused_alone(database: Database) -> None:
    parent, children = submit_comparison(database)
    state_machine.pause(database, children[0])
    finish(database, take(database))
    assert state_of(database, parent) == ("running", False, False)
    assert state_machine.claim(database, "w", WORKER_KINDS, LEASE) is None
    state_machine.resume(database, parent)  # resumes whatever is paused
    finish(database, take(database))
    assert look(database, parent).status == Status.SUCCEEDED


def test_resuming_a_comparison_that_still_pauses_lets_its_children_go_on(
    database: Database,
) -> None:
    parent, children = submit_comparison(database)
    first = take(database)
    state_machine.pause(database, parent)
    _, queued = state_machine.resume(database, parent)
    assert [job.id for job in queued] == [children[1]]
    assert [state_of(database, job) for job in (parent, *children)] == [
        ("running", False, False), ("running", False, False), ("queued", False, False),
    ]  # fmt: skip
    finish(database, first)
    finish(database, take(database))
    assert statuses(database, parent) == ["queued", "running", "succeeded"]


def test_a_paused_comparison_is_cancelled_whole(database: Database) -> None:
    parent, children = submit_comparison(database)
    state_machine.pause(database, parent)
    job = state_machine.cancel(database, parent)
    assert job is not None
    assert job.status == Status.CANCELLED
    assert {look(database, child).status for child in children} == {Status.CANCELLED}


def test_a_paused_comparison_ends_with_the_last_of_its_paused_children(database: Database) -> None:
    parent, children = submit_comparison(database)
    finish(database, take(database))
    state_machine.pause(database, parent)
    state_machine.cancel(database, children[1])
    assert look(database, parent).status == Status.SUCCEEDED
