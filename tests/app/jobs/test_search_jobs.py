"""Searches beside the fine-tunes that train what they find, on both databases."""

from __future__ import annotations

from typing import Any

import pytest

from app.db import Database
from app.db.tables import WORKER_KINDS, Job, JobKind, Status, new_id
from app.errors import Conflict
from app.jobs import state_machine
from app.jobs.deletion import delete_job
from app.jobs.outputs import records
from surgery.schemas.resolved import Learned, ResolvedSelection
from tests.support.service.finished_runs import search_result
from tests.support.service.queued_comparisons import ERROR, finish
from tests.support.service.queued_comparisons import submit as submit_comparison
from tests.support.service.queued_jobs import LEASE, RESOLVED, look, submit, take

Json = dict[str, Any]
FOUND = ["encoder.layer.1", "encoder.layer.2"]
RESULT = search_result(FOUND).model_dump(mode="json")
CHOICE = ResolvedSelection(layers=FOUND, learning_rate=3e-4, selected_parameters=20)


def searched(database: Database) -> tuple[str, str]:
    """A running fine-tune that has just searched, and its search."""
    job = submit(database, JobKind.FINETUNE, resolved=RESOLVED)
    lease = take(database)
    records.commit_state(database, lease, "p/state-7", 7, 100)
    left = records.store_search(database, lease, "digest", {"a": 1}, RESULT, CHOICE)
    assert left == "p/state-7"
    again = records.store_search(database, lease, "digest", {"a": 1}, RESULT, CHOICE)
    assert again is None  # the reply to the first was lost, and it is sent again
    return job, str(look(database, job).resolved["search"])


def children_of(database: Database, parent: str) -> list[str]:
    with database.read() as session:
        return [job.id for job in session.query(Job).filter_by(parent=parent)]


def test_a_fine_tune_keeps_its_search_as_a_job_and_drops_its_state(database: Database) -> None:
    job, search = searched(database)
    tuned, kept = look(database, job), look(database, search)
    assert (tuned.resolved["layers"], tuned.resolved["learning_rate"]) == (FOUND, 3e-4)
    assert tuned.state is None
    assert (kept.kind, kept.status, kept.parent) == ("search", Status.SUCCEEDED, job)
    assert (kept.result, kept.spec, kept.digest) == (RESULT, {"a": 1}, "digest")
    assert kept.resolved["model"] == RESOLVED["model"]
    assert children_of(database, job) == [search]


def test_a_fine_tune_takes_its_search_along_unless_another_trains_by_it(database: Database) -> None:
    job, search = searched(database)
    state_machine.cancel(database, job)
    other = submit(database, JobKind.FINETUNE, resolved={**RESOLVED, "search": search})
    with pytest.raises(Conflict, match="chooses its layers by a search"):
        delete_job(database, search, lambda _: None)
    lease = state_machine.Lease(job, look(database, job).lease_epoch)
    state_machine.end_cancelled(database, lease)
    delete_job(database, job, lambda _: None)
    assert look(database, search).parent is None
    state_machine.cancel(database, other)
    delete_job(database, search, lambda _: None)
    job, search = searched(database)
    lease = state_machine.Lease(job, look(database, job).lease_epoch)
    state_machine.fail(database, lease, ERROR)
    assert f"jobs/{search}" in delete_job(database, job, lambda _: None)


def comparison(database: Database) -> tuple[str, str, str]:
    """A comparison whose first run waits for a search: their ids."""
    parent, (waiting, _) = submit_comparison(database)
    search = Job(
        id=new_id("se"), kind=JobKind.SEARCH, parent=parent, spec={}, labels={}, model="m",
        dataset="d", digest="s", max_attempts=3, resolved=RESOLVED, priority=5,
    )  # fmt: skip
    with database.write() as session:
        state_machine.enqueue(session, search)
        run = session.get(Job, waiting)
        assert run is not None
        run.waits_for = search.id
    return parent, search.id, waiting


def test_runs_wait_for_their_search_and_then_know_it(database: Database) -> None:
    parent, search, waiting = comparison(database)
    first, second = take(database), take(database)
    assert first.job_id == search
    assert state_machine.claim(database, "w", WORKER_KINDS, LEASE) is None
    state_machine.finish(database, first, RESULT, Learned())
    lease = take(database)
    child = look(database, waiting)
    assert (lease.job_id, child.resolved["search"], child.waits_for) == (waiting, search, None)
    assert records.awaited_result(database, child, JobKind.SEARCH) == RESULT
    assert records.awaited_result(database, child, JobKind.RANKING) is None
    finish(database, lease)
    finish(database, second)
    assert look(database, parent).status == Status.SUCCEEDED


def test_without_its_search_a_run_fails_and_the_others_go_on(database: Database) -> None:
    parent, search, waiting = comparison(database)
    state_machine.fail(database, take(database), ERROR)
    child = look(database, waiting)
    assert child.status == Status.FAILED
    assert child.error is not None
    assert f"search {search}, which this run waited for, failed" in child.error["detail"]
    assert look(database, parent).status == Status.RUNNING
