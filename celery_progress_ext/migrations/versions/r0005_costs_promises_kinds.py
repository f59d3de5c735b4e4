"""What chunks are expected to cost, when they reported first, what was promised when, and what kinds of jobs teach.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

_UNLEARNED = sa.text("finished_at IS NOT NULL AND kind IS NOT NULL AND COALESCE(learned_run, 0) < run")


def _columns() -> dict[str, list[sa.Column[Any]]]:
    """Nullable, so that the code before this revision need not know them."""
    return {
        "processing_jobs": [
            sa.Column("kind", sa.String(255), nullable=True),
            sa.Column("cost_total", sa.Double(), nullable=True),
            sa.Column("cost_done", sa.Double(), nullable=True),
            sa.Column("merge_share", sa.Double(), nullable=True),
            sa.Column("work_floor", sa.Double(), nullable=True),
            sa.Column("learned_run", sa.Integer(), nullable=True),
        ],
        "document_ocr_chunks": [
            sa.Column("cost", sa.Double(), nullable=True),
            sa.Column("cost_done", sa.Double(), nullable=True),
            sa.Column("steps_done", sa.Integer(), nullable=True),
            sa.Column("steps_total", sa.Integer(), nullable=True),
            sa.Column("first_at", sa.Double(), nullable=True),
            sa.Column("first_steps", sa.Integer(), nullable=True),
        ],
        "job_events": [
            sa.Column("eta_earliest_at", sa.Double(), nullable=True),
            sa.Column("eta_latest_at", sa.Double(), nullable=True),
            sa.Column("eta_model", JSON, nullable=True),
        ],
    }


def upgrade() -> None:
    for table, columns in _columns().items():
        for column in columns:
            op.add_column(table, column)
    op.create_index(
        "ix_processing_jobs_unlearned",
        "processing_jobs",
        ["finished_at"],
        sqlite_where=_UNLEARNED,
        postgresql_where=_UNLEARNED,
    )
    op.create_table(
        "job_kinds",
        sa.Column("kind", sa.String(255), nullable=False),
        sa.Column("jobs", JSON, nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("kind", name=op.f("pk_job_kinds")),
    )
    op.create_index(op.f("ix_job_kinds_updated_at"), "job_kinds", ["updated_at"])


def downgrade() -> None:
    op.drop_table("job_kinds")
    op.drop_index("ix_processing_jobs_unlearned", table_name="processing_jobs")
    for table, columns in _columns().items():
        with op.batch_alter_table(table) as batch:
            for column in reversed(columns):
                batch.drop_column(column.name)
