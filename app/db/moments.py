"""Moments as both databases store them, and the time by the database's clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import DateTime, Dialect, Float, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

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
