"""Who holds the name of an exported folder, and when the folder goes, on both databases."""

from __future__ import annotations

from typing import Any

import pytest

from app.db import Database
from app.db.tables import DEFAULT_PROJECT, Job, JobKind, new_id
from app.jobs import state_machine
from app.jobs.deletion import delete_job
from app.jobs.outputs.exports import (
    complete_folder_of,
    disown_abandoned_folders,
    remove_folders,
    reserve_folder,
)
from app.jobs.state_machine import Lease, enqueue
from surgery.errors import ExportRefused
from surgery.schemas.resolved import Learned
from tests.support.service.queued_jobs import LEASE, RESOLVED, look

KEY = f"exports/{DEFAULT_PROJECT}/reader"


def started(database: Database, **spec: Any) -> Lease:
    """An export that runs."""
    job = Job(
        id=new_id("ex"), kind=JobKind.EXPORT, spec={"to": "folder", **spec}, labels={}, model="m",
        dataset="d", digest="x", max_attempts=1, resolved=RESOLVED,
    )  # fmt: skip
    with database.write() as session:
        enqueue(session, job)
    claimed = state_machine.claim(database, "worker", [JobKind.EXPORT], LEASE)
    assert claimed is not None
    return claimed[0]


def reserved(database: Database, lease: Lease, digest: str = "sha256:a") -> bool:
    """Reserve the name; whether the very content is there already."""
    found = reserve_folder(database, lease, DEFAULT_PROJECT, "reader", digest, 1000)
    assert found.path == KEY
    return found.complete


def exported(database: Database) -> Lease:
    """An export that has written the folder."""
    lease = started(database)
    assert reserved(database, lease) is False
    complete_folder_of(database, lease, "reader")
    finish(database, lease)
    return lease


def finish(database: Database, lease: Lease) -> None:
    state_machine.finish(database, lease, {}, Learned())


def delete(database: Database, lease: Lease) -> list[str]:
    """Delete the job; the folders that go with it."""
    delete_job(database, lease.job_id, lambda _: None)
    removed: list[str] = []
    remove_folders(database, removed.append)
    return removed


def test_equal_content_is_there_and_goes_with_the_last_export(database: Database) -> None:
    first = exported(database)
    assert look(database, first.job_id).stored_bytes == 1000
    second = started(database)
    assert reserved(database, second) is True
    finish(database, second)
    assert look(database, first.job_id).stored_bytes == 0
    assert look(database, second.job_id).stored_bytes == 1000
    assert delete(database, first) == []
    assert delete(database, second) == [KEY]
    assert reserved(database, started(database)) is False


def test_other_content_is_refused_until_the_first_is_deleted(database: Database) -> None:
    first, second = exported(database), started(database)
    with pytest.raises(ExportRefused, match=f"exported by {first.job_id}"):
        reserved(database, second, "sha256:b")
    delete_job(database, first.job_id, lambda _: None)
    with pytest.raises(ExportRefused, match="is being removed"):
        reserved(database, second, "sha256:b")
    remove_folders(database, lambda _: None)
    assert reserved(database, second, "sha256:b") is False


def test_two_exports_at_once_do_not_mix(database: Database) -> None:
    first, second = started(database), started(database)
    assert reserved(database, first) is False
    with pytest.raises(ExportRefused, match=f"{first.job_id} exports to folder reader"):
        reserved(database, second)
    assert reserved(database, first) is False, "a later attempt at the same job"


def test_a_name_is_free_again_after_an_export_that_wrote_nothing(database: Database) -> None:
    first = started(database)
    reserved(database, first)
    disown_abandoned_folders(database)
    removed: list[str] = []
    remove_folders(database, removed.append)
    assert removed == []
    state_machine.fail(database, first, {"code": "internal", "detail": "x"})
    second = started(database)
    assert reserved(database, second, "sha256:b") is False
    state_machine.fail(database, second, {"code": "internal", "detail": "x"})
    disown_abandoned_folders(database)
    remove_folders(database, removed.append)
    assert removed == [KEY]


def test_a_worker_claims_only_what_it_can_export(database: Database) -> None:
    for place in ("moon", "folder"):
        job = Job(
            id=new_id("ex"), kind=JobKind.EXPORT, spec={"to": place}, labels={}, model="m",
            dataset="d", digest="x", max_attempts=1, resolved=RESOLVED,
        )  # fmt: skip
        with database.write() as session:
            enqueue(session, job)
    kinds = [JobKind.RANKING, JobKind.EXPORT]
    assert state_machine.claim(database, "w", kinds, LEASE, None, []) is None
    claimed = state_machine.claim(database, "w", kinds, LEASE, None, ["folder"])
    assert claimed is not None
    assert claimed[1].spec == {"to": "folder"}
    assert state_machine.claim(database, "w", kinds, LEASE, None, ["folder"]) is None
    rest = state_machine.claim(database, "w", kinds, LEASE, None, ["folder", "moon"])
    assert rest is not None
