"""On SQLite no transaction leaves a statement behind that has not been read to its end.

Its connection would keep the snapshot of that statement, and the next transaction would wait in
vain for the right to write. A result that nobody reads lives on when the transaction had to wait
for its turn: the traceback of "database is locked" has the frames that hold it, until Python
collects garbage.
"""

from __future__ import annotations

import gc
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.db import Database, sqlite
from app.db.tables import Status
from app.jobs import deletion, state_machine
from app.jobs.changes import JobChanges, change_job
from app.jobs.outputs import checkpoints, records
from app.jobs.state_machine import Lease
from surgery.io.reporter import CheckpointSummary
from surgery.schemas.resolved import Learned
from tests.support.service.finished_runs import finetune_result
from tests.support.service.queued_comparisons import ERROR, NOW
from tests.support.service.queued_comparisons import submit as submit_comparison
from tests.support.service.queued_jobs import LEASE, look, take

RESULT = finetune_result(0.5).model_dump(mode="json")
SUMMARY = CheckpointSummary(step=1, epoch=1.0, form="delta", is_best=True, metrics={})


class Contended:
    """A database of which another process has the right to write whenever a transaction begins."""

    def __init__(self, path: Path) -> None:
        self.database = Database(f"sqlite:///{path}")
        self.database.upgrade()
        with self.database.engine.connect() as only:  # the pool's first, and here its last
            only.exec_driver_sql("PRAGMA busy_timeout=0")
        self.other = sqlite3.connect(path, isolation_level=None)

    def release(self, _: float = 0.0) -> None:
        """The other process commits; nobody waits for it twice."""
        assert self.other.in_transaction, "a transaction waits for itself"
        self.other.execute("COMMIT")

    def act_and_write_again(self, act: Callable[[], object]) -> None:
        for each in (act, self._write):
            self.other.execute("BEGIN IMMEDIATE")
            self.other.execute("UPDATE jobs SET name = coalesce(name, '') || 'x'")
            each()
            if self.other.in_transaction:  # nothing had to be written
                self.release()

    def _write(self) -> None:
        with self.database.write():
            pass


@pytest.fixture
def contended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Contended]:
    made = Contended(tmp_path / "test.db")
    waiting = SimpleNamespace(monotonic=time.monotonic, sleep=made.release)
    monkeypatch.setattr(sqlite, "time", waiting)
    gc.disable()
    yield made
    gc.enable()
    made.database.close()
    made.other.close()


def in_turn(database: Database) -> Iterator[Callable[[], object]]:
    """What workers and users do to a comparison, one after the other."""
    parent, (first, second) = submit_comparison(database)
    leases: list[Lease] = []
    yield lambda: state_machine.pause(database, parent)
    yield lambda: state_machine.resume(database, parent)
    yield lambda: leases.append(take(database))
    yield lambda: state_machine.renew(database, leases[0], LEASE, "train", {"percent": 1.0})
    yield lambda: records.record_metrics(database, leases[0], 1, 1.0, {"loss": 1.0})
    files = {"a": {"bytes": 1, "sha256": ""}}
    made: list[str] = []
    yield lambda: made.append(
        records.commit_checkpoint(database, leases[0], "jobs/a", files, SUMMARY)[0]
    )
    yield lambda: records.commit_state(database, leases[0], "jobs/s", 1, 1)
    yield lambda: checkpoints.prune_checkpoints(database, leases[0], "best")
    yield lambda: state_machine.release(database, leases[0])
    yield lambda: leases.append(take(database, NOW))
    yield lambda: state_machine.reap(database, NOW)
    yield lambda: leases.append(take(database))
    yield lambda: state_machine.crash(database, leases[2], ERROR, NOW)
    yield lambda: leases.append(take(database))
    yield lambda: state_machine.finish(database, leases[3], RESULT, Learned())
    yield lambda: state_machine.cancel(database, second)
    yield lambda: state_machine.advance_comparisons(database)
    yield lambda: checkpoints.set_pinned(database, made[0], pinned=True)
    yield lambda: checkpoints.set_pinned(database, made[0], pinned=False)
    yield lambda: checkpoints.delete_checkpoint(database, made[0])
    yield lambda: change_job(database, parent, JobChanges(name="b"), lambda _: None)
    assert look(database, parent).status == Status.SUCCEEDED
    yield lambda: deletion.delete_job(database, parent, lambda _: None)
    assert first != second


def test_every_transaction_can_be_followed_by_another(contended: Contended) -> None:
    for act in in_turn(contended.database):
        contended.act_and_write_again(act)
