"""The current snapshot of a job, read once for all streams that ask for it at the same time."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

from celery_progress_ext.broadcast import Broadcaster
from celery_progress_ext.exceptions import DatabaseError
from celery_progress_ext.jobs import JobSnapshot
from celery_progress_ext.log import get_logger
from celery_progress_ext.sse.hub import Published

logger = get_logger(__name__)

#: Jobs whose last reading is remembered.
_REMEMBERED = 1024
#: Open jobs that a matter's stream begins with.
OPEN_JOBS_LIMIT = 500


class Jobs(Protocol):
    """What the streams need of the job service."""

    def snapshot(self, job_id: str) -> JobSnapshot:
        """The whole truth about a job; raises JobNotFound."""

    def list(
        self, matter_id: str | None = None, *, limit: int = 50, active_only: bool = False
    ) -> Sequence[JobSnapshot]:
        """Snapshots of a matter's jobs, newest first."""


class _Reading:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.begun_at = float("-inf")
        self.published: Published | None = None


class CurrentSnapshots:
    """Reads snapshots for streams: when the broadcaster breaks, all of them ask for the same few at once."""

    def __init__(self, jobs: Jobs, broadcaster: Broadcaster) -> None:
        self._jobs = jobs
        self._broadcaster = broadcaster
        self._lock = threading.Lock()
        self._readings: OrderedDict[str, _Reading] = OrderedDict()

    def of_job(self, job_id: str, *, since: float) -> Published | None:
        """The database row, no older than ``since`` (``time.monotonic()``); the kept one while rows cannot be read.

        None when there is neither.

        :raises JobNotFound: when there is no such job.
        """
        reading = self._reading(job_id)
        with reading.lock:
            if reading.begun_at < since:
                begun_at = time.monotonic()
                reading.published = self._read(job_id)
                reading.begun_at = begun_at
            return reading.published

    def after(self, row: JobSnapshot) -> Published:
        """The newer of the kept snapshot and ``row``, which the caller has just read.

        Called once the subscription stands, so that what was published before is in the one or in the other.
        """
        kept = self._broadcaster.kept(row.job_id)
        if kept is not None and kept.version is not None and kept.version >= row.version:
            return Published.of(kept)
        # Redis does not know what the database knew: it lost it, or missed more than that.
        return self.of_job(row.job_id, since=time.monotonic()) or Published(row.to_dict())

    def of_matter(self, matter_id: str) -> list[Published]:
        """The open jobs of a matter, oldest first; none while rows cannot be read."""
        try:
            rows = self._jobs.list(matter_id, limit=OPEN_JOBS_LIMIT, active_only=True)
        except DatabaseError as error:
            logger.warning("snapshots_unreadable", matter_id=matter_id, error=type(error).__name__)
            return []
        return [Published(row.to_dict()) for row in reversed(rows)]

    def _read(self, job_id: str) -> Published | None:
        try:
            return Published(self._jobs.snapshot(job_id).to_dict())
        except DatabaseError as error:
            logger.warning("snapshot_unreadable", job_id=job_id, error=type(error).__name__)
        kept = self._broadcaster.kept(job_id)
        return None if kept is None else Published.of(kept)

    def _reading(self, job_id: str) -> _Reading:
        with self._lock:
            reading = self._readings.setdefault(job_id, _Reading())
            self._readings.move_to_end(job_id)
            if len(self._readings) > _REMEMBERED:
                self._readings.popitem(last=False)
            return reading
