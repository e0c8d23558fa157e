"""Access to the database, SQLite or Postgres, for the API and for workers.

Only the database's own clock, ``db_now``, decides whether a lease has expired.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydantic_core import from_json
from sqlalchemy import (
    Connection,
    DateTime,
    Dialect,
    Engine,
    Float,
    Row,
    Select,
    create_engine,
    event,
    func,
    literal,
    select,
)
from sqlalchemy.exc import InvalidatePoolError, OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

from app.errors import NotMigrated
from app.settings import Settings

# Short enough to notice a server that hangs well within a lease.
POSTGRES_TIMEOUTS = {"connect_timeout": 5, "tcp_user_timeout": 10_000, "keepalives_idle": 10}
# A connection that rested longer is tried before it is used, in case the server has restarted.
RESTED_SECONDS = 1.0
# Connections that read, and that write, at a time. Each is used for a moment, and more requests
# wait for one: to open a connection for a single transaction would cost more than the transaction.
READERS = 10
WRITERS = 10
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
    inherit_cache = True  # the seconds are a parameter, so statements with it are compiled once

    def __init__(self, plus_seconds: float = 0.0) -> None:
        super().__init__(*([literal(float(plus_seconds), Float())] if plus_seconds else []))


@compiles(db_now, "postgresql")
def _now_postgres(element: db_now, compiler: SQLCompiler, **options: Any) -> str:
    if not len(element.clauses):
        return "clock_timestamp()"
    seconds = compiler.process(element.clauses, **options)
    return f"(clock_timestamp() + {seconds} * interval '1 second')"


@compiles(db_now, "sqlite")
def _now_sqlite(element: db_now, compiler: SQLCompiler, **options: Any) -> str:
    # unixepoch('subsec') is NULL before SQLite 3.42; julianday is exact to about 40 µs everywhere.
    now = "(julianday('now') - 2440587.5) * 86400.0"
    if len(element.clauses):
        now += f" + {compiler.process(element.clauses, **options)}"
    return f"round(({now}) * 1000000.0)"


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
        session.scalar(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))


def _note_use(_: object, record: ConnectionPoolEntry) -> None:
    record.info["used"] = time.monotonic()


def _try_rested(
    connection: psycopg.Connection, record: ConnectionPoolEntry, _: PoolProxiedConnection
) -> None:
    """Replace a connection that rested for a while and does not answer any more.

    Asking before every use, as ``pool_pre_ping`` does, would cost a read as much as its statement.
    """
    if time.monotonic() - record.info["used"] < RESTED_SECONDS:
        return
    try:
        connection.execute("SELECT 1")
        connection.rollback()  # no transaction stays open that this may have begun
    except psycopg.Error as error:
        raise InvalidatePoolError("the connection was lost") from error


class Database:
    """A database, with one way to read and one kind of transaction that writes."""

    def __init__(self, url: str) -> None:
        self.url = url
        if url.startswith("sqlite:///"):
            Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        # Reads have connections of their own, whose statements begin no transaction: that saves
        # the two round trips to the server of a BEGIN and a ROLLBACK.
        self.engine = _engine(url)
        self._reader = _engine(url, reads=True)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Only reads. Each statement sees what was committed when it began.

        What must agree is therefore read by one statement, or in a transaction that writes.
        """
        with Session(self._reader, expire_on_commit=False) as session:
            yield session

    def rows(self, statement: Select[Any], parameters: Mapping[str, Any]) -> Sequence[Row[Any]]:
        """The rows of one statement that reads, without the objects that a session makes."""
        with self._reader.connect() as connection:
            return connection.execute(statement, parameters).all()

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that is committed at the end, or rolled back on an error.

        Read every row that was selected, or use ``scalar``, which closes the rest: on SQLite a
        statement with unread rows keeps its snapshot, and its connection cannot write again.
        """
        engine = self.engine.execution_options(writes=True)
        with Session(engine, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()
        self._reader.dispose()

    def is_at_head(self) -> bool:
        """Whether every migration has been applied."""
        head = ScriptDirectory.from_config(alembic_config(self.url)).get_current_head()
        with self.engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision() == head

    def upgrade(self) -> None:
        """Apply every migration."""
        command.upgrade(alembic_config(self.url), "head")


def _engine(url: str, *, reads: bool = False) -> Engine:
    """Connections that begin transactions; with ``reads``, those whose statements need none."""
    sqlite = url.startswith("sqlite")
    options: dict[str, Any] = {} if sqlite else {"connect_args": POSTGRES_TIMEOUTS}
    options |= {"pool_size": READERS if reads else WRITERS, "max_overflow": 0}
    if reads and not sqlite:  # whose driver begins none by itself, see _prepare_sqlite
        options |= {"isolation_level": "AUTOCOMMIT", "skip_autocommit_rollback": True}
    engine = create_engine(url, json_deserializer=from_json, **options)
    if sqlite:
        event.listen(engine, "connect", _prepare_sqlite)
        if not reads:
            event.listen(engine, "begin", _begin_sqlite)
    else:
        event.listen(engine, "connect", _note_use)
        event.listen(engine, "checkin", _note_use)
        event.listen(engine, "checkout", _try_rested)
    return engine


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
