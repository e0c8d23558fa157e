"""Count how often the threads of each worker have died."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    # Workers of the version before write rows without it.
    restarts = sa.Column("restarts", JSON, server_default=sa.text("'{}'"), nullable=False)
    op.add_column("workers", restarts)


def downgrade() -> None:
    op.drop_column("workers", "restarts")
