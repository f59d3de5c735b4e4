"""Who works, where a job's messages go, and what finish times go by: costs, first reports, promises, kinds of jobs.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
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
    op.drop_index("ix_progress_workers_seen_at", table_name="progress_workers")
    op.drop_table("progress_workers")
    with op.batch_alter_table("processing_jobs") as batch:
        batch.drop_column("queues")
