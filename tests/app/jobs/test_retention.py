"""Which checkpoints stay, on both databases."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest

from app.db import Database
from app.db.tables import Checkpoint, Job, JobEvent, JobKind, new_id
from app.errors import Conflict, NotFound
from app.jobs import state_machine
from app.jobs.outputs import records
from app.jobs.outputs.checkpoints import delete_checkpoint, prune_checkpoints, set_pinned
from app.jobs.state_machine import Lease, enqueue
from surgery.io.reporter import CheckpointSummary
from surgery.schemas.resolved import Learned


def submit(database: Database, **spec: Any) -> str:
    job = Job(
        id=new_id("ft"), kind=JobKind.FINETUNE, spec=spec, resolved={}, labels={}, model="m",
        dataset="d", digest="x", max_attempts=3,
    )  # fmt: skip
    with database.write() as session:
        enqueue(session, job)
    return job.id


def running(database: Database) -> Lease:
    submit(database)
    claimed = state_machine.claim(database, "worker", list(JobKind), timedelta(seconds=60))
    assert claimed is not None
    return claimed[0]


def commit(
    database: Database, lease: Lease, step: int, *, best: bool = False, path: str = ""
) -> str:
    entry = CheckpointSummary(step / 2, step, "delta", metrics={}, is_best=best)
    files = {"f": {"bytes": 2, "sha256": ""}}
    return records.commit_checkpoint(database, lease, path or f"p{step}", files, entry)[0]


def kept(database: Database, lease: Lease) -> list[int]:
    return [row.step for row in records.checkpoints_of(database, lease.job_id)]


def look(database: Database, checkpoint: str) -> Checkpoint:
    with database.read() as session:
        row = session.get(Checkpoint, checkpoint)
    assert row is not None
    return row


@pytest.mark.parametrize(
    ("keep", "left"),
    [("best", [2]), ("last", [5]), ("best_and_last", [2, 5]), ("all", [1, 2, 3, 4, 5]),
     (1, [2, 5]), (2, [2, 4, 5]), (4, [2, 3, 4, 5]), (9, [1, 2, 3, 4, 5])],
)  # fmt: skip
def test_a_run_keeps_what_it_was_told_to(
    keep: str | int, left: list[int], database: Database
) -> None:
    lease = running(database)
    for step in range(1, 6):
        commit(database, lease, step, best=step == 2)
    dropped = prune_checkpoints(database, lease, keep)
    assert kept(database, lease) == left
    assert dropped == [f"p{step}" for step in range(1, 6) if step not in left]
    assert {row.epoch for row in records.checkpoints_of(database, lease.job_id)} == {
        step / 2 for step in left
    }


def test_a_pinned_checkpoint_stays_until_it_is_let_go(database: Database) -> None:
    lease = running(database)
    first = commit(database, lease, 1, best=True)
    assert set_pinned(database, first, pinned=True).pinned
    set_pinned(database, first, pinned=True)
    commit(database, lease, 2, best=True)
    commit(database, lease, 3)
    assert prune_checkpoints(database, lease, "best") == ["p3"]
    state_machine.finish(database, lease, {}, Learned())
    with pytest.raises(Conflict, match=f"DELETE /v1/checkpoints/{first}/pin"):
        delete_checkpoint(database, first)
    set_pinned(database, first, pinned=False)
    assert delete_checkpoint(database, first) == "p1"
    with pytest.raises(NotFound):
        delete_checkpoint(database, first)
    with pytest.raises(NotFound):
        set_pinned(database, first, pinned=True)
    with database.read() as session:
        told = session.query(JobEvent).filter(JobEvent.type.like("checkpoint_%"))
        assert [e.type for e in told.order_by(JobEvent.seq)] == [
            "checkpoint_pinned", "checkpoint_unpinned", "checkpoint_deleted",
        ]  # fmt: skip


def test_a_pin_that_commits_while_the_run_prunes_is_honoured(database: Database) -> None:
    lease = running(database)
    first = commit(database, lease, 1)
    commit(database, lease, 2, best=True)
    dropped: list[str] = []
    pruning = threading.Thread(
        target=lambda: dropped.extend(prune_checkpoints(database, lease, "best"))
    )
    with database.write() as session:
        row = session.get(Checkpoint, first)
        assert row is not None
        row.pinned = True
        session.flush()
        pruning.start()
        pruning.join(0.3)
        assert pruning.is_alive()  # it waits for the row
    pruning.join(20)
    assert dropped == []
    assert look(database, first).pinned


def test_a_checkpoint_that_a_job_continues_from_stays_until_it_is_over(database: Database) -> None:
    lease = running(database)
    first = commit(database, lease, 1)
    commit(database, lease, 2, best=True)
    user = submit(database, continue_from=first)
    assert prune_checkpoints(database, lease, "best") == []
    with pytest.raises(Conflict, match=f"job {lease.job_id} is running"):
        delete_checkpoint(database, first)
    state_machine.finish(database, lease, {}, Learned())
    with pytest.raises(Conflict, match=f"{user} need checkpoint {first}"):
        delete_checkpoint(database, first)
    state_machine.cancel(database, user)
    assert delete_checkpoint(database, first) == "p1"


def test_a_repeated_step_keeps_its_id_and_its_pin(database: Database) -> None:
    lease = running(database)
    first = commit(database, lease, 1, best=True)
    set_pinned(database, first, pinned=True)
    assert commit(database, lease, 1, path="again") == first
    row = look(database, first)
    assert (row.path, row.pinned, row.is_best) == ("again", True, False)
