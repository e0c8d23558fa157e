"""Allow checkpoints inside an epoch, and pins."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("checkpoints") as table:
        table.alter_column("epoch", existing_type=sa.Integer(), type_=sa.Double())
        table.add_column(
            sa.Column("pinned", sa.Boolean(), nullable=False, server_default=sa.false())
        )


def downgrade() -> None:
    with op.batch_alter_table("checkpoints") as table:
        table.drop_column("pinned")
        table.alter_column("epoch", existing_type=sa.Double(), type_=sa.Integer())
