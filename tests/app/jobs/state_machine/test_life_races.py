"""One job that many threads claim, end, pause, resume and cancel at once, on both databases."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from itertools import pairwise

import pytest

from app.db import Database
from app.db.tables import TERMINAL, WORKER_KINDS, Job, Status
from app.errors import Conflict
from app.jobs import state_machine
from app.jobs.attempts import AttemptOutcome, attempts_of
from app.jobs.state_machine import Fenced, Lease
from surgery.schemas.resolved import Learned
from tests.support.service import queued_comparisons
from tests.support.service.finished_runs import finetune_result
from tests.support.service.queued_jobs import LEASE, look, statuses, submit

ERROR = {"code": "out_of_memory", "detail": "too large"}
NOW = timedelta(0)
THREADS, ACTS = 8, 6
LEGAL: Mapping[str, set[str]] = {
    Status.QUEUED: {Status.RUNNING, Status.PAUSED, Status.CANCELLED},
    Status.RUNNING: {Status.QUEUED, Status.PAUSED, *TERMINAL},
    Status.PAUSED: {Status.QUEUED, Status.CANCELLED},
    **{status: set() for status in TERMINAL},
}
LEGAL_OF_COMPARISONS = {**LEGAL, Status.PAUSED: {Status.RUNNING, Status.CANCELLED}}
RESULT = finetune_result(0.5).model_dump(mode="json")


def claim(database: Database, lease: timedelta = LEASE) -> Lease | None:
    claimed = state_machine.claim(database, "worker", WORKER_KINDS, lease)
    return claimed[0] if claimed else None


def end_somehow(database: Database, lease: Lease, choice: random.Random) -> None:
    """What a worker may do with its lease; it may have lost it meanwhile."""
    ends: list[Callable[[], object]] = [
        lambda: state_machine.finish(database, lease, RESULT, Learned()),
        lambda: state_machine.fail(database, lease, ERROR),
        lambda: state_machine.release(database, lease),
        lambda: state_machine.crash(database, lease, ERROR, NOW),
        lambda: None,  # it is never heard of again
    ]
    with suppress(Fenced):
        asked = state_machine.renew(database, lease, LEASE, "train", None)
        if asked.cancel_requested:
            state_machine.end_cancelled(database, lease)
        elif asked.pause_requested:
            state_machine.release(database, lease, "paused")
        else:
            choice.choice(ends[2:] if choice.random() < 0.8 else ends)()


def act(database: Database, job_id: str, choice: random.Random, *, cancelling: bool) -> None:
    """One thing that a worker, a sweeper or a user does."""
    kind = choice.choice(["work", "work", "pause", "resume", "resume", "reap"])
    if cancelling and choice.random() < 0.05:
        kind = "cancel"
    if kind == "work":
        lease = claim(database, NOW if choice.random() < 0.2 else LEASE)
        if lease is not None:
            end_somehow(database, lease, choice)
    elif kind == "reap":
        state_machine.reap(database, NOW)
    elif kind == "cancel":
        state_machine.cancel(database, job_id)
    else:
        with suppress(Conflict):
            getattr(state_machine, kind)(database, job_id)


def storm(database: Database, targets: list[str], seed: int, *, cancelling: bool) -> None:
    """All threads act at once, each in an order of its own; any unexpected error is raised."""
    start = threading.Barrier(THREADS)

    def one(place: int) -> None:
        choice = random.Random(f"{seed} {place}")
        start.wait(30)
        for _ in range(ACTS):
            act(database, choice.choice(targets), choice, cancelling=cancelling)

    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(one, place) for place in range(THREADS)]:
            done.result(120)


def check_history(database: Database, job_id: str, legal: Mapping[str, set[str]] = LEGAL) -> Job:
    """The job, whose events, row and attempts tell one and the same legal story."""
    job, told = look(database, job_id), statuses(database, job_id)
    assert all(later in legal[earlier] for earlier, later in pairwise(told)), told
    assert told[-1] == job.status
    assert [change["status"] for change in job.transitions] == told
    assert (job.finished_at is not None) == (job.status in TERMINAL)
    if legal is LEGAL:
        attempts = attempts_of(database, job_id)
        assert len(attempts) == job.lease_epoch == told.count(Status.RUNNING)
        unended = [each.epoch for each in attempts if each.ended_at is None]
        assert unended == ([job.lease_epoch] if job.status == Status.RUNNING else [])
        charged = {AttemptOutcome.CRASHED, AttemptOutcome.LOST}
        # A crash after a request to stop is not charged.
        assert job.crashes <= sum(each.outcome in charged for each in attempts)
    return job


def to_the_end(database: Database, job_ids: list[str]) -> Iterator[Job]:
    """What is left over can go on: no job hangs in a state that nobody can lead it out of."""
    for job_id in job_ids:
        with suppress(Conflict):
            state_machine.resume(database, job_id)
    state_machine.settle_waiting(database)
    state_machine.advance_comparisons(database)
    for job_id in job_ids:
        job = look(database, job_id)
        if job.status == Status.RUNNING and job.lease_owner is not None:  # whose worker is gone
            with suppress(Fenced):
                state_machine.release(database, Lease(job_id, job.lease_epoch))
    state_machine.reap(database, NOW)
    while (lease := claim(database)) is not None:
        state_machine.finish(database, lease, RESULT, Learned())
    yield from (look(database, job_id) for job_id in job_ids)


@pytest.mark.parametrize("cancelling", [False, True])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_job_ends_in_one_legal_state(database: Database, seed: int, cancelling: bool) -> None:
    job_id = submit(database, max_attempts=1000)
    storm(database, [job_id], seed, cancelling=cancelling)
    job = check_history(database, job_id)
    if job.result is not None:
        assert job.status == Status.SUCCEEDED
    (job,) = to_the_end(database, [job_id])
    assert job.status in TERMINAL
    assert check_history(database, job_id).cancel_requested <= cancelling


@pytest.mark.parametrize("cancelling", [False, True])
def test_a_comparison_and_its_children_end_together(database: Database, cancelling: bool) -> None:
    """Requests to the comparison and to single children, while workers run them."""
    parent, children = queued_comparisons.submit(database, seeds=2)
    storm(database, [parent, *children], 7, cancelling=cancelling)
    check_history(database, parent, LEGAL_OF_COMPARISONS)
    for child in children:
        check_history(database, child)
    comparison, *runs = to_the_end(database, [parent, *children])
    assert {run.status for run in runs} <= set(TERMINAL)
    assert comparison.status in TERMINAL
    check_history(database, parent, LEGAL_OF_COMPARISONS)
    for child in children:
        check_history(database, child)
