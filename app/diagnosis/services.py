"""Checks of what the service keeps its state in: database, broker, storage and disk."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from app.access.keys import has_keys
from app.artifacts.storage import open_storage
from app.db import Database, db_now
from app.diagnosis.finding import Finding, broken, doubtful, works
from app.errors import NewerDatabase, NotMigrated
from app.settings import Settings
from app.submissions.fleet import registered_workers

SKEW_SECONDS = 2.0  # a clock that is kept by NTP differs by less
LOW_BYTES, LEAST_BYTES = 10 << 30, 1 << 30  # a few models and runs; not even one
REDIS_SECONDS = 3.0
PROBE = "doctor"
GIB = 1 << 30


def database_findings(settings: Settings) -> Iterator[Finding]:
    """Whether the database answers, has every migration, has keys and workers, and its clock."""
    if settings.embedded and not _file_of(settings).is_file():
        yield works("database", f"{_file_of(settings)} will be made when the service starts")
        return
    database = Database(settings.resolved_database_url)
    name = _shown(settings.resolved_database_url)
    try:
        yield from _of_database(settings, database, name)
    except (SQLAlchemyError, OSError) as error:
        yield broken(
            "database",
            f"{name} does not answer: {_reason(error)}",
            "start it, or correct SURGEON_DATABASE_URL",
        )
    finally:
        database.close()


def _of_database(settings: Settings, database: Database, name: str) -> Iterator[Finding]:
    with database.read() as session:
        now = session.scalar(select(db_now()))
    try:
        database.check_version()
    except NewerDatabase:
        found = f"{name} answers, but a newer version of Layer Surgeon has migrated it"
        yield broken("database", found, "install that version here")
        return
    except NotMigrated:
        remedy = (
            "start the service, which migrates it" if settings.embedded else "surgeon db upgrade"
        )
        yield broken("database", f"{name} answers, but lacks migrations", remedy)
        return
    yield works("database", f"{name} answers, with every migration")
    assert now is not None, "a clock has a time"
    skew = abs((now - datetime.now(UTC)).total_seconds())
    if skew > SKEW_SECONDS:
        yield doubtful(
            "clock",
            f"this machine's clock and the database's differ by {skew:.1f} s",
            "keep both by NTP: times in logs and answers will not fit together",
        )
    else:
        yield works("clock", "that of this machine is the database's")
    yield _keys(settings, database)
    yield _workers(settings, database)


def _keys(settings: Settings, database: Database) -> Finding:
    if settings.api_key_hashes or has_keys(database):
        return works("keys", "requests need an API key")
    return doubtful(
        "keys",
        "there is no API key, so the service listens on 127.0.0.1 alone",
        "for other machines: surgeon key, and set SURGEON_API_KEY_HASHES",
    )


def _workers(settings: Settings, database: Database) -> Finding:
    registered = registered_workers(database, settings.lease)
    alive = [worker for worker in registered if worker.alive]
    if not alive:
        return doubtful("workers", "none is alive", "surgeon serve, or surgeon worker")
    kinds = sorted({str(kind) for worker in alive for kind in worker.kinds})
    return works("workers", f"{len(alive)} alive, for {', '.join(kinds)}")


def broker_findings(settings: Settings) -> Iterator[Finding]:
    """Whether Redis takes messages."""
    if settings.redis_url is None:
        if not settings.embedded:
            yield doubtful(
                "broker",
                "SURGEON_REDIS_URL is not set: workers look for jobs every "
                f"{settings.poll.total_seconds():g} s, and each API process counts requests itself",
                "set it to a Redis, unless that is meant",
            )
        return
    url = settings.redis_url.get_secret_value()
    key = f"surgeon:{PROBE}:{secrets.token_hex(8)}"
    try:
        with Redis.from_url(
            url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS
        ) as redis:
            redis.set(key, b"1", ex=10)
            redis.delete(key)
    except (RedisError, OSError, ValueError) as error:
        yield broken(
            "broker",
            f"{_shown(url)} does not take writes: {_reason(error)}",
            "start it, free its memory or disk, or correct SURGEON_REDIS_URL; jobs are found by "
            "polling meanwhile",
        )
    else:
        yield works("broker", f"{_shown(url)} takes writes")


def storage_findings(settings: Settings) -> Iterator[Finding]:
    """Whether what is written to the storage of artifacts can be read, and removed, again."""
    shown = _shown(settings.resolved_artifacts_url)
    key, content = f"{PROBE}/{secrets.token_hex(8)}", secrets.token_bytes(32)
    try:
        storage = open_storage(settings)
        storage.put_file(f"{key}/probe", content)
        same = storage.read_file(f"{key}/probe") == content
        storage.delete(key)
    except Exception as error:  # noqa: BLE001  # each object store has errors of its own
        yield broken(
            "storage",
            f"{shown} cannot be written, read and cleared: {_reason(error)}",
            "correct SURGEON_ARTIFACTS_URL, or the permissions and credentials of this process",
        )
        return
    if same:
        yield works("storage", f"{shown} can be written, read and cleared")
    else:
        yield broken("storage", f"{shown} answers other bytes than were written", "use another")


def disk_findings(settings: Settings) -> Iterator[Finding]:
    """How much room there is for data, models and what jobs write while they run."""
    folders = {"data": settings.data_dir.resolve(), "scratch": Path(tempfile.gettempdir())}
    for name, folder in folders.items():
        there = next(path for path in (folder, *folder.parents) if path.is_dir())
        free = shutil.disk_usage(there).free
        found = f"{free / GIB:,.1f} GiB free in {folder}"
        remedy = "free some, or " + (
            "set SURGEON_DATA_DIR to a larger disk" if name == "data" else "set TMPDIR"
        )
        checked = f"disk, {name}"
        if free < LEAST_BYTES:
            yield broken(checked, found, remedy)
        elif free < LOW_BYTES:
            yield doubtful(checked, found, remedy)
        else:
            yield works(checked, found)


def _file_of(settings: Settings) -> Path:
    return Path(settings.resolved_database_url.removeprefix("sqlite:///"))


def _shown(url: str) -> str:
    """A URL without what may be secret in it, or a path."""
    parts = urlsplit(url)
    if parts.scheme.startswith("sqlite"):
        return url.removeprefix("sqlite:///")
    if not parts.scheme:
        return url
    place = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme.partition('+')[0]}://{place}{port}{parts.path}"


def _reason(error: BaseException) -> str:
    """The first line of an error's message; SQLAlchemy's are in the error that caused it."""
    cause = getattr(error, "orig", None) or error
    lines = str(cause).strip().splitlines()
    return lines[0] if lines else type(cause).__name__
