"""Alembic's environment: runs on the connection that `storage.migrate` hands over, in its transaction."""

from __future__ import annotations

from alembic import context

from celery_progress_ext.storage.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # A table name of our own: the host application may run Alembic in the same database.
    version_table="celery_progress_version",
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
