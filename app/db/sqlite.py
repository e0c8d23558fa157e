"""Connections to SQLite: how they are prepared, and how their transactions begin."""

from __future__ import annotations

import random
import sqlite3
import time

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

WRITER_WAIT_SECONDS = 30.0  # SQLite lets one connection write at a time


def prepare(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # transactions are begun by `begin`
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA busy_timeout=200")


def begin(connection: Connection) -> None:
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
