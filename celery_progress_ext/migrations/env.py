"""Alembic's environment: runs on the connection that `storage.migrate` hands over, in its transaction."""

from __future__ import annotations

from alembic import context

from celery_progress_ext.storage.revisions import VERSION_TABLE
from celery_progress_ext.storage.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
