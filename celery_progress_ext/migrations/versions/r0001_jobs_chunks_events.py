"""Jobs, their chunks, and what happened to them.

Revision ID: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "processing_jobs",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("matter_id", sa.String(length=255), nullable=False),
        sa.Column("document_id", sa.String(length=255), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("stage_name", sa.String(length=32), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("progress_pct", sa.Integer(), server_default="0", nullable=False),
        sa.Column("metadata", JSON, nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("unit", sa.String(length=32), server_default="pages", nullable=False),
        sa.Column("on_chunk_failure", sa.String(length=16), server_default="partial", nullable=False),
        sa.Column("total_chunks", sa.Integer(), server_default="0", nullable=False),
        sa.Column("pending_chunks", sa.Integer(), server_default="0", nullable=False),
        sa.Column("processing_chunks", sa.Integer(), server_default="0", nullable=False),
        sa.Column("completed_chunks", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failed_chunks", sa.Integer(), server_default="0", nullable=False),
        sa.Column("pages_total", sa.Integer(), server_default="0", nullable=False),
        sa.Column("pages_done", sa.Integer(), server_default="0", nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column("run", sa.Integer(), server_default="1", nullable=False),
        sa.Column("chord_intact", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("body_signature", JSON, nullable=False),
        sa.Column("body_task_id", sa.String(length=255), nullable=False),
        sa.Column("body_attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("body_tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("body_dispatches", sa.Integer(), server_default="0", nullable=False),
        sa.Column("body_leased_until", sa.Double(), nullable=True),
        sa.Column("body_due_at", sa.Double(), nullable=True),
        sa.Column("merge_pages_done", sa.Integer(), server_default="0", nullable=False),
        sa.Column("pace_chunks", sa.Integer(), server_default="0", nullable=False),
        sa.Column("pace_pages", sa.Integer(), server_default="0", nullable=False),
        sa.Column("pace_seconds", sa.Double(), server_default="0", nullable=False),
        sa.Column("pace_sum_log", sa.Double(), server_default="0", nullable=False),
        sa.Column("pace_sum_log_sq", sa.Double(), server_default="0", nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.Column("merge_started_at", sa.Double(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_processing_jobs"),
    )
    op.create_index(
        "ix_processing_jobs_document_created", "processing_jobs", ["document_id", "created_at"], unique=False
    )
    op.create_index("ix_processing_jobs_finished_at", "processing_jobs", ["finished_at"], unique=False)
    op.create_index("ix_processing_jobs_matter_created", "processing_jobs", ["matter_id", "created_at"], unique=False)
    op.create_index("ix_processing_jobs_status_updated", "processing_jobs", ["status", "updated_at"], unique=False)
    op.create_table(
        "document_ocr_chunks",
        sa.Column("id", sa.String(length=80), nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("document_id", sa.String(length=255), nullable=False),
        sa.Column("chunk_index", sa.Integer(), nullable=False),
        sa.Column("page_start", sa.Integer(), nullable=False),
        sa.Column("page_end", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("dispatches", sa.Integer(), server_default="1", nullable=False),
        sa.Column("task_id", sa.String(length=255), nullable=False),
        sa.Column("signature", JSON, nullable=False),
        sa.Column("result", JSON, nullable=True),
        sa.Column("leased_until", sa.Double(), nullable=True),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("progressed_at", sa.Double(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("pages_done", sa.Integer(), server_default="0", nullable=False),
        sa.Column("attempt_pages_done", sa.Integer(), server_default="0", nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("worker", sa.String(length=255), nullable=True),
        sa.ForeignKeyConstraint(
            ["job_id"], ["processing_jobs.id"], name="fk_document_ocr_chunks_job_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_document_ocr_chunks"),
        sa.UniqueConstraint("job_id", "chunk_index", name="uq_document_ocr_chunks_job_id_chunk_index"),
    )
    op.create_index(
        "ix_document_ocr_chunks_job_status", "document_ocr_chunks", ["job_id", "status", "chunk_index"], unique=False
    )
    op.create_index(
        "ix_document_ocr_chunks_status_leased", "document_ocr_chunks", ["status", "leased_until"], unique=False
    )
    op.create_table(
        "job_events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.String(length=32), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("chunk_index", sa.Integer(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("eta_finish_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["processing_jobs.id"], name="fk_job_events_job_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_job_events"),
    )
    op.create_index("ix_job_events_job_version", "job_events", ["job_id", "version"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_job_events_job_version", table_name="job_events")
    op.drop_table("job_events")
    op.drop_index("ix_document_ocr_chunks_status_leased", table_name="document_ocr_chunks")
    op.drop_index("ix_document_ocr_chunks_job_status", table_name="document_ocr_chunks")
    op.drop_table("document_ocr_chunks")
    op.drop_index("ix_processing_jobs_status_updated", table_name="processing_jobs")
    op.drop_index("ix_processing_jobs_matter_created", table_name="processing_jobs")
    op.drop_index("ix_processing_jobs_finished_at", table_name="processing_jobs")
    op.drop_index("ix_processing_jobs_document_created", table_name="processing_jobs")
    op.drop_table("processing_jobs")
