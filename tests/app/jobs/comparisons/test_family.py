"""What a comparison costs the database while its children end, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import event

from app.db import Database
from app.db.tables import Job, Status
from app.jobs import state_machine
from tests.support.service.queued_comparisons import finish, submit
from tests.support.service.queued_jobs import look, take


@contextmanager
def rows_loaded() -> Iterator[list[str]]:
    """The ids of the jobs that are loaded whole, with their results."""
    found: list[str] = []

    def loaded(job: Job, _: object) -> None:
        found.append(job.id)

    event.listen(Job, "load", loaded)
    try:
        yield found
    finally:
        event.remove(Job, "load", loaded)


def test_only_the_last_child_loads_the_others(database: Database) -> None:
    parent, children = submit(database, seeds=8)
    for _ in children[:-1]:
        lease = take(database)
        with rows_loaded() as rows:
            finish(database, lease)
        assert set(rows) <= {parent, lease.job_id}
        with rows_loaded() as rows:
            state_machine.advance_comparisons(database)
        assert set(rows) <= {parent}
    lease = take(database)
    with rows_loaded() as rows:
        finish(database, lease)
    assert {*children} <= set(rows)
    assert look(database, parent).status == Status.SUCCEEDED
