"""An error of the database is the request's fault, an outage, or the service's own; never another."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import TextClause, bindparam, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.db import Database, is_outage, is_too_much
from app.main import create_app
from app.settings import Settings
from tests.support.service.problems import problem


def failure(database: Database, statement: str | TextClause, **values: Any) -> DBAPIError:
    clause = text(statement) if isinstance(statement, str) else statement
    with pytest.raises(DBAPIError) as raised, database.read() as session:
        session.execute(clause, values)
    return raised.value


def many(count: int) -> tuple[TextClause, dict[str, Any]]:
    clause = text("SELECT 1 WHERE 1 IN :all").bindparams(bindparam("all", expanding=True))
    return clause, {"all": list(range(count))}


SQLITE = {
    "a deep expression": "SELECT " + "+".join(["1"] * 2000),
    "a deep statement": "SELECT " + "(" * 200 + "1" + ")" * 200,
    "many terms": "SELECT 1" + " UNION SELECT 1" * 600,
    "no JSON": "SELECT json_extract('{', '$.a')",
    "a wrong path": "SELECT json_extract('{}', 'a')",
    "an overflow": "SELECT abs(-9223372036854775808)",
    "a complex pattern": f"SELECT 'a' LIKE '{'%a' * 30_000}'",
}


def test_what_a_request_can_cause_is_no_outage(database: Database) -> None:
    clause, values = many(300_000)
    errors = {"many variables": failure(database, clause, **values)}
    if database.engine.dialect.name == "sqlite":
        errors |= {name: failure(database, statement) for name, statement in SQLITE.items()}
        errors["a large value"] = failure(database, "SELECT zeroblob(2000000000)")
    else:
        deep = "SELECT " + "+".join(["1"] * 50_000)
        errors["a deep statement"] = failure(database, deep)
        errors["out of range"] = failure(database, "SELECT 9223372036854775807::bigint + 1")
    for name, error in errors.items():
        assert not is_outage(error), name
        assert is_too_much(error) or "DataError" in type(error).__name__, name


def test_an_error_in_our_own_statement_is_neither(database: Database) -> None:
    error = failure(database, "SELECT nothing FROM nowhere")
    assert not is_outage(error)
    assert not is_too_much(error)


def test_a_database_that_is_gone_is_an_outage(tmp_path: Path) -> None:
    locked = tmp_path / "locked.db"
    holder = sqlite3.connect(locked, isolation_level=None)
    holder.execute("CREATE TABLE a (b)")
    holder.execute("BEGIN EXCLUSIVE")
    for url in (
        f"sqlite:///{locked}",
        f"sqlite:///{tmp_path}",
        "postgresql+psycopg://127.0.0.1:9/x",
    ):
        opened = Database(url)
        try:
            assert is_outage(failure(opened, "SELECT * FROM a")), url
        finally:
            opened.close()
    holder.close()


def test_a_connection_that_breaks_is_an_outage(postgres_url: str) -> None:
    opened = Database(postgres_url.replace("postgresql://", "postgresql+psycopg://"))
    with (
        opened.read() as session,
        psycopg.connect(postgres_url, autocommit=True) as other,
    ):
        own = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
        other.execute("SELECT pg_terminate_backend(%s)", [own])
        with pytest.raises(DBAPIError) as raised:
            session.execute(text("SELECT pg_sleep(5)"))
    assert is_outage(raised.value)
    opened.close()


@pytest.fixture
def api(tmp_path: Path) -> Iterator[TestClient]:
    app = create_app(Settings(data_dir=tmp_path, offline=True))
    errors: dict[str, Exception] = {
        "outage": OperationalError("SELECT", {}, psycopg.OperationalError("connection refused")),
        "ours": DBAPIError("SELECT", {}, psycopg.ProgrammingError("no such thing")),
        "pool": PoolTimeout("QueuePool limit"),
        "large": OperationalError(
            "SELECT", {}, psycopg.errors.ProgramLimitExceeded("index row size 5000 exceeds 2704")
        ),
    }

    @app.get("/failing/{name}")
    def failing(name: str) -> None:
        raise errors[name]

    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("outage", 503, "database_unavailable"), ("pool", 503, "database_unavailable"),
        ("ours", 500, "internal"), ("large", 422, "invalid"),
    ],
)  # fmt: skip
def test_each_kind_has_its_status(api: TestClient, name: str, status: int, code: str) -> None:
    answer = api.get(f"/failing/{name}")
    told = problem(answer, status, code)
    assert told["retriable"] is (status == 503)
    assert ("retry-after" in answer.headers) is (status == 503)
