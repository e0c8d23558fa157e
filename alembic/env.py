"""Runs migrations through the service's own engine, which knows how to begin on SQLite."""

from __future__ import annotations

from alembic import context

from app.db import Database
from app.db.tables import Base
from app.settings import settings_from_environment

url = context.config.attributes.get("url") or settings_from_environment().resolved_database_url
database = Database(url, unlimited=True)
with database.engine.execution_options(writes=True).connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata, compare_type=True)
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
database.close()
