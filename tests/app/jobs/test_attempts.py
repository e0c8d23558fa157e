"""Attempts are written with the transitions of their job, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from app.artifacts.attempt_logs import LOG_LIMIT_BYTES
from app.db import Database
from app.db.tables import Checkpoint, Job, JobKind, new_id
from app.jobs import state_machine
from app.jobs.attempts import attempts_of, note_log
from app.jobs.outputs import records
from app.jobs.outputs.checkpoints import delete_checkpoint
from app.jobs.state_machine import Lease, enqueue
from surgery.io.reporter import CheckpointSummary
from surgery.schemas.answers.usage import Usage
from surgery.schemas.resolved import Learned, PeakMemory
from tests.support.service.queued_jobs import LEASE, look, take

ERROR = {"code": "worker_lost", "detail": "gone"}
NOW = timedelta(0)
SPENT = Usage(worker_seconds={"cpu": 2.5}, peak_memory_bytes=PeakMemory(host=700, device=None))


def submit(database: Database) -> str:
    job = Job(
        id=new_id("rk"), kind=JobKind.RANKING, spec={}, resolved={}, labels={}, model="m",
        dataset="d", digest="x", max_attempts=3,
    )  # fmt: skip
    with database.write() as session:
        enqueue(session, job)
    return job.id


@pytest.mark.parametrize(
    ("end", "outcome", "error"),
    [
        (lambda d, lease: state_machine.finish(d, lease, {}, Learned(), SPENT), "succeeded", None),
        (lambda d, lease: state_machine.fail(d, lease, ERROR, SPENT), "failed", ERROR),
        (lambda d, lease: state_machine.crash(d, lease, ERROR, NOW, SPENT), "crashed", ERROR),
        (lambda d, lease: state_machine.release(d, lease, usage=SPENT), "drained", None),
        (lambda d, lease: state_machine.end_cancelled(d, lease, SPENT), "cancelled", None),
    ],
)
def test_whatever_takes_the_job_from_its_worker_ends_the_attempt(
    database: Database, end: Callable[[Database, Lease], object], outcome: str, error: object
) -> None:
    job_id = submit(database)
    lease = take(database)
    (begun,) = attempts_of(database, job_id)
    assert (begun.epoch, begun.worker, begun.ended_at) == (lease.epoch, "worker", None)
    end(database, lease)
    (ended,) = attempts_of(database, job_id)
    assert (ended.outcome, ended.error) == (outcome, error)
    assert ended.ended_at is not None
    assert ended.ended_at >= ended.started_at
    assert Usage.of(ended.usage) == Usage.of(look(database, job_id).usage) == SPENT


def test_a_lost_attempt_counts_until_its_last_heartbeat(database: Database) -> None:
    job_id = submit(database)
    lease = take(database)
    state_machine.renew(database, lease, timedelta(seconds=-1), "train", None, SPENT)
    assert Usage.of(look(database, job_id).usage) == SPENT
    assert state_machine.reap(database, NOW) == [job_id]
    (lost,) = attempts_of(database, job_id)
    assert (lost.outcome, Usage.of(lost.usage)) == ("lost", SPENT)
    assert lost.error is not None
    assert lost.error["code"] == "worker_lost"


def test_a_job_has_used_what_all_its_attempts_have(database: Database) -> None:
    job_id = submit(database)
    state_machine.crash(database, take(database), ERROR, NOW, SPENT)
    on_gpu = Usage(
        worker_seconds={"NVIDIA H200": 4.0, "cpu": 0.25},
        peak_memory_bytes=PeakMemory(host=100, device=9000),
    )
    lease = take(database)
    state_machine.renew(database, lease, LEASE, "train", None, on_gpu)
    state_machine.end_cancelled(database, lease, on_gpu)
    assert [row.outcome for row in attempts_of(database, job_id)] == ["crashed", "cancelled"]
    assert Usage.of(look(database, job_id).usage) == Usage(
        worker_seconds={"cpu": 2.75, "NVIDIA H200": 4.0},
        peak_memory_bytes=PeakMemory(host=700, device=9000),
    )


def test_a_crash_of_a_cancelled_job_is_a_crash_of_its_attempt(database: Database) -> None:
    job_id = submit(database)
    lease = take(database)
    state_machine.cancel(database, job_id)
    state_machine.crash(database, lease, ERROR, NOW)
    assert [row.outcome for row in attempts_of(database, job_id)] == ["crashed"]


def test_a_paused_job_has_an_attempt_that_was_paused(database: Database) -> None:
    job_id = submit(database)
    lease = take(database)
    state_machine.pause(database, job_id)
    state_machine.release(database, lease, usage=SPENT)
    state_machine.resume(database, job_id)
    state_machine.finish(database, take(database), {}, Learned(), SPENT)
    assert [row.outcome for row in attempts_of(database, job_id)] == ["paused", "succeeded"]
    assert Usage.of(look(database, job_id).usage).worker_seconds == {"cpu": 5.0}


def test_a_queued_job_that_is_cancelled_leaves_its_attempts_as_they_ended(
    database: Database,
) -> None:
    job_id = submit(database)
    state_machine.release(database, take(database))
    state_machine.cancel(database, job_id)
    assert [row.outcome for row in attempts_of(database, job_id)] == ["drained"]


def test_stored_bytes_are_those_of_checkpoints_state_and_logs(database: Database) -> None:
    job_id = submit(database)
    lease = take(database)
    summary = CheckpointSummary(1.0, 5, "delta", {}, is_best=True)
    files = {"delta.safetensors": {"bytes": 300, "sha256": "x"}}
    records.commit_checkpoint(database, lease, "jobs/c", files, summary)
    records.commit_state(database, lease, "jobs/s", 5, 40)
    assert look(database, job_id).stored_bytes == 340
    assert note_log(database, job_id, lease.epoch, 7, closed=False)
    state_machine.end_cancelled(database, lease)
    assert look(database, job_id).stored_bytes == 300 + 7
    assert note_log(database, job_id, lease.epoch, LOG_LIMIT_BYTES + 7, closed=True)
    assert look(database, job_id).stored_bytes == 300 + LOG_LIMIT_BYTES
    with database.read() as session:
        checkpoint = session.scalars(select(Checkpoint.id)).one()
    delete_checkpoint(database, checkpoint)
    assert look(database, job_id).stored_bytes == LOG_LIMIT_BYTES


def cancel_paused(database: Database, lease: Lease) -> None:
    state_machine.pause(database, lease.job_id)
    state_machine.release(database, lease)
    assert look(database, lease.job_id).stored_bytes == 40
    state_machine.cancel(database, lease.job_id)


def crash_for_the_last_time(database: Database, lease: Lease) -> None:
    with database.write() as session:
        session.execute(update(Job).where(Job.id == lease.job_id).values(crashes=2))
    state_machine.crash(database, lease, ERROR, NOW)


@pytest.mark.parametrize("end", [cancel_paused, crash_for_the_last_time])
def test_a_state_that_nothing_resumes_from_is_not_counted(
    database: Database, end: Callable[[Database, Lease], None]
) -> None:
    job_id = submit(database)
    lease = take(database)
    records.commit_state(database, lease, "jobs/s", 5, 40)
    end(database, lease)
    assert look(database, job_id).state is None
    assert look(database, job_id).stored_bytes == 0


def test_the_log_of_a_deleted_job_is_told_from_any_other(database: Database) -> None:
    assert not note_log(database, "rk_gone", 1, 10, closed=True)
