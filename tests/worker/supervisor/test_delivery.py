"""A folder is written to an object store whole, whatever ends the worker in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import pytest

from app.artifacts.storage import Storage, open_storage
from app.db import Database
from app.db.tables import DEFAULT_PROJECT, Job, JobKind, new_id
from app.jobs import state_machine
from app.jobs.state_machine import Lease, enqueue
from app.settings import Settings
from surgery.io.folders import complete_folder, link_folder
from tests.support.service.queued_jobs import LEASE, RESOLVED, look
from worker.supervisor.attempt.delivery import Delivery, Written

KEY = f"exports/{DEFAULT_PROJECT}/reader"
FILES = {"config.json": "{}", "model.safetensors": "weights", "surgery.json": "{}"}
Value = TypeVar("Value")


class Killed(BaseException):
    """The worker's end in the middle of a write."""


class PlainWrites:
    """Writes that are tried once."""

    def write(self, statement: Callable[[], Value]) -> Value:
        return statement()


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    url = "memory://exported-models"
    yield open_storage(Settings(data_dir=tmp_path / "data", artifacts_url=url))
    if fsspec.filesystem("memory").exists("/exported-models"):
        fsspec.filesystem("memory").rm("/exported-models", recursive=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with complete_folder(tmp_path / "export") as building:
        for name, text in FILES.items():
            (building / name).write_text(text)
    return tmp_path / "export"


def started(database: Database) -> Lease:
    spec = {"to": "folder", "target": "reader", "checkpoint": "ck_1"}
    job = Job(
        id=new_id("ex"), kind=JobKind.EXPORT, spec=spec, labels={}, model="m", dataset="d",
        digest="x", max_attempts=3, resolved=RESOLVED,
    )  # fmt: skip
    with database.write() as session:
        enqueue(session, job)
    claimed = state_machine.claim(database, "worker", [JobKind.EXPORT], LEASE)
    assert claimed is not None
    return claimed[0]


def deliver(database: Database, storage: Storage, lease: Lease, folder: Path, copy: str) -> Written:
    """Hand a copy of the folder over; a delivery takes the files away."""
    own = link_folder(folder, folder.with_name(copy))
    delivery = Delivery.of(look(database, lease.job_id), own)
    writes: Any = PlainWrites()
    return delivery.to_folder(database, storage, lease, writes)


@pytest.mark.parametrize("place", range(len(FILES) + 1))
def test_a_folder_without_its_end_is_none_and_the_next_attempt_writes_it(
    database: Database, storage: Storage, folder: Path, place: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    lease, files, count = started(database), storage._files, 0

    def or_die(write: Callable[..., None]) -> Callable[..., None]:
        def written(*arguments: Any, **more: Any) -> None:
            nonlocal count
            count += 1
            if count > place:
                raise Killed
            write(*arguments, **more)

        return written

    with monkeypatch.context() as patched:
        for name in ("put_file", "pipe_file"):
            patched.setattr(files, name, or_die(getattr(files, name)))
        with pytest.raises(Killed):
            deliver(database, storage, lease, folder, "first")
    assert storage.names(KEY) == [], "readers find no folder"
    written = deliver(database, storage, lease, folder, "second")
    assert written == Written(KEY, created=True)
    assert sorted(storage.names(KEY)) == sorted(FILES)
    for name, text in FILES.items():
        assert storage.read_file(f"{KEY}/{name}") == text.encode()


def test_an_attempt_after_the_write_finds_it_done(
    database: Database, storage: Storage, folder: Path
) -> None:
    lease = started(database)
    assert deliver(database, storage, lease, folder, "first").created
    assert deliver(database, storage, lease, folder, "second") == Written(KEY, created=False)


@pytest.mark.parametrize("damage", ["changed", "unlisted"])
def test_what_differs_from_its_manifest_is_not_handed_over(
    database: Database, folder: Path, damage: str
) -> None:
    name = "model.safetensors" if damage == "changed" else "more.bin"
    (folder / name).write_text("other")
    with pytest.raises(OSError, match="put together"):
        Delivery.of(look(database, started(database).job_id), folder)
