"""Whatever is asked of jobs in whatever order, they behave as a small model says, on both databases.

The model knows what each call does to one job. Hypothesis draws sequences of calls; after each of
them the row of every job is compared with its model.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, select, update

from app.db import Database, db_now
from app.db.tables import TERMINAL, Attempt, Job, JobEvent, Status
from app.errors import Conflict
from app.jobs import state_machine
from app.jobs.state_machine import Fenced, Lease
from surgery.schemas.resolved import Learned
from tests.support.service.queued_jobs import LEASE, look, submit, take

ERROR = {"code": "worker_lost", "detail": "gone"}
NOW = timedelta(0)
MAX_ATTEMPTS = 3
PLACES = st.integers(0, 3)  # in a list of jobs, counted round and round
ENDS = ("overdue", "cancelled")  # ways to end, beside a result and an error


@dataclass
class Expected:
    """What a job should be."""

    status: str = "queued"
    pause_requested: bool = False
    cancel_requested: bool = False
    crashes: int = 0
    overdue: bool = False
    lease: Lease | None = None  # the newest, whether it holds or not
    expired: bool = False

    @property
    def over(self) -> bool:
        return self.status in TERMINAL

    @property
    def needs_repair(self) -> bool:
        lost = self.status == "running" and self.expired
        return lost or (self.overdue and self.status in {"queued", "paused"})

    def stop(self) -> None:
        """The attempt is over and was asked to stop, or goes back to the queue."""
        if self.cancel_requested:
            self.status = "cancelled"
        elif self.pause_requested:
            self.status = "paused"
        else:
            self.status = "queued"
        self.pause_requested = False

    def crash(self) -> None:
        if not (self.cancel_requested or self.pause_requested):
            self.crashes += 1
            if self.crashes == MAX_ATTEMPTS:
                self.status = "failed"
                return
        self.stop()

    def end(self, status: str) -> None:
        self.status, self.pause_requested = status, False


class LifeOfJobs(RuleBasedStateMachine):
    """Some jobs, and everything that users, workers and sweepers do to them."""

    database: Database

    def __init__(self) -> None:
        super().__init__()
        self.expected: dict[str, Expected] = {}
        self.settled: set[str] = set()  # the jobs that were seen to be over
        with self.database.write() as session:
            for table in (Attempt, JobEvent, Job):
                session.execute(delete(table))

    # Few rules with many choices: hypothesis leaves some rules out of each run.

    @precondition(lambda self: sum(not each.over for each in self.expected.values()) < 2)
    @rule()
    def submit(self) -> None:
        """Somebody submits a job."""
        self.expected[submit(self.database, max_attempts=MAX_ATTEMPTS)] = Expected()

    @precondition(lambda self: any(e.status == "queued" for e in self.expected.values()))
    @rule(expired=st.sampled_from([False, False, False, True]))
    def claim(self, expired: bool) -> None:
        """A worker takes the next job, and perhaps is never heard of again."""
        self._claim(expired=expired)

    @precondition(lambda self: self.expected)
    @rule(place=PLACES, act=st.sampled_from(["resume", "pause", "cancel", "pass_deadline"]))
    def user(self, place: int, act: str) -> None:
        """Somebody asks something of one of the newest jobs."""
        newest = [*self.expected][::-1]
        getattr(self, f"_{act}")(newest[place % len(newest)])

    @precondition(lambda self: any(e.lease for e in self.expected.values()))
    @rule(place=PLACES, act=st.sampled_from(["renew", "finish", "fail", "crash", "release", *ENDS]))
    def worker(self, place: int, act: str) -> None:
        """A worker writes for a job that it has, or for one that it had."""
        leased = [job for job, expected in self.expected.items() if expected.lease][::-1]
        leased.sort(key=lambda job: self.expected[job].status != "running")
        job = leased[place % len(leased)]
        if act == "renew":
            self._renew(job)
        elif act in {"crash", "release"}:
            self._stop(job, crashed=act == "crash")
        else:
            self._end(job, act)

    @precondition(lambda self: any(e.needs_repair for e in self.expected.values()))
    @rule()
    def sweep(self) -> None:
        """A worker repairs what others have left."""
        self._reap()
        self._end_overdue()

    # Users.

    def _pause(self, job: str) -> None:
        expected = self.expected[job]
        if expected.over or expected.cancel_requested:
            with pytest.raises(Conflict, match="possible now"):
                state_machine.pause(self.database, job)
            return
        state_machine.pause(self.database, job)
        if expected.status == "queued":
            expected.status = "paused"
        elif expected.status == "running":
            expected.pause_requested = True

    def _resume(self, job: str) -> None:
        expected = self.expected[job]
        if expected.over or expected.cancel_requested:
            with pytest.raises(Conflict, match="possible now"):
                state_machine.resume(self.database, job)
            return
        _, queued = state_machine.resume(self.database, job)
        assert [each.id for each in queued] == ([job] if expected.status == "paused" else [])
        if expected.status == "paused":
            expected.status = "queued"
        expected.pause_requested = False

    def _cancel(self, job: str) -> None:
        state_machine.cancel(self.database, job)
        expected = self.expected[job]
        if expected.over:
            return
        expected.cancel_requested, expected.pause_requested = True, False
        if expected.status != "running":
            expected.status = "cancelled"

    def _pass_deadline(self, job: str) -> None:
        with self.database.write() as session:
            late = update(Job).where(Job.id == job)
            session.execute(late.values(deadline_seconds=1, deadline_at=db_now(-1)))
        self.expected[job].overdue = True

    # Workers.

    def _claim(self, *, expired: bool) -> None:
        ready = [
            job
            for job, expected in self.expected.items()
            if expected.status == "queued" and not expected.overdue
        ]
        duration = timedelta(seconds=-1) if expired else LEASE
        if not ready:
            assert state_machine.claim(self.database, "w", ["ranking"], duration) is None
            return
        lease = take(self.database, duration)
        assert lease.job_id == ready[0]  # the oldest, whatever happened to it meanwhile
        expected = self.expected[lease.job_id]
        expected.status, expected.lease, expected.expired = "running", lease, expired

    @contextlib.contextmanager
    def _writes(self, expected: Expected) -> Iterator[None]:
        """Expects Fenced unless the job's newest lease holds."""
        if expected.status == "running" and not expected.expired:
            yield
        else:
            with pytest.raises(Fenced):
                yield

    def _holds(self, job: str) -> tuple[Expected, Lease | None, bool]:
        expected = self.expected[job]
        holds = expected.status == "running" and not expected.expired
        return expected, expected.lease, holds

    def _renew(self, job: str) -> None:
        expected, lease, holds = self._holds(job)
        if lease is None:
            return
        with self._writes(expected):
            renewal = state_machine.renew(self.database, lease, LEASE, "train", None)
        if holds:
            assert (renewal.cancel_requested, renewal.pause_requested) == (
                expected.cancel_requested, expected.pause_requested,
            )  # fmt: skip
            assert (renewal.seconds_left is not None) is expected.overdue

    def _end(self, job: str, how: str) -> None:
        expected, lease, holds = self._holds(job)
        if lease is None:
            return
        with self._writes(expected):
            if how == "finish":
                state_machine.finish(self.database, lease, {"answer": 1}, Learned())
            elif how == "fail":
                state_machine.fail(self.database, lease, ERROR)
            elif how == "overdue":
                with _with_deadline(self.database, job):
                    state_machine.fail_overdue(self.database, lease)
            else:
                state_machine.end_cancelled(self.database, lease)
        if holds:
            expected.end({"finish": "succeeded", "cancelled": "cancelled"}.get(how, "failed"))

    def _stop(self, job: str, *, crashed: bool) -> None:
        expected, lease, holds = self._holds(job)
        if lease is None:
            return
        with self._writes(expected):
            if crashed:
                state_machine.crash(self.database, lease, ERROR, NOW)
            else:
                state_machine.release(self.database, lease)
        if holds:
            expected.crash() if crashed else expected.stop()

    # Sweepers.

    def _reap(self) -> None:
        lost = {j for j, e in self.expected.items() if e.status == "running" and e.expired}
        assert set(state_machine.reap(self.database, NOW)) == lost
        for job in lost:
            self.expected[job].crash()

    def _end_overdue(self) -> None:
        waiting = {
            job
            for job, e in self.expected.items()
            if e.overdue and e.status in {"queued", "paused"}
        }
        assert set(state_machine.end_overdue(self.database)) == waiting
        for job in waiting:
            self.expected[job].end("failed")

    # What always holds.

    @invariant()
    def every_row_is_as_expected(self) -> None:
        for job_id, expected in self.expected.items():
            if job_id in self.settled:
                continue  # its row is looked at once more at the end
            job = look(self.database, job_id)
            found = (job.status, job.pause_requested, job.cancel_requested, job.crashes)
            assert found == (
                expected.status, expected.pause_requested, expected.cancel_requested,
                expected.crashes,
            )  # fmt: skip
            assert (job.finished_at is not None) is expected.over
            assert (job.lease_expires_at is not None) is (expected.status == "running")
            assert (job.result is not None) is (expected.status == "succeeded")
            if expected.status in {"failed", "cancelled"}:
                assert job.error is not None

            if expected.over:
                self.settled.add(job_id)

    def teardown(self) -> None:
        self.settled.clear()
        self.every_row_is_as_expected()
        self._the_history_has_every_change_once()

    def _the_history_has_every_change_once(self) -> None:
        for job_id, expected in self.expected.items():
            with self.database.read() as session:
                query = select(JobEvent.data).where(
                    JobEvent.job_id == job_id, JobEvent.type == "status"
                )
                told = [data["status"] for data in session.scalars(query.order_by(JobEvent.seq))]
            assert told[-1] == expected.status
            assert all(before != after for before, after in itertools.pairwise(told))
            assert sum(status in TERMINAL for status in told) == expected.over


@contextlib.contextmanager
def _with_deadline(database: Database, job_id: str) -> Iterator[None]:
    """The error of a job that is too late names its seconds."""
    with database.write() as session:
        session.execute(
            update(Job)
            .where(Job.id == job_id, Job.deadline_seconds.is_(None))
            .values(deadline_seconds=1)
        )
    yield


@pytest.mark.parametrize("lives", [15, pytest.param(150, marks=pytest.mark.slow)])
def test_jobs_live_as_the_model_says(database: Database, lives: int) -> None:
    class Here(LifeOfJobs):
        pass

    Here.database = database
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=lives,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_statuses_are_those_of_the_model() -> None:
    assert {status.value for status in Status} == {
        "queued", "running", "paused", "succeeded", "failed", "cancelled",
    }  # fmt: skip
