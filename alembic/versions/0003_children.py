"""Find a comparison's children by their parent, and let them wait for a ranking."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A batch would rebuild the table, to which foreign keys of others refer.
    op.add_column("jobs", sa.Column("waits_for", sa.String(length=40), nullable=True))
    op.create_index("jobs_parent", "jobs", ["parent"])


def downgrade() -> None:
    op.drop_index("jobs_parent", "jobs")
    op.drop_column("jobs", "waits_for")
