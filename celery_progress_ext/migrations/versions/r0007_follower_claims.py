"""Which message of a task that follows a job has run.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "follower_claims",
        sa.Column("job_id", sa.String(64), sa.ForeignKey("processing_jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("task_id", sa.String(255), primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("publication", sa.String(64), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("follower_claims")
