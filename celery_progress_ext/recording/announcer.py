"""Announces what took effect: log lines for operators, snapshots for readers."""

from __future__ import annotations

from typing import Any

from celery_progress_ext.context import ProcessContext
from celery_progress_ext.log import get_logger
from celery_progress_ext.recording.snapshot_throttle import SnapshotThrottle
from celery_progress_ext.storage.chunk_changes import Change
from celery_progress_ext.storage.rows import JobRow

logger = get_logger(__name__)


class Announcer:
    """Logs changes and broadcasts the snapshots that belong to them."""

    def __init__(self, context: ProcessContext) -> None:
        self._throttle = SnapshotThrottle(context)

    def chunk_changed(self, change: Change, event: str, **fields: Any) -> None:
        """A chunk changed: log it, and broadcast its job."""
        self.log(change, event, **fields)
        self.broadcast(change.job)

    def log(self, change: Change, event: str, **fields: Any) -> None:
        """Log a chunk's change; one that has an ``error`` is a warning."""
        log = logger.warning if "error" in fields else logger.info
        log(
            event,
            job_id=change.job.id,
            chunk_index=change.chunk.chunk_index,
            attempt=change.chunk.attempt,
            completed=change.job.completed_chunks,
            total=change.job.total_chunks,
            **fields,
        )

    def job_ended(self, job: JobRow) -> None:
        """A run is over."""
        logger.info("job_ended", job_id=job.id, status=job.status.value, error=job.error)
        self.broadcast(job, bypass_cache=True)

    def broadcast(self, job: JobRow, *, freed_slots: int = 0, bypass_cache: bool = False) -> None:
        """Send the snapshot of a job's row to its readers, or a newer one soon; see :class:`SnapshotThrottle`."""
        self._throttle.submit(job, freed_slots=freed_slots, bypass_cache=bypass_cache)

    def flush(self) -> None:
        """Send the snapshots that wait: the process ends."""
        self._throttle.flush()
