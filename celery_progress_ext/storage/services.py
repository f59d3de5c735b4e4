"""The two services of the story: the I/O once and synchronous, the async methods thin facades over it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from celery_progress_ext.chunks import ChunkProgress
from celery_progress_ext.config import Settings
from celery_progress_ext.exceptions import ChunkNotFound, JobNotFound
from celery_progress_ext.jobs import JobSnapshot, JobStatus, iso
from celery_progress_ext.log import get_logger
from celery_progress_ext.storage import chunk_changes as chunk_writes
from celery_progress_ext.storage import events as history
from celery_progress_ext.storage import job_changes as job_writes
from celery_progress_ext.storage.database import Database
from celery_progress_ext.storage.snapshots import Snapshots, chunk_progress

#: Rows as a program reads them; an alias, since `JobTrackingService.list` hides the type in the class.
Rows = list[dict[str, Any]]
SnapshotList = list[JobSnapshot]

logger = get_logger(__name__)


def _from_environment() -> tuple[Database, Snapshots]:
    settings = Settings.read({})
    database = Database(settings.database_url)
    return database, Snapshots(database, settings)


_default: Callable[[], tuple[Database, Snapshots]] = cache(_from_environment)


def set_default(find: Callable[[], tuple[Database, Snapshots]]) -> None:
    """Where services that are made without a database find one: that of the process's ``CeleryProgress``."""
    global _default
    _default = find


class _Service:
    """A service over one database, this process's unless told otherwise; found on first use."""

    def __init__(self, database: Database | None = None, snapshots: Snapshots | None = None) -> None:
        self._given: tuple[Database, Snapshots] | None = None
        if database is not None:
            self._given = database, snapshots or Snapshots(database, Settings.read({}))

    @property
    def _database(self) -> Database:
        return (self._given or _default())[0]

    @property
    def _snapshots(self) -> Snapshots:
        return (self._given or _default())[1]


class JobTrackingService(_Service):
    """Reads jobs, and takes what a caller says of a job that it tracks by hand."""

    def snapshot(self, job_id: str) -> JobSnapshot:
        """The whole truth about a job.

        :raises JobNotFound: when there is no such job.
        """
        return self._snapshots.get(job_id)

    def list(self, matter_id: str | None = None, *, limit: int = 50, active_only: bool = False) -> SnapshotList:
        """Snapshots of a matter's jobs, or of all, newest first."""
        return self._snapshots.find(matter_id=matter_id, limit=limit, active_only=active_only)

    def latest_for_document(self, document_id: str) -> JobSnapshot | None:
        """The newest job over a document."""
        row = self._database.row(
            "SELECT id FROM processing_jobs WHERE document_id = :id ORDER BY created_at DESC LIMIT 1", id=document_id
        )
        return None if row is None else self._snapshots.get(row["id"])

    def chunks(self, job_id: str) -> Rows:
        """The chunk rows of a job in order: index, range, status, attempt, pages done, times, error.

        :raises JobNotFound: when there is no such job.
        """
        rows = self._database.rows(
            """SELECT id, chunk_index, page_start, page_end, status, attempt, dispatches, task_id, pages_done,
                      started_at, progressed_at, finished_at, leased_until, error, worker
               FROM document_ocr_chunks WHERE job_id = :id ORDER BY chunk_index""",
            id=job_id,
        )
        if not rows and self._database.row("SELECT 1 AS found FROM processing_jobs WHERE id = :id", id=job_id) is None:
            raise JobNotFound(f"There is no job {job_id!r}; it may have been removed by retention.")
        times = ("started_at", "progressed_at", "finished_at", "leased_until")
        return [{name: iso(row[name]) if name in times else row[name] for name in row} for row in rows]

    def history(self, job_id: str, *, after: int = 0, limit: int = 1000) -> Rows:
        """What happened to a job, oldest first, with versions above ``after``."""
        return history.read(self._database, job_id, after=after, limit=limit)

    def update(
        self,
        job_id: str,
        *,
        status: JobStatus,
        stage: str | None = None,
        progress_pct: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        error: str | None = None,
    ) -> JobSnapshot | None:
        """Record what a caller says of a job. None, and a log line, where the job is unknown or the step not legal.

        The percent never goes down; metadata is merged into what is there.
        """
        row = self._database.write(
            lambda conn: job_writes.update_status(
                conn,
                job_id,
                status=JobStatus(status),
                stage=stage,
                progress_pct=progress_pct,
                metadata=metadata,
                error=error,
            )
        )
        if row is None:
            logger.warning("job_update_ignored", job_id=job_id, status=str(status), reason="unknown or not legal")
            return None
        return self._snapshots.of(row)

    async def update_job_status(
        self,
        *,
        job_id: str,
        status: JobStatus,
        stage: str | None = None,
        progress_pct: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        error: str | None = None,
    ) -> JobSnapshot | None:
        """:meth:`update` for async callers."""
        return await asyncio.to_thread(
            self.update,
            job_id,
            status=status,
            stage=stage,
            progress_pct=progress_pct,
            metadata=metadata,
            error=error,
        )


class OCRChunkService(_Service):
    """Reads and fails chunks by hand."""

    def progress(self, document_id: str) -> ChunkProgress:
        """Counts of the newest job over a document; all zero where there is none."""
        row = self._database.row(
            "SELECT * FROM processing_jobs WHERE document_id = :id ORDER BY created_at DESC LIMIT 1", id=document_id
        )
        if row is None:
            return ChunkProgress(total=0, pending=0, processing=0, completed=0, failed=0)
        return chunk_progress(row)

    async def get_chunk_progress(self, document_id: str) -> ChunkProgress:
        """:meth:`progress` for async callers."""
        return await asyncio.to_thread(self.progress, document_id)

    def record_failure(self, chunk_id: str, error_message: str) -> JobSnapshot | None:
        """Fail a chunk by hand, whatever attempt is on it. None where it is finished or the run is over.

        :raises ChunkNotFound: when there is no such chunk.
        """
        change = self._database.write(lambda conn: chunk_writes.fail(conn, chunk_id, error=error_message))
        if change is None:
            if self._database.row("SELECT 1 AS found FROM document_ocr_chunks WHERE id = :id", id=chunk_id) is None:
                raise ChunkNotFound(f"There is no chunk {chunk_id!r}.")
            return None
        return self._snapshots.of(change.job)

    async def record_chunk_failure(self, *, chunk_id: str, error_message: str) -> JobSnapshot | None:
        """:meth:`record_failure` for async callers."""
        return await asyncio.to_thread(self.record_failure, chunk_id, error_message)
