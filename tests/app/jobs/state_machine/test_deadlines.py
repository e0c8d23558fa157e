"""Jobs that are not over by their deadline, on both databases."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import update

from app.db import Database, db_now
from app.db.tables import WORKER_KINDS, Job, Status
from app.jobs import state_machine
from tests.support.service.queued_comparisons import finish
from tests.support.service.queued_comparisons import submit as submit_comparison
from tests.support.service.queued_jobs import LEASE, look, statuses, submit, take

NOW = timedelta(0)


def pass_deadline(database: Database, *job_ids: str) -> None:
    """As if the seconds had passed."""
    with database.write() as session:
        late = update(Job).where(Job.id.in_(job_ids))
        session.execute(late.values(deadline_seconds=30, deadline_at=db_now(-1)))


def code_of(database: Database, job_id: str) -> str | None:
    error = look(database, job_id).error
    return error["code"] if error else None


def test_the_deadline_counts_from_the_submission(database: Database) -> None:
    job = look(database, submit(database, deadline_seconds=90))
    assert job.deadline_at is not None
    assert round((job.deadline_at - job.created_at).total_seconds(), 1) == 90
    assert look(database, submit(database)).deadline_at is None
    assert state_machine.end_overdue(database) == []


@pytest.mark.parametrize("paused", [False, True])
def test_a_job_that_waits_too_long_ends(database: Database, paused: bool) -> None:
    job_id, other = submit(database), submit(database)
    if paused:
        state_machine.pause(database, job_id)
    pass_deadline(database, job_id)
    assert take(database).job_id == other  # nobody begins what is too late
    assert state_machine.claim(database, "w", WORKER_KINDS, LEASE) is None
    assert state_machine.end_overdue(database) == [job_id]
    assert state_machine.end_overdue(database) == []
    job = look(database, job_id)
    assert (job.status, code_of(database, job_id)) == (Status.FAILED, "deadline_exceeded")
    assert job.error is not None
    assert "30 s after it was accepted" in job.error["detail"]


def test_a_heartbeat_tells_how_long_is_left(database: Database) -> None:
    submit(database, deadline_seconds=90)
    left = state_machine.renew(database, take(database), LEASE, "train", None).seconds_left
    assert left is not None
    assert 0 < left <= 90
    submit(database)
    assert state_machine.renew(database, take(database), LEASE, None, None).seconds_left is None


def test_the_worker_ends_a_running_job(database: Database) -> None:
    job_id = submit(database)
    lease = take(database)
    pass_deadline(database, job_id)
    assert state_machine.end_overdue(database) == []  # its worker holds it
    left = state_machine.renew(database, lease, LEASE, "train", None).seconds_left
    assert left is not None
    assert left < 0
    state_machine.fail_overdue(database, lease)
    assert statuses(database, job_id) == ["queued", "running", "failed"]
    assert code_of(database, job_id) == "deadline_exceeded"


def test_if_the_worker_is_lost_the_sweeper_ends_the_job(database: Database) -> None:
    job_id = submit(database)
    take(database, timedelta(seconds=-1))
    pass_deadline(database, job_id)
    assert state_machine.reap(database, NOW) == [job_id]
    assert state_machine.end_overdue(database) == [job_id]
    assert code_of(database, job_id) == "deadline_exceeded"


@pytest.mark.parametrize("some_succeeded", [False, True])
def test_a_comparison_ends_with_its_children(database: Database, some_succeeded: bool) -> None:
    parent, children = submit_comparison(database, seeds=2)
    if some_succeeded:
        finish(database, take(database))
    lease = take(database)
    pass_deadline(database, parent, *children)
    state_machine.end_overdue(database)
    assert look(database, parent).status == Status.RUNNING
    state_machine.fail_overdue(database, lease)
    assert statuses(database, parent) == ["queued", "running", "failed"]
    assert code_of(database, parent) == "deadline_exceeded"


def test_a_paused_comparison_ends_too(database: Database) -> None:
    parent, children = submit_comparison(database)
    state_machine.pause(database, parent)
    pass_deadline(database, parent, *children)
    assert set(state_machine.end_overdue(database)) == set(children)
    assert code_of(database, parent) == "deadline_exceeded"


def test_a_comparison_that_was_complete_in_time_has_its_table(database: Database) -> None:
    parent, children = submit_comparison(database)
    first, second = take(database), take(database)
    pass_deadline(database, parent, *children)
    finish(database, first)
    finish(database, second)  # it ended before its worker noticed
    assert look(database, parent).status == Status.SUCCEEDED
