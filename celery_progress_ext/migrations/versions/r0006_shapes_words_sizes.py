"""Jobs without an owner, without a body, in the user's words, over any range; counts of units that may be bytes; which
message of a task that follows a job has run.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def _columns() -> Mapping[str, list[sa.Column[Any]]]:
    """Nullable, so that the code before this revision need not know them."""
    return {
        "processing_jobs": [
            sa.Column("shape", sa.String(16), nullable=True),
            sa.Column("merge_message", sa.Text(), nullable=True),
            sa.Column("ranged", sa.Boolean(), nullable=True),
        ],
        "document_ocr_chunks": [
            sa.Column("size", sa.BigInteger(), nullable=True),
            sa.Column("grows", sa.Boolean(), nullable=True),
        ],
    }


#: Owner and subject, which a job need not have any more.
_OPTIONAL: Mapping[str, tuple[str, ...]] = {
    "processing_jobs": ("matter_id", "document_id"),
    "document_ocr_chunks": ("document_id",),
}
#: Counts of units; whether each may be null.
_UNITS: Mapping[str, Mapping[str, bool]] = {
    "processing_jobs": dict.fromkeys(("pages_total", "pages_done", "merge_pages_done", "pace_pages"), False),
    "document_ocr_chunks": {
        **dict.fromkeys(("page_start", "page_end", "pages_done", "attempt_pages_done"), False),
        **dict.fromkeys(("steps_done", "steps_total", "first_steps"), True),
    },
}


def upgrade() -> None:
    op.create_table(
        "follower_claims",
        sa.Column("job_id", sa.String(64), sa.ForeignKey("processing_jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("task_id", sa.String(255), primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("publication", sa.String(64), nullable=False),
    )
    if op.get_bind().dialect.name == "sqlite":
        # SQLite cannot drop a NOT NULL: the tables are built anew. `migrate` has switched foreign keys off: with them
        # on, dropping the old table would delete every chunk and event.
        for table, columns in _columns().items():
            with op.batch_alter_table(table) as batch:
                for column in columns:
                    batch.add_column(column)
                for name in _OPTIONAL[table]:
                    batch.alter_column(name, existing_type=sa.String(255), nullable=True)
                for name, nullable in _UNITS[table].items():
                    batch.alter_column(
                        name, existing_type=sa.Integer(), type_=sa.BigInteger(), existing_nullable=nullable
                    )
        return
    for table, columns in _columns().items():
        # One statement a table, so that its rows are written once.
        changes = [f"ALTER COLUMN {name} TYPE BIGINT" for name in _UNITS[table]]
        changes += [f"ALTER COLUMN {name} DROP NOT NULL" for name in _OPTIONAL[table]]
        op.execute(f"ALTER TABLE {table} {', '.join(changes)}")
        for column in columns:
            op.add_column(table, column)


def downgrade() -> None:
    op.drop_table("follower_claims")
    # What the code before cannot read: jobs without owner or subject, and those without a body.
    op.execute("DELETE FROM processing_jobs WHERE matter_id IS NULL OR document_id IS NULL OR shape IS NOT NULL")
    op.execute("DELETE FROM document_ocr_chunks WHERE job_id NOT IN (SELECT id FROM processing_jobs)")
    op.execute("DELETE FROM job_events WHERE job_id NOT IN (SELECT id FROM processing_jobs)")
    for table, columns in _columns().items():
        with op.batch_alter_table(table) as batch:
            for name, nullable in _UNITS[table].items():
                batch.alter_column(name, existing_type=sa.BigInteger(), type_=sa.Integer(), existing_nullable=nullable)
            for name in _OPTIONAL[table]:
                batch.alter_column(name, existing_type=sa.String(255), nullable=False)
            for column in reversed(columns):
                batch.drop_column(column.name)
