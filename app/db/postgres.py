"""Connections to Postgres. Nothing that is asked of one is waited for without an end.

The server ends statements, waits for locks and idle transactions that take too long. A server that
does not answer at all is given up by the connection itself.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg
from sqlalchemy import Dialect
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

# Short enough to notice a server that hangs well within a lease.
POSTGRES_TIMEOUTS = {"connect_timeout": 5, "tcp_user_timeout": 10_000, "keepalives_idle": 10}
# What the server ends by itself, in milliseconds. A lock is held for a moment, unless its holder
# is frozen; the last limit then frees what it holds.
SERVER_LIMITS = {
    "statement_timeout": 10_000,
    "lock_timeout": 5_000,
    "idle_in_transaction_session_timeout": 15_000,
}
REPLY_SECONDS = 12.0  # a server that works has ended the statement by then
RESTED_REPLY_SECONDS = 3.0  # for a connection to say that it still works
# A connection that rested longer is tried before it is used, in case the server has restarted.
RESTED_SECONDS = 1.0

Reply = TypeVar("Reply")


class ImpatientConnection(psycopg.Connection[Any]):
    """A connection that is closed when the server has not answered for ``reply_seconds``."""

    reply_seconds = REPLY_SECONDS

    def wait(self, gen: Generator[Any, Any, Reply], *rest: Any, **more: Any) -> Reply:
        """Wait for an answer. Raises psycopg.OperationalError if there is none in time."""
        return super().wait(self._in_time(gen), *rest, **more)

    def _in_time(self, gen: Generator[Any, Any, Reply]) -> Generator[Any, Any, Reply]:
        """The same steps of the protocol, each of which psycopg resumes ten times a second."""
        until = time.monotonic() + self.reply_seconds
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > until:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(
                        f"the server has not answered within {self.reply_seconds:g} s"
                    )
                wanted = gen.send(ready)
        except StopIteration as end:
            reply: Reply = end.value
            return reply


def connect(_: Dialect, __: ConnectionPoolEntry, arguments: Any, options: Any) -> Any:
    """Open a connection with limits; the URL's own ``options`` come last and so prevail."""
    limits = " ".join(f"-c {name}={value}" for name, value in SERVER_LIMITS.items())
    options["options"] = f"{limits} {options.get('options', '')}".strip()
    return ImpatientConnection.connect(*arguments, **options)


def note_use(_: object, record: ConnectionPoolEntry) -> None:
    """Note that a connection rests from now on."""
    record.info["used"] = time.monotonic()


def try_rested(
    connection: ImpatientConnection, record: ConnectionPoolEntry, _: PoolProxiedConnection
) -> None:
    """Replace a connection that rested for a while and does not answer any more.

    Asking before every use, as ``pool_pre_ping`` does, would cost a read as much as its statement.
    """
    if time.monotonic() - record.info["used"] < RESTED_SECONDS:
        return
    try:
        connection.reply_seconds = RESTED_REPLY_SECONDS
        connection.execute("SELECT 1")
        connection.rollback()  # no transaction stays open that this may have begun
        connection.reply_seconds = REPLY_SECONDS
    except psycopg.Error as error:
        raise InvalidatePoolError("the connection was lost") from error
