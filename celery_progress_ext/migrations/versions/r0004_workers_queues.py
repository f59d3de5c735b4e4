"""Who works, and where a job's messages go.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    # Nullable: the code before this revision need not know it.
    op.add_column("processing_jobs", sa.Column("queues", JSON, nullable=True))
    op.create_table(
        "progress_workers",
        sa.Column("node", sa.String(255), nullable=False),
        sa.Column("queues", JSON, nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.Column("alive_until", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("node", name=op.f("pk_progress_workers")),
    )
    op.create_index("ix_progress_workers_seen_at", "progress_workers", ["seen_at"])


def downgrade() -> None:
    op.drop_index("ix_progress_workers_seen_at", table_name="progress_workers")
    op.drop_table("progress_workers")
    with op.batch_alter_table("processing_jobs") as batch:
        batch.drop_column("queues")
