"""What happens to a comparison's children at the same time, on both databases."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app.db import Database
from app.db.tables import Job, JobKind, Status
from app.jobs import state_machine
from app.jobs.state_machine import end, locked_with_comparison
from surgery.schemas.resolved import Learned
from tests.support.service.finished_runs import finetune_result
from tests.support.service.queued_comparisons import ERROR, NOW, RANKING, finish, new_job, submit
from tests.support.service.queued_jobs import look, statuses, take


def test_the_sweeper_takes_a_step_that_was_left_untaken(database: Database) -> None:
    """As when a ranking is stored by somebody else between the check and the insert."""
    parent, (_, waiting, _) = submit(database, ranked=True)
    stored = new_job(JobKind.RANKING, None, result=RANKING)
    with database.write() as session:
        from app.jobs.state_machine import store_finished

        store_finished(session, stored)
        child = session.get(Job, waiting)
        assert child is not None
        child.waits_for = stored.id
    state_machine.advance_comparisons(database)
    state_machine.advance_comparisons(database)
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
            end(session, locked_with_comparison(session, first), Status.SUCCEEDED, result=result)
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
    state_machine.finish(database, take(database), RANKING, Learned())
    leases = [take(database) for _ in range(12)]
    barrier = threading.Barrier(15 if cancelling else 14)

    def work(place: int) -> None:
        lease = leases[place]
        barrier.wait(10)
        if place % 3 == 0:
            state_machine.fail(database, lease, ERROR)
        else:
            finish(database, lease)

    def at_once(act: Any, *arguments: Any) -> None:
        barrier.wait(10)
        act(database, *arguments)

    with ThreadPoolExecutor(15) as pool:
        waiting = [pool.submit(work, place) for place in range(12)]
        waiting += [
            pool.submit(at_once, state_machine.advance_comparisons),
            pool.submit(at_once, state_machine.reap, NOW),
        ]
        if cancelling:
            waiting.append(pool.submit(at_once, state_machine.cancel, parent))
        for each in waiting:
            each.result(30)
    told = statuses(database, parent)
    assert (told[:2], len(told)) == (["queued", "running"], 3)
    assert look(database, parent).status == told[2] == "succeeded"
    assert {
        child: statuses(database, child)
        for child in children
        if len(statuses(database, child)) != 3
    } == {}
