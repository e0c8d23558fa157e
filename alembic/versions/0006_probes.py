"""Keep with each worker what it has measured of its device."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from app.db import Instant

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    key = sa.Column("probe_key", sa.String(length=500), server_default="", nullable=False)
    op.add_column("workers", key)
    op.add_column("workers", sa.Column("probe", JSON, nullable=True))
    op.add_column("workers", sa.Column("probed_at", Instant(), nullable=True))


def downgrade() -> None:
    for name in ("probed_at", "probe", "probe_key"):
        op.drop_column("workers", name)
