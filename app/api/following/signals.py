"""Learns that followed jobs may have changed: from Postgres' notifications, or by looking.

A signal names a job and says no more; what changed is read from the tables. So a signal that is
lost, late or repeated does no harm, and every followed job is read from time to time without one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from pathlib import Path
from typing import Any, Protocol

import psycopg

from app.db import POSTGRES_TIMEOUTS, REPLY_SECONDS, Database

log = logging.getLogger("surgeon.api")
CHANNEL = "surgeon_jobs"  # the triggers of the migrations notify it
POLL_SECONDS = 0.1  # between two looks at the database, without notifications
SWEEP_SECONDS = 5.0  # between two reads of every followed job, with notifications
LONGEST_RETRY_SECONDS = 30.0


class Marked(Protocol):
    """Who is told which jobs to read."""

    async def anybody(self) -> None:
        """Wait until any job is followed."""

    def mark(self, job_ids: list[str]) -> None:
        """Read these jobs."""

    def mark_all(self) -> None:
        """Read every followed job."""


async def watch(jobs: Marked, database: Database) -> None:
    """Mark followed jobs when they may have changed, until it is cancelled."""
    if database.engine.dialect.name == "sqlite":
        await _watch_file(jobs, Path(database.url.removeprefix("sqlite:///")))
    else:
        await _watch_postgres(jobs, database)


async def _watch_file(jobs: Marked, path: Path) -> None:
    """Mark every job when another connection has written to the file."""
    uri = f"{path.resolve().as_uri()}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None)
    seen = None
    with contextlib.closing(connection):
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await jobs.anybody()
            # A number that SQLite counts up with the commits of others: no table is read.
            now = await asyncio.to_thread(_data_version, connection)
            if now is None or now != seen:
                seen = now
                jobs.mark_all()


def _data_version(connection: sqlite3.Connection) -> int | None:
    try:
        return int(connection.execute("PRAGMA data_version").fetchone()[0])
    except sqlite3.OperationalError as error:  # locked, for a moment
        log.debug("the database file cannot be read: %s", error)
        return None


async def _watch_postgres(jobs: Marked, database: Database) -> None:
    """Listen on one connection; while there is none, look at every job again and again."""
    pause = POLL_SECONDS
    while True:
        began = time.monotonic()
        try:
            await _listen(jobs, database)
        except (psycopg.Error, OSError) as error:
            log.warning("no notifications from Postgres, polling until it is back: %s", error)
        if time.monotonic() - began > LONGEST_RETRY_SECONDS:  # it had worked
            pause = POLL_SECONDS
        pause = min(2 * pause, LONGEST_RETRY_SECONDS)
        await _poll_for(jobs, pause)


async def _listen(jobs: Marked, database: Database) -> None:
    """Mark each job that a notification names. Raises psycopg.Error when the connection is lost."""
    url = database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    timeouts: dict[str, Any] = dict(POSTGRES_TIMEOUTS)
    connection = await psycopg.AsyncConnection.connect(url, autocommit=True, **timeouts)
    async with connection:
        async with asyncio.timeout(REPLY_SECONDS):
            await connection.execute(f"LISTEN {CHANNEL}")
        log.info("listening to Postgres for changes of jobs")
        while True:
            jobs.mark_all()  # for what was changed before, and for signals that were lost
            async for signal in connection.notifies(timeout=SWEEP_SECONDS):
                jobs.mark([signal.payload])
            async with asyncio.timeout(REPLY_SECONDS):
                await connection.execute("SELECT 1")  # raises if the connection is gone


async def _poll_for(jobs: Marked, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await asyncio.sleep(POLL_SECONDS)
        await jobs.anybody()
        jobs.mark_all()
