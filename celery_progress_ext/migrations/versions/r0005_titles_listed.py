"""What a job is called, and an index that a page of a matter's list is found in; which process an event is about.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

from celery_progress_ext.titles import clean, search_key

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_BATCH = 500
_JOBS = sa.table(
    "processing_jobs",
    sa.column("id", sa.String),
    sa.column("document_id", sa.String),
    sa.column("metadata", sa.Text),
    sa.column("title", sa.String),
    sa.column("title_key", sa.String),
)


def upgrade() -> None:
    # Nullable: the code before this revision need not know them. Its jobs are listed, and not found by their titles.
    op.add_column("processing_jobs", sa.Column("title", sa.String(255), nullable=True))
    op.add_column("processing_jobs", sa.Column("title_key", sa.String(255), nullable=True))
    op.add_column("job_events", sa.Column("worker", sa.String(255), nullable=True))
    _name_what_is_there()
    op.create_index(
        "ix_processing_jobs_listed", "processing_jobs", ["matter_id", "created_at", "id", "status", "title_key"]
    )


def _name_what_is_there() -> None:
    """Jobs of before: the OCR service kept the file's name in their metadata."""
    conn, after = op.get_bind(), ""
    find = (
        sa.select(_JOBS.c.id, _JOBS.c.document_id, sa.cast(_JOBS.c.metadata, sa.Text).label("metadata"))
        .where(_JOBS.c.id > sa.bindparam("after"))
        .order_by(_JOBS.c.id)
        .limit(_BATCH)
    )
    name = (
        sa.update(_JOBS)
        .where(_JOBS.c.id == sa.bindparam("of_job"))
        .values(title=sa.bindparam("new_title"), title_key=sa.bindparam("new_key"))
    )
    while rows := conn.execute(find, {"after": after}).all():
        conn.execute(name, [_named(row.id, row.document_id, row.metadata) for row in rows])
        after = rows[-1].id


def _named(job_id: str, document_id: str, metadata: str) -> dict[str, str | None]:
    filename = json.loads(metadata or "{}").get("filename")
    title = clean(filename) if isinstance(filename, str) else ""
    return {"of_job": job_id, "new_title": title or None, "new_key": search_key(title or document_id)}


def downgrade() -> None:
    op.drop_index("ix_processing_jobs_listed", table_name="processing_jobs")
    with op.batch_alter_table("job_events") as batch:
        batch.drop_column("worker")
    with op.batch_alter_table("processing_jobs") as batch:
        batch.drop_column("title_key")
        batch.drop_column("title")
