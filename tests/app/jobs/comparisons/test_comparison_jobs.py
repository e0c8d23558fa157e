"""A comparison moves on with its children, on both databases."""

from __future__ import annotations

from datetime import timedelta

import pytest

from app.db import Database
from app.db.tables import WORKER_KINDS, JobKind, Status
from app.jobs import state_machine
from app.jobs.outputs import records
from app.jobs.queue import unannounced_jobs
from surgery.schemas.resolved import Learned
from tests.support.service.queued_comparisons import ERROR, NOW, RANKING, finish, submit
from tests.support.service.queued_jobs import LEASE, look, statuses, take


def test_the_last_child_ends_the_comparison(database: Database) -> None:
    parent, children = submit(database, seeds=2)
    for place in range(4):
        assert look(database, parent).status == Status.RUNNING
        lease = take(database)
        assert lease.job_id == children[place]
        finish(database, lease, 0.5 + place / 10)
    job = look(database, parent)
    assert statuses(database, parent) == ["queued", "running", "succeeded"]
    assert job.result is not None
    assert [arm["metric"]["mean"] for arm in job.result["arms"]] == pytest.approx([0.55, 0.75])
    assert job.progress is not None
    assert (job.progress["step"], job.progress["percent"]) == (4, 100.0)
    assert job.finished_at is not None


def test_no_worker_claims_a_comparison_and_none_takes_it_back(database: Database) -> None:
    parent, children = submit(database)
    assert {take(database).job_id, take(database).job_id} == set(children)
    assert state_machine.claim(database, "w", list(JobKind), LEASE) is None
    assert state_machine.reap(database, NOW) == []
    assert look(database, parent).status == Status.RUNNING


def test_children_wait_for_their_ranking_and_then_know_it(database: Database) -> None:
    parent, (ranking, waiting, other) = submit(database, ranked=True)
    first, second = take(database), take(database)
    assert (first.job_id, second.job_id) == (ranking, other)
    assert state_machine.claim(database, "w", WORKER_KINDS, LEASE) is None
    assert waiting not in [job.id for job in unannounced_jobs(database, -1)]
    state_machine.finish(database, first, RANKING, Learned())
    lease = take(database)
    child = look(database, waiting)
    assert (lease.job_id, child.resolved["ranking"]) == (waiting, ranking)
    assert records.awaited_result(database, child, JobKind.RANKING) == RANKING
    finish(database, lease)
    finish(database, second)
    assert look(database, parent).status == Status.SUCCEEDED


@pytest.mark.parametrize("how", ["failed", "cancelled"])
def test_without_its_ranking_a_child_fails_and_the_others_go_on(
    database: Database, how: str
) -> None:
    parent, (ranking, waiting, _) = submit(database, ranked=True)
    if how == "failed":
        state_machine.fail(database, take(database), ERROR)
    else:
        state_machine.cancel(database, ranking)
    child = look(database, waiting)
    assert child.status == Status.FAILED
    assert child.error is not None
    assert child.error["code"] == ("out_of_memory" if how == "failed" else "cancelled")
    assert ranking in child.error["detail"]
    finish(database, take(database))
    job = look(database, parent)
    assert job.status == Status.SUCCEEDED
    assert job.result is not None
    assert [failure["job"] for failure in job.result["failures"]] == [waiting]


def test_a_failed_run_does_not_fail_the_comparison(database: Database) -> None:
    parent, children = submit(database)
    state_machine.fail(database, take(database), ERROR)
    finish(database, take(database))
    job = look(database, parent)
    assert job.status == Status.SUCCEEDED
    assert job.result is not None
    (failure,) = job.result["failures"]
    assert (failure["job"], failure["error"]["code"]) == (children[0], "out_of_memory")


def test_when_every_run_failed_so_has_the_comparison(database: Database) -> None:
    parent, children = submit(database)
    for _ in children:
        state_machine.fail(database, take(database), ERROR)
    job = look(database, parent)
    assert (job.status, job.result) == (Status.FAILED, None)
    assert job.error is not None
    assert job.error["code"] == "out_of_memory"
    assert [children[place] in e["detail"] for place, e in enumerate(job.error["errors"])] == [
        True, True,
    ]  # fmt: skip


def test_cancelling_stops_queued_children_at_once_and_running_ones_by_their_worker(
    database: Database,
) -> None:
    parent, children = submit(database, seeds=2)
    lease = take(database)
    state_machine.cancel(database, parent)
    assert [look(database, child).status for child in children] == [
        Status.RUNNING, Status.CANCELLED, Status.CANCELLED, Status.CANCELLED,
    ]  # fmt: skip
    assert look(database, parent).status == Status.RUNNING
    assert state_machine.renew(database, lease, LEASE, "train", None).cancel_requested
    state_machine.end_cancelled(database, lease)
    assert statuses(database, parent) == ["queued", "running", "cancelled"]
    assert state_machine.claim(database, "w", WORKER_KINDS, LEASE) is None


def test_cancelling_before_any_child_runs_ends_all_at_once(database: Database) -> None:
    parent, children = submit(database, ranked=True)
    job = state_machine.cancel(database, parent)
    assert job is not None
    assert job.status == Status.CANCELLED
    assert {look(database, child).status for child in children} == {Status.CANCELLED}
    assert state_machine.cancel(database, parent) is not None
    assert statuses(database, parent) == ["queued", "running", "cancelled"]


def test_a_cancel_that_comes_too_late_leaves_the_whole_table(database: Database) -> None:
    parent, _ = submit(database)
    first, second = take(database), take(database)
    finish(database, first)
    state_machine.cancel(database, parent)
    finish(database, second)  # it had ended before the heartbeat told it
    job = look(database, parent)
    assert (job.status, job.cancel_requested) == (Status.SUCCEEDED, True)
    assert job.result is not None
    assert job.result["failures"] == []


def test_a_cancelled_child_is_one_missing_cell(database: Database) -> None:
    parent, children = submit(database)
    state_machine.cancel(database, children[0])
    finish(database, take(database))
    job = look(database, parent)
    assert job.status == Status.SUCCEEDED
    assert job.result is not None
    assert [failure["status"] for failure in job.result["failures"]] == ["cancelled"]


def test_a_lost_worker_costs_an_attempt_and_the_last_one_the_cell(database: Database) -> None:
    parent, children = submit(database)
    other = take(database)  # the child of the queue's head
    for _ in range(3):
        take(database, timedelta(seconds=-1))
        assert state_machine.reap(database, NOW) == [children[1]]
    finish(database, other)
    job = look(database, parent)
    assert job.status == Status.SUCCEEDED
    assert job.result is not None
    assert [failure["error"]["code"] for failure in job.result["failures"]] == ["worker_lost"]


def test_a_result_of_another_shape_fails_the_comparison_alone(database: Database) -> None:
    parent, children = submit(database)
    state_machine.finish(database, take(database), {"from": "an older version"}, Learned())
    finish(database, take(database))
    assert look(database, children[1]).status == Status.SUCCEEDED
    job = look(database, parent)
    assert job.error is not None
    assert (job.status, job.error["title"]) == (Status.FAILED, "Unreadable result")
