"""A database, SQLite or Postgres, with its connections and its migrations."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydantic_core import from_json
from sqlalchemy import Engine, Row, Select, create_engine, event, func, select
from sqlalchemy.orm import Session

from app.db import postgres, sqlite
from app.errors import NewerDatabase, NotMigrated
from app.settings import Settings
from surgery.io.storable import storable_json

# Connections that read, and that write, at a time. Each is used for a moment, and more requests
# wait for one: to open a connection for a single transaction would cost more than the transaction.
READERS = 10
WRITERS = 10
# For which a request waits for one of them: all are in use while the database hangs.
POSTGRES_POOL_SECONDS = 5.0
SQLITE_POOL_SECONDS = 30.0  # as long as a transaction waits for its turn to write


def lock_name(session: Session, name: str) -> None:
    """Let no other transaction lock this name until this one, which writes, has ended.

    SQLite has a single writer anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.scalar(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))


def try_lock_name(session: Session, name: str) -> bool:
    """The same, unless another transaction has locked the name: then False, at once."""
    if session.get_bind().dialect.name != "postgresql":
        return True
    taken = select(func.pg_try_advisory_xact_lock(func.hashtextextended(name, 0)))
    return bool(session.scalar(taken))


class Database:
    """A database, with one way to read and one kind of transaction that writes."""

    def __init__(self, url: str, *, unlimited: bool = False) -> None:
        """``unlimited`` is for migrations, whose statements may take as long as they need."""
        self.url = url
        if url.startswith("sqlite:///"):
            Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        # Reads have connections of their own, whose statements begin no transaction: that saves
        # the two round trips to the server of a BEGIN and a ROLLBACK.
        self.engine = _engine(url, unlimited=unlimited)
        self._reader = _engine(url, reads=True, unlimited=unlimited)

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

    @cached_property
    def _migrations(self) -> ScriptDirectory:
        return ScriptDirectory.from_config(alembic_config(self.url))

    @cached_property
    def head(self) -> str | None:
        """The newest migration that this version of the service knows."""
        return self._migrations.get_current_head()

    def is_at_head(self) -> bool:
        """Whether exactly the migrations have been applied that this version knows."""
        return self._revision() == self.head

    def check_version(self) -> None:
        """Raise NotMigrated or NewerDatabase unless the database is at `head`."""
        revision = self._revision()
        if revision == self.head:
            return
        known = {script.revision for script in self._migrations.walk_revisions()}
        error = NotMigrated if revision is None or revision in known else NewerDatabase
        raise error(error.__doc__)

    def _revision(self) -> str | None:
        with self.engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()

    def upgrade(self) -> None:
        """Apply every migration."""
        command.upgrade(alembic_config(self.url), "head")


def _engine(url: str, *, reads: bool = False, unlimited: bool = False) -> Engine:
    """Connections that begin transactions; with ``reads``, those whose statements need none."""
    is_sqlite = url.startswith("sqlite")
    options: dict[str, Any] = {"json_serializer": _to_json, "json_deserializer": _from_json}
    options |= {"pool_size": READERS if reads else WRITERS, "max_overflow": 0}
    if is_sqlite:
        engine = create_engine(url, pool_timeout=SQLITE_POOL_SECONDS, **options)
        event.listen(engine, "connect", sqlite.prepare)
        if not reads:
            event.listen(engine, "begin", sqlite.begin)
        return engine
    options |= {"connect_args": postgres.POSTGRES_TIMEOUTS, "pool_timeout": POSTGRES_POOL_SECONDS}
    if reads:  # SQLite's driver begins none by itself
        options |= {"isolation_level": "AUTOCOMMIT", "skip_autocommit_rollback": True}
    engine = create_engine(url, **options)
    if not unlimited:
        event.listen(engine, "do_connect", postgres.connect)
        event.listen(engine, "connect", postgres.note_use)
        event.listen(engine, "checkin", postgres.note_use)
        event.listen(engine, "checkout", postgres.try_rested)
    return engine


def _to_json(value: Any) -> str:
    """A value as it is stored: without characters that a database refuses, or answers cannot have.

    What enters the service is checked or cleaned at the door; this is for whatever else there is.
    """
    text = json.dumps(value)
    # Only as escapes can a NUL, or half of a surrogate pair, be in a text of ASCII.
    if "\\u0000" in text or "\\ud" in text:
        return json.dumps(storable_json(value))
    return text


def _from_json(text: str | bytes) -> Any:
    """A stored value. An earlier version may have stored half of a surrogate pair on SQLite."""
    try:
        return from_json(text)
    except ValueError:
        return storable_json(json.loads(text))


def alembic_config(url: str) -> Config:
    """Alembic's configuration: migrations are in the installed package or in the source tree."""
    app = Path(__file__).parents[1]
    installed = app / "migrations"
    config = Config()
    folder = installed if installed.is_dir() else app.parent / "alembic"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.attributes["url"] = url
    return config


def open_database(settings: Settings) -> Database:
    """The database, with every migration applied.

    An embedded database is migrated here. Starting a process never changes a Postgres database;
    if that lacks migrations, NotMigrated is raised. A database of a newer version than this one
    raises NewerDatabase.
    """
    database = Database(settings.resolved_database_url)
    try:
        database.check_version()
    except NotMigrated as error:
        if isinstance(error, NewerDatabase) or not settings.embedded:
            database.close()
            raise
        database.upgrade()
    return database
