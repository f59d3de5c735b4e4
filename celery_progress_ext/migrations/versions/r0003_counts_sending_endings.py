"""Counts that cannot lie, what the broker took, what follows a job, and pages that were not wholly read.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

_COUNTS = (
    "pending_chunks >= 0 AND processing_chunks >= 0 AND completed_chunks >= 0 AND failed_chunks >= 0"
    " AND pending_chunks + processing_chunks + completed_chunks + failed_chunks = total_chunks"
)
_NAME = "ck_processing_jobs_counts"
_STATUSES = ("pending", "processing", "completed", "failed")
_UNSENT = sa.text("sent_at = 0")


def _recount() -> None:
    """Jobs whose counters drifted before: the chunk rows decide."""
    counted = ", ".join(
        f"{status}_chunks = (SELECT COUNT(*) FROM document_ocr_chunks c"
        f" WHERE c.job_id = processing_jobs.id AND c.status = '{status}')"
        for status in _STATUSES
    )
    total = "total_chunks = (SELECT COUNT(*) FROM document_ocr_chunks c WHERE c.job_id = processing_jobs.id)"
    # A new version, so that the job is audited again and readers get the true counts.
    op.execute(f"UPDATE processing_jobs SET {counted}, {total}, version = version + 1 WHERE NOT ({_COUNTS})")


def upgrade() -> None:
    _recount()
    # Nullable or with a default: the code before this revision need not know them.
    op.add_column("document_ocr_chunks", sa.Column("sent_at", sa.Double(), nullable=True))
    op.add_column("document_ocr_chunks", sa.Column("reservations", JSON, nullable=True))
    op.create_index(
        "ix_document_ocr_chunks_unsent",
        "document_ocr_chunks",
        ["job_id"],
        sqlite_where=_UNSENT,
        postgresql_where=_UNSENT,
    )
    columns: list[sa.Column[Any]] = [
        sa.Column("publishing_until", sa.Double(), nullable=True),
        sa.Column("body_sent_at", sa.Double(), nullable=True),
        sa.Column("followers", JSON, nullable=True),
        sa.Column("followed_at", sa.Double(), nullable=True),
        sa.Column("result", JSON, nullable=True),
        sa.Column("reservations", sa.Integer(), server_default="0", nullable=False),
    ]
    if op.get_bind().dialect.name == "sqlite":
        # SQLite cannot add a constraint: the table is built anew. `migrate` has switched foreign keys off: with them
        # on, dropping the old table would delete every chunk and event.
        with op.batch_alter_table("processing_jobs") as batch:
            for column in columns:
                batch.add_column(column)
            batch.create_check_constraint(op.f(_NAME), _COUNTS)
        return
    for column in columns:
        op.add_column("processing_jobs", column)
    # In two steps, so that the table is not locked while its rows are looked at.
    op.execute(f"ALTER TABLE processing_jobs ADD CONSTRAINT {_NAME} CHECK ({_COUNTS}) NOT VALID")
    op.execute(f"ALTER TABLE processing_jobs VALIDATE CONSTRAINT {_NAME}")


def downgrade() -> None:
    names = ("reservations", "result", "followed_at", "followers", "body_sent_at", "publishing_until")
    with op.batch_alter_table("processing_jobs") as batch:
        batch.drop_constraint(op.f(_NAME), type_="check")
        for name in names:
            batch.drop_column(name)
    op.drop_index("ix_document_ocr_chunks_unsent", table_name="document_ocr_chunks")
    with op.batch_alter_table("document_ocr_chunks") as batch:
        batch.drop_column("reservations")
        batch.drop_column("sent_at")
