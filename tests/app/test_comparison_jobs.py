"""A comparison moves on with its children, on both databases."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from finished_runs import finetune_result, ranking_result

from app import jobs, runs
from app.db import Database
from app.ids import new_id
from app.leases import Lease, ending
from app.queue import unrung
from app.tables import WORKED, Job, JobEvent, Kind, Status
from app.transitions import end, enqueue_comparison

Json = dict[str, Any]
LEASE = timedelta(seconds=60)
NOW = timedelta(0)
ERROR = {"code": "out_of_memory", "detail": "too large", "retriable": True}
ARMS = [
    {"name": "a", "policy": "last_k", "layers": ["l1"]},
    {"name": "all", "policy": "all", "layers": ["l0", "l1"]},
]
RANKING = ranking_result({"fisher": {"l0": 2.0, "l1": 1.0}}).model_dump(mode="json")


def new_job(kind: Kind, parent: str | None, **values: object) -> Job:
    fields: Json = {"labels": {}, "model": "m", "dataset": "d", "digest": "x", "max_attempts": 3,
                    "spec": {}, "resolved": {}}  # fmt: skip
    return Job(id=new_id("job"), kind=kind, parent=parent, **{**fields, **values})


def submit(database: Database, seeds: int = 1, *, ranked: bool = False) -> tuple[str, list[str]]:
    """A comparison of two arms; its id, and its children's in the order of the queue."""
    parent = new_job(Kind.COMPARISON, None, resolved={"arms": ARMS, "ranking": None})
    ranking = new_job(Kind.RANKING, parent.id) if ranked else None
    children = [
        new_job(
            Kind.FINETUNE, parent.id, name=f"{arm['name']}, seed {seed}",
            spec={"training": {"seed": seed}}, resolved={"arm": arm["name"]},
            waits_for=ranking.id if ranking and arm["name"] == "a" else None,
        )
        for arm in ARMS
        for seed in range(seeds)
    ]  # fmt: skip
    children = [ranking, *children] if ranking else children
    with database.write() as session:
        enqueue_comparison(session, parent, children)
    return parent.id, [child.id for child in children]


def take(database: Database, lease: timedelta = LEASE) -> Lease:
    claimed = jobs.claim(database, "worker", WORKED, lease)
    assert claimed is not None
    return claimed[0]


def finish(database: Database, lease: Lease, metric: float = 0.5) -> None:
    result = finetune_result(metric).model_dump(mode="json")
    jobs.finish(database, lease, result, {})


def look(database: Database, job_id: str) -> Job:
    with database.read() as session:
        job = session.get(Job, job_id)
    assert job is not None
    return job


def statuses(database: Database, job_id: str) -> list[str]:
    with database.read() as session:
        events = session.query(JobEvent).filter_by(job_id=job_id, type="status")
        return [event.data["status"] for event in events.order_by(JobEvent.seq)]


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
    assert jobs.claim(database, "w", list(Kind), LEASE) is None
    assert jobs.reap(database, NOW) == []
    assert look(database, parent).status == Status.RUNNING


def test_children_wait_for_their_ranking_and_then_know_it(database: Database) -> None:
    parent, (ranking, waiting, other) = submit(database, ranked=True)
    first, second = take(database), take(database)
    assert (first.job_id, second.job_id) == (ranking, other)
    assert jobs.claim(database, "w", WORKED, LEASE) is None
    assert waiting not in [job.id for job in unrung(database, -1)]
    jobs.finish(database, first, RANKING, {})
    lease = take(database)
    child = look(database, waiting)
    assert (lease.job_id, child.resolved["ranking"]) == (waiting, ranking)
    assert runs.waited_for(database, child) == RANKING
    finish(database, lease)
    finish(database, second)
    assert look(database, parent).status == Status.SUCCEEDED


@pytest.mark.parametrize("how", ["failed", "cancelled"])
def test_without_its_ranking_a_child_fails_and_the_others_go_on(
    database: Database, how: str
) -> None:
    parent, (ranking, waiting, _) = submit(database, ranked=True)
    if how == "failed":
        jobs.fail(database, take(database), ERROR)
    else:
        jobs.cancel(database, ranking)
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
    jobs.fail(database, take(database), ERROR)
    finish(database, take(database))
    job = look(database, parent)
    assert job.status == Status.SUCCEEDED
    assert job.result is not None
    (failure,) = job.result["failures"]
    assert (failure["job"], failure["error"]["code"]) == (children[0], "out_of_memory")


def test_when_every_run_failed_so_has_the_comparison(database: Database) -> None:
    parent, children = submit(database)
    for _ in children:
        jobs.fail(database, take(database), ERROR)
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
    jobs.cancel(database, parent)
    assert [look(database, child).status for child in children] == [
        Status.RUNNING, Status.CANCELLED, Status.CANCELLED, Status.CANCELLED,
    ]  # fmt: skip
    assert look(database, parent).status == Status.RUNNING
    assert jobs.renew(database, lease, LEASE, "train", None).cancel_requested
    jobs.end_cancelled(database, lease)
    assert statuses(database, parent) == ["queued", "running", "cancelled"]
    assert jobs.claim(database, "w", WORKED, LEASE) is None


def test_cancelling_before_any_child_runs_ends_all_at_once(database: Database) -> None:
    parent, children = submit(database, ranked=True)
    job = jobs.cancel(database, parent)
    assert job is not None
    assert job.status == Status.CANCELLED
    assert {look(database, child).status for child in children} == {Status.CANCELLED}
    assert jobs.cancel(database, parent) is not None
    assert statuses(database, parent) == ["queued", "running", "cancelled"]


def test_a_cancel_that_comes_too_late_leaves_the_whole_table(database: Database) -> None:
    parent, _ = submit(database)
    first, second = take(database), take(database)
    finish(database, first)
    jobs.cancel(database, parent)
    finish(database, second)  # it had ended before the heartbeat told it
    job = look(database, parent)
    assert (job.status, job.cancel_requested) == (Status.SUCCEEDED, True)
    assert job.result is not None
    assert job.result["failures"] == []


def test_a_cancelled_child_is_one_missing_cell(database: Database) -> None:
    parent, children = submit(database)
    jobs.cancel(database, children[0])
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
        assert jobs.reap(database, NOW) == [children[1]]
    finish(database, other)
    job = look(database, parent)
    assert job.status == Status.SUCCEEDED
    assert job.result is not None
    assert [failure["error"]["code"] for failure in job.result["failures"]] == ["worker_lost"]


def test_a_result_of_another_shape_fails_the_comparison_alone(database: Database) -> None:
    parent, children = submit(database)
    jobs.finish(database, take(database), {"from": "an older version"}, {})
    finish(database, take(database))
    assert look(database, children[1]).status == Status.SUCCEEDED
    job = look(database, parent)
    assert job.error is not None
    assert (job.status, job.error["title"]) == (Status.FAILED, "Unreadable result")


def test_the_sweeper_takes_a_step_that_was_left_untaken(database: Database) -> None:
    """As when a ranking is stored by somebody else between the check and the insert."""
    parent, (_, waiting, _) = submit(database, ranked=True)
    stored = new_job(Kind.RANKING, None, result=RANKING)
    with database.write() as session:
        from app.transitions import store_finished_ranking

        store_finished_ranking(session, stored)
        child = session.get(Job, waiting)
        assert child is not None
        child.waits_for = stored.id
    jobs.advance(database)
    jobs.advance(database)
    assert look(database, waiting).waits_for is None
    assert look(database, waiting).resolved["ranking"] == stored.id
    assert look(database, parent).status == Status.RUNNING


def test_two_children_that_end_at_once_end_the_comparison_once(database: Database) -> None:
    """The second waits for the first's transaction and then sees its outcome."""
    parent, _ = submit(database)
    first, second = take(database), take(database)
    result = finetune_result(0.5).model_dump(mode="json")
    began = threading.Event()

    def end_second() -> None:
        began.set()
        finish(database, second, 0.6)

    with ThreadPoolExecutor() as pool:
        with database.write() as session:
            end(session, ending(session, first), Status.SUCCEEDED, result=result)
            waiting = pool.submit(end_second)
            began.wait(5)
            with pytest.raises(TimeoutError):
                waiting.result(0.3)
        waiting.result(10)
    assert statuses(database, parent) == ["queued", "running", "succeeded"]
    job = look(database, parent)
    assert job.result is not None
    assert [arm["metric"]["mean"] for arm in job.result["arms"]] == [0.5, 0.6]


@pytest.mark.parametrize("cancelling", [False, True])
def test_any_number_at_once(database: Database, cancelling: bool) -> None:
    """Finishes, failures, crashes, reaps, sweeps and a cancel, all at the same time."""
    parent, children = submit(database, seeds=6, ranked=True)
    jobs.finish(database, take(database), RANKING, {})
    leases = [take(database) for _ in range(12)]
    barrier = threading.Barrier(15 if cancelling else 14)

    def work(place: int) -> None:
        lease = leases[place]
        barrier.wait(10)
        if place % 3 == 0:
            jobs.fail(database, lease, ERROR)
        else:
            finish(database, lease)

    def at_once(act: Any, *arguments: Any) -> None:
        barrier.wait(10)
        act(database, *arguments)

    with ThreadPoolExecutor(15) as pool:
        waiting = [pool.submit(work, place) for place in range(12)]
        waiting += [pool.submit(at_once, jobs.advance), pool.submit(at_once, jobs.reap, NOW)]
        if cancelling:
            waiting.append(pool.submit(at_once, jobs.cancel, parent))
        for each in waiting:
            each.result(30)
    told = statuses(database, parent)
    assert (told[:2], len(told)) == (["queued", "running"], 3)
    assert look(database, parent).status == told[2] == "succeeded"
    assert all(len(statuses(database, child)) == 3 for child in children)
