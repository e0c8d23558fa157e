"""Access to the database, SQLite or Postgres, for the API and for workers.

Only the database's own clock, ``db_now``, decides whether a lease has expired.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    Connection,
    DateTime,
    Dialect,
    Engine,
    Float,
    create_engine,
    event,
    func,
    select,
)
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

from app.errors import NotMigrated
from app.settings import Settings

# Short enough to notice a server that hangs well within a lease.
POSTGRES_TIMEOUTS = {"connect_timeout": 5, "tcp_user_timeout": 10_000, "keepalives_idle": 10}
WRITER_WAIT_SECONDS = 30.0  # SQLite lets one connection write at a time

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class Instant(TypeDecorator[datetime]):
    """A moment in UTC, stored and read to the microsecond.

    The column is a timestamptz on Postgres and holds microseconds since 1970 on SQLite.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The column's type: SQLite has none for moments, and a double is exact until 2255."""
        if dialect.name == "sqlite":
            return dialect.type_descriptor(Float())
        return dialect.type_descriptor(DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """A moment as it is stored."""
        return (value - EPOCH) // MICROSECOND if value and dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """A moment as it was stored, in UTC."""
        if value is None:
            return None
        if dialect.name == "sqlite":
            return EPOCH + float(value) * MICROSECOND
        assert isinstance(value, datetime)
        return value.astimezone(UTC)


class db_now(FunctionElement[datetime]):  # noqa: N801  # reads as the SQL function it is
    """The time by the database's clock, plus a number of seconds."""

    type = Instant()
    inherit_cache = False

    def __init__(self, plus_seconds: float = 0.0) -> None:
        super().__init__()
        self.seconds = float(plus_seconds)


@compiles(db_now, "postgresql")
def _now_postgres(element: db_now, *_: object, **__: object) -> str:
    return f"(clock_timestamp() + interval '{element.seconds:.3f} seconds')"


@compiles(db_now, "sqlite")
def _now_sqlite(element: db_now, *_: object, **__: object) -> str:
    # unixepoch('subsec') is NULL before SQLite 3.42; julianday is exact to about 40 µs everywhere.
    seconds = f"(julianday('now') - 2440587.5) * 86400.0 + {element.seconds:.3f}"
    return f"round(({seconds}) * 1000000.0)"


def _prepare_sqlite(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # transactions are begun by _begin_sqlite
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA busy_timeout=200")


def _begin_sqlite(connection: Connection) -> None:
    """Begin a transaction; one that writes takes SQLite's single write lock at once.

    It tries again after random pauses, because SQLite's own busy handler starves writers under
    load.
    """
    if not connection.get_execution_options().get("writes"):
        connection.exec_driver_sql("BEGIN")
        return
    deadline = time.monotonic() + WRITER_WAIT_SECONDS
    while True:
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        except OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0.005, 0.05))  # noqa: S311
        else:
            return


def lock_name(session: Session, name: str) -> None:
    """Let no other transaction lock this name until this one, which writes, has ended.

    SQLite has a single writer anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))


class Database:
    """A database, with one kind of transaction that reads and one that writes."""

    def __init__(self, url: str) -> None:
        self.url = url
        if url.startswith("sqlite:///"):
            Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        sqlite = url.startswith("sqlite")
        self.engine: Engine = create_engine(
            url, pool_pre_ping=not sqlite, connect_args={} if sqlite else POSTGRES_TIMEOUTS
        )
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only reads."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that is committed at the end, or rolled back on an error."""
        engine = self.engine.execution_options(writes=True)
        with Session(engine, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    def is_at_head(self) -> bool:
        """Whether every migration has been applied."""
        head = ScriptDirectory.from_config(alembic_config(self.url)).get_current_head()
        with self.engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision() == head

    def upgrade(self) -> None:
        """Apply every migration."""
        command.upgrade(alembic_config(self.url), "head")


def alembic_config(url: str) -> Config:
    """Alembic's configuration: migrations are in the installed package or in the source tree."""
    installed = Path(__file__).parent / "migrations"
    config = Config()
    folder = installed if installed.is_dir() else Path(__file__).parent.parent / "alembic"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.attributes["url"] = url
    return config


def open_database(settings: Settings) -> Database:
    """The database, with every migration applied.

    An embedded database is migrated here. Starting a process never changes a Postgres database;
    if that lacks migrations, NotMigrated is raised.
    """
    database = Database(settings.resolved_database_url)
    if not database.is_at_head():
        if not settings.embedded:
            database.close()
            raise NotMigrated(NotMigrated.__doc__)
        database.upgrade()
    return database
