"""Store moments on SQLite as whole microseconds instead of seconds with a fraction.

The columns stay doubles, which hold whole microseconds exactly until 2255. Postgres stores whole
microseconds anyway.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

MOMENTS = {
    "jobs": (
        "lease_expires_at",
        "not_before",
        "rung_at",
        "created_at",
        "queued_at",
        "started_at",
        "finished_at",
        "updated_at",
        "heartbeat_at",
    ),
    "job_events": ("at",),
    "metrics": ("at",),
    "checkpoints": ("created_at",),
    "datasets": ("created_at",),
    "idempotency_keys": ("created_at",),
}


def upgrade() -> None:
    _replace("round({} * 1000000.0)")


def downgrade() -> None:
    _replace("{} / 1000000.0")


def _replace(formula: str) -> None:
    if op.get_bind().dialect.name != "sqlite":
        return
    for name, columns in MOMENTS.items():
        table = sa.table(name, *(sa.column(column) for column in columns))
        op.execute(sa.update(table).values({c: sa.text(formula.format(c)) for c in columns}))
