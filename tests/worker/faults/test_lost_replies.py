"""Replies that are lost after the database has carried out what it was asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from app.db import Database
from app.db.tables import WORKER_KINDS, Checkpoint, Job, JobEvent, JobKind, WebhookDelivery
from app.jobs import state_machine
from app.jobs.attempts import attempts_of
from app.jobs.outputs import records
from app.settings import Settings
from surgery.io.folders import complete_folder
from surgery.io.reporter import CheckpointSummary
from surgery.schemas.resolved import Learned
from tests.support.faults.proxy import Proxy, proxy_to
from tests.support.faults.told_attempts import ToldAttempt, begin
from tests.support.service.finished_runs import finetune_result
from tests.support.service.queued_jobs import RESOLVED, look, statuses, submit, take
from tests.worker.faults.test_refused_writes import problem
from worker.protocol import CheckpointSaved, Finished
from worker.supervisor.attempt.attempt import Outcome
from worker.supervisor.attempt.context import WorkerContext
from worker.supervisor.supervisor import Supervisor

FILES = {"delta.safetensors": {"bytes": 3, "sha256": "0"}}
BEST = CheckpointSummary(step=1, epoch=1.0, form="delta", is_best=True, metrics={"loss": 0.5})


@pytest.fixture
def proxied(postgres_url: str) -> Iterator[tuple[Proxy, Database]]:
    """A Postgres behind a proxy, and the database as a worker sees it through that."""
    with closing(Database(postgres_url.replace("postgresql://", "postgresql+psycopg://"))) as own:
        own.upgrade()
    with proxy_to(postgres_url) as proxy, closing(Database(proxy.url)) as database:
        yield proxy, database


def events(database: Database, job_id: str, kind: str) -> list[Any]:
    with database.read() as session:
        query = select(JobEvent.data).where(JobEvent.job_id == job_id, JobEvent.type == kind)
        return list(session.scalars(query))


def test_a_claim_without_an_answer_is_given_back_uncharged(
    proxied: tuple[Proxy, Database], tmp_path: Path
) -> None:
    proxy, database = proxied
    storage: Any = None
    supervisor = Supervisor(
        WorkerContext(Settings(data_dir=tmp_path), database, storage), WORKER_KINDS
    )
    job_id = submit(database)
    other = state_machine.claim(database, "another", WORKER_KINDS, timedelta(seconds=60))
    assert other is not None
    state_machine.release(database, other[0])
    proxy.lose_the_reply(b"UPDATE jobs", b"COMMIT")
    assert supervisor._claim(10.0) is None
    assert proxy.lost.is_set()
    assert (look(database, job_id).status, look(database, job_id).lease_epoch) == ("running", 2)
    claimed = supervisor._claim(11.0)
    assert claimed is not None
    assert (claimed[0].job_id, claimed[0].epoch, claimed[1].crashes) == (job_id, 3, 0)
    outcomes = [(each.outcome, each.log_closed) for each in attempts_of(database, job_id)]
    assert outcomes == [("drained", False), ("drained", True), (None, False)]
    supervisor.folders.remove()


def test_only_what_was_claimed_since_is_given_back(database: Database) -> None:
    """A worker that was killed may have had the same name; its job is counted as lost."""
    lease = take(database) if submit(database) else None
    assert lease is not None
    assert state_machine.give_back(database, "another", 60) == []
    assert state_machine.give_back(database, "worker", -1) == []
    assert look(database, lease.job_id).status == "running"
    assert state_machine.give_back(database, "worker", 60) == [lease.job_id]
    assert (look(database, lease.job_id).status, look(database, lease.job_id).crashes) == (
        "queued", 0,
    )  # fmt: skip


def test_a_repeated_checkpoint_is_one_row_and_one_event(database: Database) -> None:
    submit(database, JobKind.FINETUNE)
    lease = take(database)
    first, _ = records.commit_checkpoint(database, lease, "a", FILES, BEST)
    assert records.commit_checkpoint(database, lease, "a", FILES, BEST) == (first, None)
    assert [event["id"] for event in events(database, lease.job_id, "checkpoint")] == [first]
    (row,) = records.checkpoints_of(database, lease.job_id)
    assert (row.id, row.is_best, row.path) == (first, True, "a")
    again, replaced = records.commit_checkpoint(database, lease, "b", FILES, BEST)
    assert (again, replaced) == (first, "a")
    assert len(events(database, lease.job_id, "checkpoint")) == 2


def test_a_repeated_ranking_is_one_job_and_one_event(database: Database) -> None:
    submit(database, JobKind.FINETUNE, resolved=RESOLVED)
    lease = take(database)
    spec = {"model": "m", "dataset": "d"}
    ids = {records.store_ranking(database, lease, "digest", spec, {"a": 1}) for _ in range(2)}
    (ranking,) = ids
    with database.read() as session:
        found = session.scalars(select(Job.id).where(Job.parent == lease.job_id)).all()
    assert list(found) == [ranking]
    assert events(database, lease.job_id, "ranking") == [{"id": ranking}]
    assert look(database, lease.job_id).resolved["ranking"] == ranking


def checkpoint(told: ToldAttempt) -> None:
    folder = told.attempt.scratch / "checkpoint-1"
    with complete_folder(folder) as building:
        (building / "delta.safetensors").write_bytes(b"abc")
    told.child.say(CheckpointSaved(path=folder, summary=BEST))


def finished(told: ToldAttempt) -> None:
    result = finetune_result(0.5).model_dump(mode="json")
    told.child.say(Finished(result=result, resolved=Learned()))


def failed(told: ToldAttempt) -> None:
    told.child.say(problem("diverged"))


def cancelled(told: ToldAttempt) -> None:
    state_machine.cancel(told.attempt.database, told.lease.job_id)


@pytest.mark.parametrize(
    ("happen", "word", "outcome", "status"),
    [
        (finished, b"succeeded", Outcome.SUCCEEDED, "succeeded"),
        (failed, b"failed", Outcome.FAILED, "failed"),
        (cancelled, b"cancelled", Outcome.KILLED, "cancelled"),
    ],
)
def test_the_end_of_a_job_without_an_answer_is_its_end(
    proxied: tuple[Proxy, Database], tmp_path: Path,
    happen: Callable[[ToldAttempt], None], word: bytes, outcome: Outcome, status: str,
) -> None:  # fmt: skip
    proxy, database = proxied
    settings = Settings(data_dir=tmp_path, heartbeat=timedelta(seconds=0.2), grace=timedelta(0))
    told = begin(database, tmp_path, [], settings=settings)
    happen(told)
    proxy.lose_the_reply(word, b"COMMIT")
    assert told.run() is outcome
    assert proxy.lost.is_set()
    job = look(database, told.lease.job_id)
    assert (job.status, job.crashes) == (status, 0)
    assert statuses(database, job.id) == ["queued", "running", status]


def test_a_checkpoint_without_an_answer_is_stored_once(
    proxied: tuple[Proxy, Database], tmp_path: Path
) -> None:
    proxy, database = proxied
    told = begin(database, tmp_path, [])
    checkpoint(told)
    finished(told)
    proxy.lose_the_reply(b"INSERT INTO checkpoints", b"COMMIT")
    assert told.run() is Outcome.SUCCEEDED
    assert proxy.lost.is_set()
    with database.read() as session:
        assert len(session.scalars(select(Checkpoint)).all()) == 1
        assert session.scalars(select(WebhookDelivery)).all() == []
    assert len(events(database, told.lease.job_id, "checkpoint")) == 1
