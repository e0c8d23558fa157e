"""Logs in segments, on a disk and in an object store: what is kept, cut, and read from where."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from sqlalchemy.exc import SQLAlchemyError

from app.artifacts.attempt_logs import (
    LINE,
    LOG_LIMIT_BYTES,
    SEGMENT_BYTES,
    is_kept,
    log_key,
    read_log,
)
from app.artifacts.fetched import FetchedFolders
from app.artifacts.storage import Storage
from app.db import Database
from app.db.tables import Job, JobKind, new_id
from app.jobs.attempts import attempts_of
from app.jobs.state_machine import Lease, enqueue
from tests.support.service.queued_jobs import take
from worker.supervisor import job_log
from worker.supervisor.job_log import NO_SECRETS, JobLog, Scrubber


@pytest.fixture(params=["disk", "object store"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    url = str(tmp_path / "artifacts") if request.param == "disk" else "memory://logs"
    yield Storage(url, FetchedFolders(tmp_path / "fetched"))
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def lease(database: Database) -> Lease:
    job = Job(
        id=new_id("rk"), kind=JobKind.RANKING, spec={}, resolved={}, labels={}, model="m",
        dataset="d", digest="x", max_attempts=3,
    )  # fmt: skip
    with database.write() as session:
        enqueue(session, job)
    return take(database)


def texts(text: str) -> list[str]:
    return [found["text"] for found in LINE.finditer(text)]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_log_is_read_from_where_the_reader_left_off(
    database: Database, storage: Storage, lease: Lease
) -> None:
    log = JobLog(database, storage, lease, NO_SECRETS)
    read, after = [], 0
    with log:
        for number in range(4):
            for _ in range(number * 400):  # across the ends of segments
                log.write("job", f"line {number} {'x' * 60}")
            log._store(closed=False)
            (row,) = attempts_of(database, lease.job_id)
            read += texts(read_log(storage, log_key(*_of(lease)), row.log_bytes, after).text)
            assert not row.log_closed
            after = row.log_bytes
        log.write("supervisor", "the end")
    (row,) = attempts_of(database, lease.job_id)
    assert row.log_closed
    assert after > 2 * SEGMENT_BYTES
    whole = read_log(storage, row.log_path or "", row.log_bytes)
    assert texts(whole.text) == [*read, "the end"]
    assert len(read) == 400 + 800 + 1200
    log.write("job", "too late")
    assert row.log_bytes == attempts_of(database, lease.job_id)[0].log_bytes


def _of(lease: Lease) -> tuple[str, int]:
    return lease.job_id, lease.epoch


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_long_log_keeps_its_beginning_and_its_end(
    database: Database, storage: Storage, lease: Lease
) -> None:
    count = 60_000
    with JobLog(database, storage, lease, NO_SECRETS) as log:
        for number in range(count):
            log.write("job", f"line {number}")
            if number % 7_000 == 0:
                log._store(closed=False)
    (row,) = attempts_of(database, lease.job_id)
    assert row.log_bytes > 2 * LOG_LIMIT_BYTES
    part = read_log(storage, row.log_path or "", row.log_bytes)
    lines = texts(part.text)
    (gap,) = [place for place, line in enumerate(lines) if "bytes are left out" in line]
    assert lines[:gap] == [f"line {number}" for number in range(gap)]
    tail = lines[gap + 1 :]
    assert tail == [f"line {number}" for number in range(count - len(tail), count)]
    assert f"{part.cut_bytes:,} bytes" in lines[gap]
    kept = len(part.text.encode()) - len(lines[gap]) - len("2026-11-23T10:00:00.000Z supervisor \n")
    assert kept + part.cut_bytes == row.log_bytes
    assert kept <= LOG_LIMIT_BYTES
    stored = storage._files.ls(storage._path(row.log_path or ""), detail=False)
    assert len(stored) == LOG_LIMIT_BYTES // SEGMENT_BYTES
    # A reader that stopped within what is missing now goes on behind the gap.
    later = read_log(storage, row.log_path or "", row.log_bytes, LOG_LIMIT_BYTES)
    assert texts(later.text)[1:] == tail
    assert later.cut_bytes < part.cut_bytes


def test_the_kept_segments_never_exceed_the_limit() -> None:
    for size in (0, 1, SEGMENT_BYTES, LOG_LIMIT_BYTES, LOG_LIMIT_BYTES + 1, 9 * LOG_LIMIT_BYTES):
        kept = [number for number in range(size // SEGMENT_BYTES + 2) if is_kept(number, size)]
        assert 0 in kept
        assert len(kept) <= LOG_LIMIT_BYTES // SEGMENT_BYTES
        assert max(kept) == max(7, (size - 1) // SEGMENT_BYTES) or size <= LOG_LIMIT_BYTES


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_what_could_not_be_stored_is_stored_later(
    database: Database, storage: Storage, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    with JobLog(database, storage, lease, NO_SECRETS) as log:
        with monkeypatch.context() as broken:
            broken.setattr(job_log, "note_log", _fail)
            log.write("job", "one")
            log._store(closed=False)
        log.write("job", "two")
    (row,) = attempts_of(database, lease.job_id)
    assert texts(read_log(storage, row.log_path or "", row.log_bytes).text) == ["one", "two"]


def _fail(*_: object, **__: object) -> bool:
    raise SQLAlchemyError("the database is away")


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_the_log_of_a_deleted_job_leaves_nothing_behind(
    database: Database, storage: Storage
) -> None:
    with JobLog(database, storage, Lease("rk_deleted", 1), NO_SECRETS) as log:
        log.write("job", "still there")
    assert not storage._files.exists(storage._path("jobs/rk_deleted/1/log"))


def test_lines_show_no_secret_and_no_control_character() -> None:
    environment = {
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI", "MLFLOW_TRACKING_URI": "https://me:p%40ss-9w@ml",
        "HF_TOKEN": "hf_canary", "TOKENIZERS_PARALLELISM": "parallel", "PATH": "/usr/bin",
    }  # fmt: skip
    from app.settings import Settings

    settings = Settings(
        database_url="postgresql://app:dbcanary@db/x", redis_url="redis://:rediscanary@r/0"
    )
    clean = Scrubber.of(settings, environment).clean
    said = "hf_canary wJalrXUtnFEMI p%40ss-9w p@ss-9w dbcanary rediscanary parallel /usr/bin"
    assert clean(said) == "[secret] " * 6 + "parallel /usr/bin"
    assert clean("a\x1b[31mred\rback\u202ertl\x00\tend é") == (
        "a\\x1b[31mred\\rback\\u202ertl\\x00\\tend é"
    )
