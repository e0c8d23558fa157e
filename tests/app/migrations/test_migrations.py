"""Up, down, and equal to the tables, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect

from app.db import Database, alembic_config, open_database
from app.db.tables import Base
from app.errors import NotMigrated
from app.settings import Settings


def is_comparable(_: Any, name: str | None, kind: str, *__: Any) -> bool:
    """Alembic does not see on SQLite that a column is sorted downwards; test_plans.py shows that
    the index is there and used."""
    return kind != "index" or name != "jobs_queue"


def test_migrations_make_exactly_the_tables(database: Database) -> None:
    options: dict[str, Any] = {"compare_type": True}
    if database.engine.dialect.name == "sqlite":
        options["include_object"] = is_comparable
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []
    assert database.is_at_head()


def test_down_leaves_nothing_and_up_again_works(database: Database) -> None:
    command.downgrade(alembic_config(database.url), "base")
    assert set(inspect(database.engine).get_table_names()) <= {"alembic_version"}
    assert not database.is_at_head()
    database.upgrade()
    assert database.is_at_head()


def test_a_production_database_is_never_migrated_by_starting(empty_postgres_url: str) -> None:
    settings = Settings(database_url=empty_postgres_url)
    with pytest.raises(NotMigrated, match="surgeon db upgrade"):
        open_database(settings)


def test_the_embedded_database_migrates_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, upgrade: Callable[[Database], None]
) -> None:
    monkeypatch.setattr(Database, "upgrade", upgrade)
    opened = open_database(Settings(data_dir=tmp_path))
    assert opened.is_at_head()
    opened.close()
