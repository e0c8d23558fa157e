"""Access to the database, SQLite or Postgres, for the API and for workers.

Only the database's own clock, ``db_now``, decides whether a lease has expired.
"""

from app.db.database import Database, alembic_config, lock_name, open_database, try_lock_name
from app.db.moments import EPOCH, MICROSECOND, Instant, db_now
from app.db.outages import is_outage, is_too_much
from app.db.postgres import POSTGRES_TIMEOUTS, REPLY_SECONDS, RESTED_SECONDS

__all__ = [
    "EPOCH",
    "MICROSECOND",
    "POSTGRES_TIMEOUTS",
    "REPLY_SECONDS",
    "RESTED_SECONDS",
    "Database",
    "Instant",
    "alembic_config",
    "db_now",
    "is_outage",
    "is_too_much",
    "lock_name",
    "open_database",
    "try_lock_name",
]
