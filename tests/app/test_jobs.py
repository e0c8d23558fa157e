"""The state machine, on both databases."""

from __future__ import annotations

from datetime import timedelta

import pytest
from queued_jobs import LEASE, look, statuses, take

from app import jobs, runs
from app.db import Database, db_now
from app.ids import new_id
from app.leases import Fenced
from app.queue import unrung
from app.retention import prune_checkpoints
from app.tables import WORKED, Job, Kind, Status
from app.transitions import enqueue

ERROR = {"code": "worker_lost", "detail": "gone"}
NOW = timedelta(0)


def submit(database: Database, kind: Kind = Kind.RANKING, **values: object) -> str:
    fields = {"labels": {}, "model": "m", "dataset": "d", "digest": "x", "max_attempts": 3}
    job = Job(id=new_id("rk"), kind=kind, spec={}, resolved={}, **{**fields, **values})
    with database.write() as session:
        enqueue(session, job)
    return job.id


def test_a_job_runs_once_and_its_history_is_written(database: Database) -> None:
    job_id = submit(database)
    lease = take(database)
    assert (lease.job_id, lease.epoch) == (job_id, 1)
    assert jobs.claim(database, "another", WORKED, LEASE) is None
    jobs.finish(database, lease, {"answer": 1}, {"versions": {"surgery": "x"}})
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
    tune = submit(database, Kind.FINETUNE)
    claimed = jobs.claim(database, "w", [Kind.FINETUNE], LEASE)
    assert claimed is not None
    assert claimed[0].job_id == tune
    assert [take(database).job_id, take(database).job_id] == [urgent, old]


def test_an_expired_lease_fences_every_write(database: Database) -> None:
    submit(database)
    lease = take(database, timedelta(seconds=-1))
    writes = [
        lambda: jobs.renew(database, lease, LEASE, None, None),
        lambda: jobs.finish(database, lease, {}, {}),
        lambda: jobs.fail(database, lease, ERROR),
        lambda: jobs.release(database, lease),
        lambda: jobs.end_cancelled(database, lease),
        lambda: jobs.crash(database, lease, ERROR, NOW),
        lambda: runs.record_metrics(database, lease, 1, 0.1, {"loss": 1.0}),
        lambda: runs.commit_state(database, lease, "p", 1),
        lambda: runs.resolve_further(database, lease, {}),
        lambda: prune_checkpoints(database, lease, "best"),
    ]
    for write in writes:
        with pytest.raises(Fenced):
            write()
    assert look(database, lease.job_id).status == Status.RUNNING


def test_a_stale_worker_cannot_touch_the_next_attempt(database: Database) -> None:
    job_id = submit(database)
    stale = take(database, timedelta(seconds=-1))
    assert jobs.reap(database, NOW) == [job_id]
    fresh = take(database)
    assert fresh.epoch == stale.epoch + 1
    with pytest.raises(Fenced):
        jobs.finish(database, stale, {"from": "stale"}, {})
    jobs.finish(database, fresh, {"from": "fresh"}, {})
    with pytest.raises(Fenced):
        jobs.finish(database, fresh, {"from": "twice"}, {})
    assert look(database, job_id).result == {"from": "fresh"}


def test_the_third_crash_fails_the_job_and_keeps_the_reason(database: Database) -> None:
    job_id = submit(database)
    for crashes in (1, 2):
        assert jobs.crash(database, take(database), ERROR, NOW) is Status.QUEUED
        assert look(database, job_id).crashes == crashes
    assert jobs.crash(database, take(database), ERROR, NOW) is Status.FAILED
    job = look(database, job_id)
    assert (job.error, job.finished_at is None) == (ERROR, False)


def test_a_crash_waits_before_the_next_attempt(database: Database) -> None:
    submit(database)
    jobs.crash(database, take(database), ERROR, timedelta(hours=1))
    assert jobs.claim(database, "w", WORKED, LEASE) is None


def test_a_drained_job_goes_back_uncharged_and_keeps_its_place(database: Database) -> None:
    first, second = submit(database), submit(database)
    lease = take(database)
    runs.commit_state(database, lease, "jobs/state-5", 5)
    jobs.release(database, lease)
    job = look(database, first)
    assert (job.status, job.crashes, job.state) == (
        Status.QUEUED, 0, {"path": "jobs/state-5", "step": 5},
    )  # fmt: skip
    assert [take(database).job_id, take(database).job_id] == [first, second]


def test_cancelling_a_queued_job_ends_it(database: Database) -> None:
    job_id = submit(database)
    job = jobs.cancel(database, job_id)
    assert job is not None
    assert job.status == Status.CANCELLED
    assert jobs.claim(database, "w", WORKED, LEASE) is None


def test_cancelling_a_running_job_is_told_by_the_next_heartbeat(database: Database) -> None:
    job_id = submit(database)
    lease = take(database)
    assert not jobs.renew(database, lease, LEASE, "train", {"percent": 1.0}).cancel_requested
    jobs.cancel(database, job_id)
    assert jobs.renew(database, lease, LEASE, "train", None).cancel_requested
    jobs.end_cancelled(database, lease)
    assert statuses(database, job_id) == ["queued", "running", "cancelled"]


def test_cancelling_a_finished_job_changes_nothing(database: Database) -> None:
    job_id = submit(database)
    jobs.finish(database, take(database), {"answer": 1}, {})
    job = jobs.cancel(database, job_id)
    assert job is not None
    assert (job.status, job.cancel_requested) == (Status.SUCCEEDED, False)
    assert jobs.cancel(database, "rk_unknown") is None


def test_a_lost_worker_whose_job_was_cancelled_is_not_tried_again(database: Database) -> None:
    job_id = submit(database)
    take(database, timedelta(seconds=-1))
    jobs.cancel(database, job_id)
    jobs.reap(database, NOW)
    assert look(database, job_id).status == Status.CANCELLED


def test_reaping_leaves_live_leases_alone(database: Database) -> None:
    job_id = submit(database)
    take(database)
    assert jobs.reap(database, NOW) == []
    assert look(database, job_id).status == Status.RUNNING


def test_only_jobs_that_waited_unheard_are_rung_again(database: Database) -> None:
    job_id = submit(database)
    assert list(unrung(database)) == []
    assert [job.id for job in unrung(database, -1)] == [job_id]
    assert list(unrung(database)) == []


def test_metrics_of_a_repeated_step_are_replaced(database: Database) -> None:
    from app.tables import Metric

    submit(database)
    lease = take(database)
    runs.record_metrics(database, lease, 10, 0.5, {"train_loss": 2.0, "accuracy": None})
    runs.record_metrics(database, lease, 10, 0.5, {"train_loss": 1.0})
    with database.read() as session:
        found = {row.name: row.value for row in session.query(Metric)}
    assert found == {"train_loss": 1.0, "accuracy": None}


def test_checkpoints_are_replaced_by_step_and_pruned(database: Database) -> None:
    submit(database, Kind.FINETUNE)
    lease = take(database)

    def commit(path: str, step: int, *, best: bool) -> str | None:
        entry = {"step": step, "epoch": step, "form": "delta", "is_best": best, "metrics": {}}
        return runs.commit_checkpoint(database, lease, path, {"f": {"bytes": 2}}, entry)[1]

    assert commit("a", 1, best=True) is None
    assert commit("a2", 1, best=True) == "a"
    commit("b", 2, best=False)
    commit("c", 3, best=False)
    assert prune_checkpoints(database, lease, "best_and_last") == ["b"]
    commit("d", 4, best=True)
    assert prune_checkpoints(database, lease, "all") == []
    assert sorted(prune_checkpoints(database, lease, "best")) == ["a2", "c"]
    kept = runs.checkpoints_of(database, lease.job_id)
    assert [(row.path, row.is_best, row.bytes) for row in kept] == [("d", True, 2)]
    assert runs.referenced_paths(database) == {"d"}


def test_the_clock_is_the_databases(database: Database) -> None:
    from datetime import UTC, datetime

    from sqlalchemy import select

    with database.read() as session:
        now, later = session.execute(select(db_now(), db_now(90))).one()
    assert abs((now - datetime.now(UTC)).total_seconds()) < 5
    assert round((later - now).total_seconds(), 1) == 90
