"""Jobs, chunks and events in SQL: tables, guarded changes and snapshots.

``migrate`` is not imported here: a worker has no use for Alembic.
"""

from celery_progress_ext.storage.database import Database
from celery_progress_ext.storage.snapshots import Snapshots

__all__ = ["Database", "Snapshots"]
