"""The version at which a job was audited, so that each is audited once after it ended.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_UNAUDITED = sa.text("finished_at IS NOT NULL AND COALESCE(audited_version, 0) < version")


def upgrade() -> None:
    # Nullable and without a default: no row is rewritten, and the code before this revision need not know it.
    op.add_column("processing_jobs", sa.Column("audited_version", sa.BigInteger(), nullable=True))
    op.create_index(
        "ix_processing_jobs_unaudited",
        "processing_jobs",
        ["finished_at"],
        sqlite_where=_UNAUDITED,
        postgresql_where=_UNAUDITED,
    )


def downgrade() -> None:
    op.drop_index("ix_processing_jobs_unaudited", table_name="processing_jobs")
    with op.batch_alter_table("processing_jobs") as batch:
        batch.drop_column("audited_version")
