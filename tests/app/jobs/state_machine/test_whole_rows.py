"""What each change of a job writes: these columns and these events, and nothing else.

All times of a row are put back before a change, so that the ones it sets can be told from others.
They are compared as seconds from now, rounded to hundreds: no machine is too slow for that.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import and_, select, text, update

from app.db import Database, db_now
from app.db.tables import Attempt, Job, JobEvent, JobKind, Status
from app.errors import Conflict, NewerDatabase
from app.jobs import state_machine
from app.jobs.attempts import attempts_of
from app.jobs.state_machine import Lease, ends
from surgery.schemas.answers.usage import Usage
from surgery.schemas.resolved import Learned, PeakMemory
from tests.support.service.queued_jobs import RESOLVED, look, submit

Json = dict[str, Any]
LONG = timedelta(seconds=1000)  # a lease
AGO = 5000  # seconds that the times of a row are put back
PUT_BACK = ("created_at", "queued_at", "started_at", "finished_at", "updated_at", "heartbeat_at",
            "rung_at", "not_before")  # fmt: skip
PROGRESS = {"percent": 40.0, "step": 4, "total_steps": 10, "unit": "steps", "eta_seconds": 7.0}
ERROR = {"code": "out_of_memory", "detail": "too large"}
SPENT = Usage(worker_seconds={"cpu": 2.5}, peak_memory_bytes=PeakMemory(host=700, device=None))
STATE = {"path": "jobs/x/state-4", "step": 4, "bytes": 40}


def told(value: Any) -> Any:
    """A value of a row; a time as hundreds of seconds from now."""
    if isinstance(value, datetime):
        return f"{round((value - datetime.now(UTC)).total_seconds() / 100):+d}00 s"
    return value


def row(database: Database, job_id: str) -> Json:
    """Every column of a job; a change of its version is one of the row."""
    job = look(database, job_id)
    columns = {each.key: told(getattr(job, each.key)) for each in Job.__mapper__.column_attrs}
    moments = [datetime.fromisoformat(change["at"]) for change in job.transitions]
    columns["transitions"] = [
        {**change, "at": told(moment)}
        for change, moment in zip(job.transitions, moments, strict=True)
    ]
    return columns


def events(database: Database, job_id: str) -> list[Any]:
    """Type, epoch, time and data of each event of a job."""
    with database.read() as session:
        rows = session.scalars(
            select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.seq)
        ).all()
    return [(each.type, each.lease_epoch, told(each.at), each.data) for each in rows]


def put_back(database: Database, job_id: str, **values: Any) -> None:
    """Let the job be older, and give it values."""
    with database.write() as session:
        job = session.get(Job, job_id)
        assert job is not None
        for name in PUT_BACK:
            if getattr(job, name) is not None or name in {"rung_at", "not_before"}:
                setattr(job, name, db_now(-AGO))
        for name, value in values.items():
            setattr(job, name, value)


def change(database: Database, job_id: str, act: Callable[[], Any]) -> tuple[Json, list[Any]]:
    """What ``act`` changes in a row, and the events that it adds."""
    before, known = row(database, job_id), events(database, job_id)
    act()
    after = row(database, job_id)
    changed = {name: value for name, value in after.items() if value != before[name]}
    assert changed.pop("version", 0) > before["version"] or not changed
    if "transitions" in changed:
        earlier = before["transitions"]
        assert changed["transitions"][: len(earlier)] == earlier
        changed["transitions"] = changed["transitions"][len(earlier) :]
    return changed, events(database, job_id)[len(known) :]


def running(database: Database, **values: Any) -> Lease:
    """A job that somebody works on, in the middle, after an attempt that crashed."""
    job_id = submit(database, JobKind.FINETUNE, resolved=RESOLVED)
    claimed = state_machine.claim(database, "host:1", [JobKind.FINETUNE], LONG)
    assert claimed is not None
    middle = {"phase": "train", "progress": PROGRESS, "state": STATE}
    put_back(database, job_id, **{**middle, **values})
    return claimed[0]


def queued(database: Database, **values: Any) -> str:
    """A job that was in the middle and waits."""
    job_id = submit(database, JobKind.FINETUNE, resolved=RESOLVED)
    put_back(database, job_id, **{"progress": PROGRESS, "state": STATE, **values})
    return job_id


NOW = "+000 s"
ASIDE = {**PROGRESS, "eta_seconds": None}


def ended(status: str, code: str | None = None, **values: Any) -> Json:
    """What every end of a running job writes, and what this one does besides."""
    step = {"status": status, "at": NOW} | ({"reason": code} if code else {})
    return {
        "status": status, "phase": None, "state": None, "lease_expires_at": None,
        "finished_at": NOW, "updated_at": NOW, "transitions": [step], **values,
    }  # fmt: skip


def status_event(status: str, epoch: int = 1, **data: Any) -> tuple[Any, ...]:
    return ("status", epoch, NOW, {"status": status, **data})


def test_a_new_job(database: Database) -> None:
    def insert(**values: Any) -> tuple[Json, list[Any]]:
        job_id = submit(database, deadline_seconds=1000, **values)
        return row(database, job_id), events(database, job_id)

    written, history = insert(priority=2)
    times = {name: written[name] for name in ("created_at", "queued_at", "updated_at")}
    assert times == dict.fromkeys(times, NOW)
    assert (written["deadline_at"], written["lease_epoch"], written["version"]) == ("+1000 s", 0, 1)
    assert (written["status"], written["traceparent"]) == ("queued", None)
    assert written["transitions"] == [{"status": "queued", "at": NOW}]
    assert history == [status_event("queued", 0)]
    assert insert()[0]["deadline_at"] == "+1000 s"
    assert row(database, submit(database))["deadline_at"] is None


def test_a_claim(database: Database) -> None:
    job_id = queued(database, error=ERROR, progress=None, priority=1)
    other = queued(database)
    taken = []

    def claim() -> None:
        taken.append(state_machine.claim(database, "host:1", [JobKind.FINETUNE], LONG, 1))

    written, history = change(database, job_id, claim)
    progress = written.pop("progress")
    assert (progress["percent"], progress["unit"], progress["eta_seconds"]) == (0.0, "phases", None)
    assert written == {
        "status": "running", "phase": "starting", "error": None, "lease_epoch": 1,
        "lease_owner": "host:1", "lease_expires_at": "+1000 s", "started_at": NOW,
        "heartbeat_at": NOW, "updated_at": NOW, "transitions": [{"status": "running", "at": NOW}],
    }  # fmt: skip
    assert history == [status_event("running", worker="host:1")]
    assert taken[0][0] == Lease(job_id, 1)
    assert taken[0][1].id == job_id
    [attempt] = attempts_of(database, job_id)
    assert (attempt.worker, attempt.epoch, attempt.outcome) == ("host:1", 1, None)
    claim()  # of the same project one may run
    assert taken[1] is None
    assert look(database, other).status == "queued"


def test_a_claim_takes_what_this_worker_can_export_and_of_equals_the_first_id(
    database: Database,
) -> None:
    def claim(exports: list[str] | None) -> str | None:
        kinds = [JobKind.EXPORT]
        found = state_machine.claim(database, "host:1", kinds, LONG, exports=exports)
        return found[0].job_id if found else None

    ids = [queued(database) for _ in range(3)]
    with database.write() as session:
        moment = session.scalar(select(db_now(-AGO)))
        for job_id, place in zip(ids, ("mlflow", "folder", "folder"), strict=True):
            job = session.get(Job, job_id)
            assert job is not None
            job.kind, job.spec, job.queued_at = JobKind.EXPORT, {"to": place}, moment
    assert claim([]) is None
    assert [claim(["folder"]) for _ in range(3)] == [*sorted(ids[1:]), None]
    assert claim(None) == ids[0]


def test_nothing_is_claimed_of_a_newer_database(database: Database) -> None:
    queued(database)
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(NewerDatabase):
        state_machine.claim(database, "host:1", [JobKind.FINETUNE], LONG)


@pytest.mark.parametrize("told_usage", [SPENT, None])
def test_a_heartbeat(database: Database, told_usage: Usage | None) -> None:
    lease = running(database)
    progress = {**PROGRESS, "percent": 30.0, "step": 3}

    def renew() -> None:
        state_machine.renew(database, lease, 2 * LONG, "evaluate", progress, told_usage)

    written, history = change(database, lease.job_id, renew)
    used = written.pop("usage", None)
    assert (used is not None) is (told_usage is not None)
    assert written == {
        "lease_expires_at": "+2000 s", "heartbeat_at": NOW, "updated_at": NOW, "phase": "evaluate",
        "progress": {**progress, "percent": 40.0},
    }  # fmt: skip
    assert history == []


def test_a_heartbeat_without_progress(database: Database) -> None:
    lease = running(database)
    written, history = change(
        database, lease.job_id, lambda: state_machine.renew(database, lease, LONG, None, None)
    )
    assert written == {"heartbeat_at": NOW, "updated_at": NOW, "phase": None}
    assert history == []


@pytest.mark.parametrize(
    ("result", "step"),
    [({"a": 1}, 10), ({"stopped_early": True}, 4), ({"stopped": {"by": "x"}}, 4)],
)
def test_a_result(database: Database, result: Json, step: int) -> None:
    lease = running(database, pause_requested=True)
    given, left = Learned(versions={"torch": "2"}), []

    def finish() -> None:
        left.append(state_machine.finish(database, lease, result, given, SPENT))

    written, history = change(database, lease.job_id, finish)
    full = {**PROGRESS, "percent": 100.0, "step": step, "eta_seconds": 0.0}
    assert Usage.of(written.pop("usage")) == SPENT
    resolved = written.pop("resolved")
    assert resolved == {**look(database, lease.job_id).resolved, "versions": {"torch": "2"}}
    assert written == ended("succeeded", own_result=result, pause_requested=False, progress=full)
    assert history == [status_event("succeeded")]
    assert left == [STATE]


def fail(database: Database, lease: Lease) -> None:
    state_machine.fail(database, lease, ERROR, SPENT)


def fail_overdue(database: Database, lease: Lease) -> None:
    state_machine.fail_overdue(database, lease, SPENT)


def end_cancelled(database: Database, lease: Lease) -> None:
    state_machine.end_cancelled(database, lease, SPENT)


@pytest.mark.parametrize(
    ("act", "status", "code"),
    [
        (fail, "failed", "out_of_memory"),
        (fail_overdue, "failed", "deadline_exceeded"),
        (end_cancelled, "cancelled", "cancelled"),
    ],
)
def test_an_end_without_a_result(
    database: Database, act: Callable[[Database, Lease], None], status: str, code: str
) -> None:
    lease = running(database, deadline_seconds=1000)
    written, history = change(database, lease.job_id, lambda: act(database, lease))
    assert Usage.of(written.pop("usage")) == SPENT
    assert written.pop("stored_bytes", 0) == 0
    assert written.pop("error")["code"] == code
    assert written == ended(status, code)
    assert history == [status_event(status, code=code)]
    [attempt] = attempts_of(database, lease.job_id)
    assert attempt.outcome == status


def test_a_crash_and_the_last_one(database: Database) -> None:
    lease = running(database, crashes=1)
    statuses = []

    def crash() -> None:
        statuses.append(state_machine.crash(database, lease, ERROR, LONG, SPENT))

    written, history = change(database, lease.job_id, crash)
    assert Usage.of(written.pop("usage")) == SPENT
    stored = written.pop("stored_bytes")
    assert stored == STATE["bytes"]
    assert written == {
        "status": "queued", "phase": None, "progress": ASIDE, "crashes": 2, "error": ERROR,
        "lease_expires_at": None, "not_before": "+2000 s", "rung_at": None, "updated_at": NOW,
        "transitions": [{"status": "queued", "at": NOW, "reason": "out_of_memory"}],
    }  # fmt: skip
    assert history == [status_event("queued", reason="out_of_memory")]
    last = running(database, crashes=2)
    written, history = change(
        database,
        last.job_id,
        lambda: statuses.append(state_machine.crash(database, last, ERROR, LONG)),
    )
    written.pop("usage")
    assert written == ended("failed", "out_of_memory", error=ERROR, crashes=3)
    assert history == [status_event("failed", code="out_of_memory")]
    assert statuses == [Status.QUEUED, Status.FAILED]
    assert [type(each) for each in statuses] == [Status, Status]


@pytest.mark.parametrize(
    ("crashes", "backoff", "pause"),
    [(3, 1000, "+3600 s"), (90, 10, "+3600 s"), (90, 7200, "+7200 s"), (0, 7200, "+7200 s")],
)
def test_the_pause_before_another_attempt_has_an_end(
    database: Database, crashes: int, backoff: int, pause: str
) -> None:
    """It doubles up to an hour, or stays as long as it was asked to be."""
    lease = running(database, crashes=crashes, max_attempts=100)
    written, _ = change(
        database,
        lease.job_id,
        lambda: state_machine.crash(database, lease, ERROR, timedelta(seconds=backoff)),
    )
    assert written["not_before"] == pause


def test_a_crash_that_says_nothing(database: Database) -> None:
    lease = running(database)
    written, _ = change(
        database, lease.job_id, lambda: state_machine.crash(database, lease, {}, LONG)
    )
    assert written["not_before"] == "+1000 s"
    assert written["transitions"] == [{"status": "queued", "at": NOW, "reason": "worker_lost"}]


def test_a_lost_worker(database: Database) -> None:
    lease = running(database)
    with database.write() as session:
        late = update(Job).where(Job.id == lease.job_id)
        session.execute(late.values(lease_expires_at=db_now(-1)))
    written, history = change(database, lease.job_id, lambda: state_machine.reap(database, LONG))
    assert written.pop("error")["detail"] == "the worker stopped answering; its lease ran out"
    assert (written["status"], written["crashes"], written["not_before"]) == (
        "queued", 1, "+1000 s",
    )  # fmt: skip
    assert history == [status_event("queued", reason="worker_lost")]
    [attempt] = attempts_of(database, lease.job_id)
    assert (attempt.outcome, attempt.log_closed) == ("lost", True)
    assert attempt.error is not None
    assert attempt.error["code"] == "worker_lost"


@pytest.mark.parametrize("reason", ["drained", "resumed", None])
def test_a_release(database: Database, reason: str | None) -> None:
    lease = running(database)
    given = {} if reason is None else {"reason": reason}
    written, history = change(
        database,
        lease.job_id,
        lambda: state_machine.release(database, lease, usage=SPENT, **given),
    )
    assert Usage.of(written.pop("usage")) == SPENT
    assert written.pop("stored_bytes") == STATE["bytes"]
    assert written == {
        "status": "queued", "phase": None, "progress": ASIDE, "lease_expires_at": None,
        "not_before": None, "rung_at": None, "updated_at": NOW,
        "transitions": [{"status": "queued", "at": NOW, "reason": reason or "drained"}],
    }  # fmt: skip
    assert history == [status_event("queued", reason=reason or "drained")]
    [attempt] = attempts_of(database, lease.job_id)
    assert attempt.outcome == ("paused" if reason == "resumed" else "drained")


def test_a_job_that_is_given_back(database: Database) -> None:
    lease = running(database)
    with database.write() as session:
        claimed = update(Job).where(Job.id == lease.job_id)
        session.execute(claimed.values(started_at=db_now()))
    given = []
    written, history = change(
        database,
        lease.job_id,
        lambda: given.extend(state_machine.give_back(database, "host:1", 1000)),
    )
    assert given == [lease.job_id]
    assert written["status"] == "queued"
    assert history == [status_event("queued", reason="claim_unanswered")]
    [attempt] = attempts_of(database, lease.job_id)
    assert (attempt.outcome, attempt.log_closed, attempt.log_bytes) == ("drained", True, 0)


def test_a_lease_that_has_ended_is_not_given_back(database: Database) -> None:
    """A sweep takes the job, and counts the crash."""
    lease = running(database, lease_expires_at=db_now(-1), started_at=db_now())
    assert state_machine.give_back(database, "host:1", 1000) == []
    assert look(database, lease.job_id).status == "running"


def test_a_cancel_of_a_waiting_job(database: Database) -> None:
    job_id = queued(database)
    written, history = change(
        database, job_id, lambda: state_machine.cancel(database, job_id, by="key_1")
    )
    error = written.pop("error")
    assert (error["code"], error["detail"]) == ("cancelled", "cancelled on request of key_1")
    end = ended("cancelled", "cancelled", cancel_requested=True)
    for same in ("phase", "lease_expires_at"):
        end.pop(same)
    assert written == end
    assert history == [
        ("cancel_requested", 0, NOW, {"by": "key_1"}),
        status_event("cancelled", 0, code="cancelled"),
    ]


def test_a_cancel_of_a_running_job(database: Database) -> None:
    lease = running(database, pause_requested=True)
    asked = []
    written, history = change(
        database, lease.job_id, lambda: asked.append(state_machine.cancel(database, lease.job_id))
    )
    assert written == {"cancel_requested": True, "pause_requested": False, "updated_at": NOW}
    assert history == [("cancel_requested", 1, NOW, {})]
    assert (asked[0].id, asked[0].cancel_requested) == (lease.job_id, True)
    written, history = change(
        database, lease.job_id, lambda: state_machine.end_cancelled(database, lease)
    )
    assert written["error"]["detail"] == "cancelled on request"
    assert state_machine.cancel(database, "ft_none") is None


def test_a_pause_of_a_waiting_job_and_its_end(database: Database) -> None:
    job_id = queued(database, not_before=db_now(1000))
    written, history = change(database, job_id, lambda: state_machine.pause(database, job_id))
    assert written == {
        "status": "paused", "progress": ASIDE, "not_before": None, "rung_at": None,
        "updated_at": NOW, "transitions": [{"status": "paused", "at": NOW}],
    }  # fmt: skip
    assert history == [status_event("paused", 0)]
    put_back(database, job_id, phase="train")
    written, history = change(database, job_id, lambda: state_machine.resume(database, job_id))
    assert written == {
        "status": "queued", "phase": None, "not_before": None, "rung_at": None, "updated_at": NOW,
        "transitions": [{"status": "queued", "at": NOW, "reason": "resumed"}],
    }  # fmt: skip
    assert history == [status_event("queued", 0, reason="resumed")]
    assert state_machine.pause(database, "ft_none") is None
    assert state_machine.resume(database, "ft_none") == (None, [])


@pytest.mark.parametrize("action", ["pause", "resume"])
def test_what_is_not_possible_any_more_is_said(database: Database, action: str) -> None:
    job_id = queued(database)
    state_machine.cancel(database, job_id)
    with pytest.raises(Conflict, match=f"so {action} is not possible"):
        getattr(state_machine, action)(database, job_id)


def test_a_pause_of_a_running_job_and_its_end(database: Database) -> None:
    lease = running(database)
    written, history = change(
        database, lease.job_id, lambda: state_machine.pause(database, lease.job_id)
    )
    assert written == {"pause_requested": True, "updated_at": NOW}
    assert history == [("pause_requested", 1, NOW, {})]
    put_back(database, lease.job_id)
    written, history = change(
        database, lease.job_id, lambda: state_machine.resume(database, lease.job_id)
    )
    assert written == {"pause_requested": False, "updated_at": NOW}
    assert history == [("pause_withdrawn", 1, NOW, {})]


@pytest.mark.parametrize("how", ["release", "crash"])
def test_a_pause_that_is_carried_out(database: Database, how: str) -> None:
    lease = running(database, pause_requested=True)

    def stop() -> None:
        if how == "release":
            state_machine.release(database, lease)
        else:
            assert state_machine.crash(database, lease, ERROR, LONG) is Status.PAUSED

    written, history = change(database, lease.job_id, stop)
    for counted in ("usage", "stored_bytes"):
        written.pop(counted)
    assert written == {
        "status": "paused", "phase": None, "progress": ASIDE, "pause_requested": False,
        "lease_expires_at": None, "not_before": None, "rung_at": None, "updated_at": NOW,
        "transitions": [{"status": "paused", "at": NOW}],
    }  # fmt: skip
    assert history == [status_event("paused")]


def test_a_deadline_that_passes_while_a_job_waits(database: Database) -> None:
    job_id = queued(database, deadline_seconds=1, deadline_at=db_now(-1))
    other = queued(database, deadline_seconds=1000, deadline_at=db_now(1000))
    late = []
    written, history = change(
        database, job_id, lambda: late.extend(state_machine.end_overdue(database))
    )
    assert late == [job_id]
    assert written.pop("error")["code"] == "deadline_exceeded"
    end = ended("failed", "deadline_exceeded")
    for same in ("phase", "lease_expires_at"):
        end.pop(same)
    assert written == end
    assert history == [status_event("failed", 0, code="deadline_exceeded")]
    assert look(database, other).status == "queued"


Sweep = Callable[[Database, str], bool]


def take_back(database: Database, job_id: str) -> bool:
    return ends._take_back(database, job_id, LONG)


def end_overdue(database: Database, job_id: str) -> bool:
    waiting = and_(Job.deadline_at <= db_now(), Job.status == Status.QUEUED)
    return ends._end_overdue(database, job_id, waiting)


def lost(database: Database) -> str:
    return running(database, lease_expires_at=db_now(-1)).job_id


def late(database: Database) -> str:
    return queued(database, deadline_seconds=1, deadline_at=db_now(-1))


@pytest.mark.parametrize(("sweep", "made"), [(take_back, lost), (end_overdue, late)])
def test_a_sweep_takes_the_jobs_that_it_has_seen_if_they_are_still_so(
    database: Database, sweep: Sweep, made: Callable[[Database], str]
) -> None:
    first, second, third = made(database), made(database), made(database)
    with database.write() as session:
        job = session.get(Job, third)
        assert job is not None
        later = {"lease_expires_at": db_now(1000), "deadline_at": db_now(1000)}
        for name, value in later.items():  # renewed, or asked for, since the sweep has looked
            setattr(job, name, value)
    before = row(database, first), row(database, third)
    assert sweep(database, second)
    assert not sweep(database, third)
    assert not sweep(database, "ft_none")
    assert (row(database, first), row(database, third)) == before
    assert look(database, second).error is not None


@pytest.mark.parametrize(("sweep", "made"), [(take_back, lost), (end_overdue, late)])
def test_a_sweep_steps_over_a_comparison_that_another_has(
    database: Database, sweep: Sweep, made: Callable[[Database], str], monkeypatch: Any
) -> None:
    job_id, asked = made(database), []

    def taken(_: Any, child: str) -> bool:
        asked.append(child)
        return False

    monkeypatch.setattr(ends, "try_lock_comparison", taken)
    assert change(database, job_id, lambda: asked.append(sweep(database, job_id))) == ({}, [])
    assert asked == [job_id, False]


def test_a_ranking_that_is_stored_as_it_was_computed(database: Database) -> None:
    job = Job(
        id="rk_stored", kind=JobKind.RANKING, spec={}, labels={}, model="m", dataset="d",
        digest="x", max_attempts=3, resolved=RESOLVED,
    )  # fmt: skip
    with database.write() as session:
        assert state_machine.store_finished(session, job) is job
    written = row(database, "rk_stored")
    assert (written["status"], written["started_at"], written["finished_at"]) == (
        "succeeded", NOW, NOW,
    )  # fmt: skip
    assert [each["status"] for each in written["transitions"]] == ["queued", "succeeded"]
    assert [each[3]["status"] for each in events(database, "rk_stored")] == ["queued", "succeeded"]
    with database.read() as session:
        assert session.scalars(select(Attempt)).all() == []
