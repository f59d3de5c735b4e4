"""Jobs, chunks and events in SQL: tables, guarded changes, snapshots and the story's two services.

``migrate`` is not imported here: Alembic and SQLAlchemy are 20 MB that a worker has no use for.
"""

from celery_progress_ext.storage.database import Database
from celery_progress_ext.storage.services import JobTrackingService, OCRChunkService
from celery_progress_ext.storage.snapshots import Snapshots

__all__ = ["Database", "JobTrackingService", "OCRChunkService", "Snapshots"]
