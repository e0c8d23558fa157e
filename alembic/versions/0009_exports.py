"""Add the folders that exports write, and where each worker can export to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    op.create_table(
        "export_folders",
        sa.Column("project", sa.String(40), sa.ForeignKey("projects.id"), primary_key=True),
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id"), nullable=True),
        sa.Column("digest", sa.String(80), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("complete", sa.Boolean(), nullable=False),
    )
    op.create_index("ix_export_folders_job_id", "export_folders", ["job_id"])
    # Workers of the version before write rows without it.
    exports = sa.Column("exports", JSON, server_default=sa.text("'[]'"), nullable=False)
    op.add_column("workers", exports)


def downgrade() -> None:
    op.drop_column("workers", "exports")
    op.drop_index("ix_export_folders_job_id", "export_folders")
    op.drop_table("export_folders")
