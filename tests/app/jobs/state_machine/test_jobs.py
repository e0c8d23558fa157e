"""The state machine, on both databases."""

from __future__ import annotations

from datetime import timedelta

import pytest

from app.artifacts.attempt_logs import log_key
from app.db import Database, db_now
from app.db.tables import WORKER_KINDS, JobKind, Status
from app.jobs import state_machine
from app.jobs.outputs import records
from app.jobs.outputs.checkpoints import prune_checkpoints
from app.jobs.queue import unannounced_jobs
from app.jobs.state_machine import Fenced
from surgery.io.reporter import CheckpointSummary
from surgery.schemas.resolved import Learned
from tests.support.service.queued_jobs import LEASE, look, statuses, submit, take

ERROR = {"code": "worker_lost", "detail": "gone"}
NOW = timedelta(0)


def test_a_job_runs_once_and_its_history_is_written(database: Database) -> None:
    job_id = submit(database)
    lease = take(database)
    assert (lease.job_id, lease.epoch) == (job_id, 1)
    assert state_machine.claim(database, "another", WORKER_KINDS, LEASE) is None
    state_machine.finish(database, lease, {"answer": 1}, Learned(versions={"surgery": "x"}))
    job = look(database, job_id)
    assert (job.status, job.result, job.resolved["versions"]) == (
        Status.SUCCEEDED, {"answer": 1}, {"surgery": "x"},
    )  # fmt: skip
    assert job.started_at is not None
    assert job.finished_at is not None
    assert job.created_at <= job.started_at <= job.finished_at
    assert statuses(database, job_id) == ["queued", "running", "succeeded"]


def test_priority_comes_before_age_and_kinds_have_their_own_queue(database: Database) -> None:
    old = submit(database)
    urgent = submit(database, priority=5)
    tune = submit(database, JobKind.FINETUNE)
    claimed = state_machine.claim(database, "w", [JobKind.FINETUNE], LEASE)
    assert claimed is not None
    assert claimed[0].job_id == tune
    assert [take(database).job_id, take(database).job_id] == [urgent, old]


def test_an_expired_lease_fences_every_write(database: Database) -> None:
    submit(database)
    lease = take(database, timedelta(seconds=-1))
    writes = [
        lambda: state_machine.renew(database, lease, LEASE, None, None),
        lambda: state_machine.finish(database, lease, {}, Learned()),
        lambda: state_machine.fail(database, lease, ERROR),
        lambda: state_machine.release(database, lease),
        lambda: state_machine.end_cancelled(database, lease),
        lambda: state_machine.crash(database, lease, ERROR, NOW),
        lambda: records.record_metrics(database, lease, 1, 0.1, {"loss": 1.0}),
        lambda: records.commit_state(database, lease, "p", 1, 10),
        lambda: records.pin_selection(database, lease, {}),
        lambda: prune_checkpoints(database, lease, "best"),
    ]
    for write in writes:
        with pytest.raises(Fenced):
            write()
    assert look(database, lease.job_id).status == Status.RUNNING


def test_a_stale_worker_cannot_touch_the_next_attempt(database: Database) -> None:
    job_id = submit(database)
    stale = take(database, timedelta(seconds=-1))
    assert state_machine.reap(database, NOW) == [job_id]
    fresh = take(database)
    assert fresh.epoch == stale.epoch + 1
    with pytest.raises(Fenced):
        state_machine.finish(database, stale, {"from": "stale"}, Learned())
    state_machine.finish(database, fresh, {"from": "fresh"}, Learned())
    with pytest.raises(Fenced):
        state_machine.finish(database, fresh, {"from": "twice"}, Learned())
    assert look(database, job_id).result == {"from": "fresh"}


def test_the_third_crash_fails_the_job_and_keeps_the_reason(database: Database) -> None:
    job_id = submit(database)
    for crashes in (1, 2):
        assert state_machine.crash(database, take(database), ERROR, NOW) is Status.QUEUED
        assert look(database, job_id).crashes == crashes
    assert state_machine.crash(database, take(database), ERROR, NOW) is Status.FAILED
    job = look(database, job_id)
    assert (job.error, job.finished_at is None) == (ERROR, False)


def test_a_crash_waits_before_the_next_attempt(database: Database) -> None:
    submit(database)
    state_machine.crash(database, take(database), ERROR, timedelta(hours=1))
    assert state_machine.claim(database, "w", WORKER_KINDS, LEASE) is None


def test_a_drained_job_goes_back_uncharged_and_keeps_its_place(database: Database) -> None:
    first, second = submit(database), submit(database)
    lease = take(database)
    records.commit_state(database, lease, "jobs/state-5", 5, 10)
    state_machine.release(database, lease)
    job = look(database, first)
    assert (job.status, job.crashes, job.state) == (
        Status.QUEUED, 0, {"path": "jobs/state-5", "step": 5, "bytes": 10},
    )  # fmt: skip
    assert [take(database).job_id, take(database).job_id] == [first, second]


def test_cancelling_a_queued_job_ends_it(database: Database) -> None:
    job_id = submit(database)
    job = state_machine.cancel(database, job_id)
    assert job is not None
    assert job.status == Status.CANCELLED
    assert state_machine.claim(database, "w", WORKER_KINDS, LEASE) is None


def test_cancelling_a_running_job_is_told_by_the_next_heartbeat(database: Database) -> None:
    job_id = submit(database)
    lease = take(database)
    assert not state_machine.renew(
        database, lease, LEASE, "train", {"percent": 1.0}
    ).cancel_requested
    state_machine.cancel(database, job_id)
    assert state_machine.renew(database, lease, LEASE, "train", None).cancel_requested
    state_machine.end_cancelled(database, lease)
    assert statuses(database, job_id) == ["queued", "running", "cancelled"]


def test_cancelling_a_finished_job_changes_nothing(database: Database) -> None:
    job_id = submit(database)
    state_machine.finish(database, take(database), {"answer": 1}, Learned())
    job = state_machine.cancel(database, job_id)
    assert job is not None
    assert (job.status, job.cancel_requested) == (Status.SUCCEEDED, False)
    assert state_machine.cancel(database, "rk_unknown") is None


def test_a_lost_worker_whose_job_was_cancelled_is_not_tried_again(database: Database) -> None:
    job_id = submit(database)
    take(database, timedelta(seconds=-1))
    state_machine.cancel(database, job_id)
    state_machine.reap(database, NOW)
    assert look(database, job_id).status == Status.CANCELLED


def test_reaping_leaves_live_leases_alone(database: Database) -> None:
    job_id = submit(database)
    take(database)
    assert state_machine.reap(database, NOW) == []
    assert look(database, job_id).status == Status.RUNNING


def test_only_jobs_that_waited_unheard_are_rung_again(database: Database) -> None:
    job_id = submit(database)
    assert list(unannounced_jobs(database)) == []
    assert [job.id for job in unannounced_jobs(database, -1)] == [job_id]
    assert list(unannounced_jobs(database)) == []


def test_metrics_of_a_repeated_step_are_replaced(database: Database) -> None:
    from app.db.tables import Metric

    submit(database)
    lease = take(database)
    records.record_metrics(database, lease, 10, 0.5, {"train_loss": 2.0, "accuracy": None})
    records.record_metrics(database, lease, 10, 0.5, {"train_loss": 1.0})
    with database.read() as session:
        found = {row.name: row.value for row in session.query(Metric)}
    assert found == {"train_loss": 1.0, "accuracy": None}


def test_checkpoints_are_replaced_by_step_and_pruned(database: Database) -> None:
    submit(database, JobKind.FINETUNE)
    lease = take(database)

    def commit(path: str, step: int, *, best: bool) -> str | None:
        entry = CheckpointSummary(step, step, "delta", metrics={}, is_best=best)
        return records.commit_checkpoint(database, lease, path, {"f": {"bytes": 2}}, entry)[1]

    assert commit("a", 1, best=True) is None
    assert commit("a2", 1, best=True) == "a"
    commit("b", 2, best=False)
    commit("c", 3, best=False)
    assert prune_checkpoints(database, lease, "best_and_last") == ["b"]
    commit("d", 4, best=True)
    assert prune_checkpoints(database, lease, "all") == []
    assert sorted(prune_checkpoints(database, lease, "best")) == ["a2", "c"]
    kept = records.checkpoints_of(database, lease.job_id)
    assert [(row.path, row.is_best, row.bytes) for row in kept] == [("d", True, 2)]
    assert records.referenced_paths(database) == {"d", log_key(lease.job_id, lease.epoch)}


def test_the_clock_is_the_databases(database: Database) -> None:
    from datetime import UTC, datetime

    from sqlalchemy import select

    with database.read() as session:
        now, later = session.execute(select(db_now(), db_now(90))).one()
    assert abs((now - datetime.now(UTC)).total_seconds()) < 5
    assert round((later - now).total_seconds(), 1) == 90
