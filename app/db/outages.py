"""Tells a database that fails for a while from one that refuses a statement for good."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

# Of an error of Postgres, the class of its SQLSTATE: the connection, a rolled back transaction,
# too few resources, an operator's doing, the system's own error.
TRANSIENT_CLASSES = {"08", "40", "53", "57", "58"}
# A lock that was not free in time, a transaction that idled, a server that was a standby.
TRANSIENT_STATES = {"55P03", "25P03", "25P04", "25006"}
# What SQLite refuses a statement for, as opposed to a failure of the database: its result code for
# an error in the statement stands for many reasons, among them errors of this service.
REFUSALS = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH}

REASONS = (
    "too large",
    "too big",
    "too many",
    "too complex",
    "too deep",
    "stack overflow",
    "JSON",
    "integer overflow",
    "number of parameters",
    "too long",
)


def is_outage(error: SQLAlchemyError) -> bool:
    """Whether the database could not be reached or failed, whatever it was asked.

    The same statement may then succeed later. Any other error would come again and again.
    """
    if isinstance(error, PoolTimeout):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        code = getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        return isinstance(cause, sqlite3.OperationalError) and code not in REFUSALS
    state = getattr(cause, "sqlstate", None)
    if state is None:  # the server said nothing: psycopg noticed by itself
        return isinstance(error, OperationalError) and not is_too_much(error)
    return state[:2] in TRANSIENT_CLASSES or state in TRANSIENT_STATES


def is_too_much(error: DBAPIError) -> bool:
    """Whether the database works but refuses a request as too large or out of range."""
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:  # Postgres: class 54 is "program limit exceeded"
        return str(state).startswith("54")
    return any(reason in str(error.orig) for reason in REASONS)
