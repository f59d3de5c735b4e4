"""The two services of the story: the I/O once and synchronous, the async methods thin facades over it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import sqlalchemy as sa

from celery_progress_ext.chunks import ChunkProgress
from celery_progress_ext.config import Settings
from celery_progress_ext.exceptions import ChunkNotFound, JobNotFound
from celery_progress_ext.jobs import JobSnapshot, JobStatus, iso
from celery_progress_ext.log import get_logger
from celery_progress_ext.private_files import PrivateFiles
from celery_progress_ext.storage import chunk_changes, events, job_changes
from celery_progress_ext.storage.database import Database
from celery_progress_ext.storage.rows import JOB_COLUMNS, JobRow
from celery_progress_ext.storage.schema import document_ocr_chunks, processing_jobs
from celery_progress_ext.storage.snapshots import Snapshots

#: Rows as a program reads them; an alias, since `JobTrackingService.list` hides the type in the class.
Rows = list[dict[str, Any]]
SnapshotList = list[JobSnapshot]

logger = get_logger(__name__)

_JOBS, _CHUNK = processing_jobs.c, document_ocr_chunks.c
_NEWEST_OF_DOCUMENT = (
    sa.select(*JOB_COLUMNS)
    .where(_JOBS.document_id == sa.bindparam("of_document", type_=sa.String))
    .order_by(_JOBS.created_at.desc())
    .limit(1)
)
_TIMES = ("started_at", "progressed_at", "finished_at", "leased_until")
_CHUNKS = (
    sa.select(
        _CHUNK.id,
        _CHUNK.chunk_index,
        _CHUNK.page_start,
        _CHUNK.page_end,
        _CHUNK.status,
        _CHUNK.attempt,
        _CHUNK.dispatches,
        _CHUNK.task_id,
        _CHUNK.pages_done,
        *(_CHUNK[name] for name in _TIMES),
        _CHUNK.error,
        _CHUNK.worker,
    )
    .where(_CHUNK.job_id == sa.bindparam("of_job", type_=sa.String))
    .order_by(_CHUNK.chunk_index)
)
_JOB_EXISTS = sa.select(sa.literal(1)).where(_JOBS.id == sa.bindparam("of_job", type_=sa.String))
_CHUNK_EXISTS = sa.select(sa.literal(1)).where(_CHUNK.id == sa.bindparam("of_chunk", type_=sa.String))


def _from_environment() -> tuple[Database, Snapshots]:
    settings = Settings.read({})
    files = PrivateFiles.shared_with(settings.files_group)
    database = Database(settings.database_url, files=files)
    return database, Snapshots(database, settings)


_default: Callable[[], tuple[Database, Snapshots]] = cache(_from_environment)


def set_default(find: Callable[[], tuple[Database, Snapshots]]) -> None:
    """Where services that are made without a database find one: that of the process's ``CeleryProgress``."""
    global _default
    _default = find


class _Service:
    """A service over one database, this process's unless one is given; found on first use."""

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
        row = self._database.row(_NEWEST_OF_DOCUMENT, of_document=document_id)
        return None if row is None else self._snapshots.of(JobRow.of(row))

    def chunks(self, job_id: str) -> Rows:
        """The chunk rows of a job in order: index, range, status, attempt, pages done, times, error.

        :raises JobNotFound: when there is no such job.
        """
        rows = self._database.rows(_CHUNKS, of_job=job_id)
        if not rows and self._database.row(_JOB_EXISTS, of_job=job_id) is None:
            raise JobNotFound(f"There is no job {job_id!r}; it may have been removed by retention.")
        return [{name: iso(value) if name in _TIMES else value for name, value in row._mapping.items()} for row in rows]

    def history(self, job_id: str, *, after: int = 0, limit: int = 1000) -> Rows:
        """What happened to a job, oldest first, with versions above ``after``."""
        return events.read(self._database, job_id, after=after, limit=limit)

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
            lambda conn: job_changes.update_status(
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
        row = self._database.row(_NEWEST_OF_DOCUMENT, of_document=document_id)
        if row is None:
            return ChunkProgress(total=0, pending=0, processing=0, completed=0, failed=0)
        return JobRow.of(row).chunks

    async def get_chunk_progress(self, document_id: str) -> ChunkProgress:
        """:meth:`progress` for async callers."""
        return await asyncio.to_thread(self.progress, document_id)

    def record_failure(self, chunk_id: str, error_message: str) -> JobSnapshot | None:
        """Fail a chunk by hand, whatever attempt is on it. None where it is finished or the run is over.

        :raises ChunkNotFound: when there is no such chunk.
        """
        change = self._database.write(lambda conn: chunk_changes.fail(conn, chunk_id, error=error_message))
        if change is None:
            if self._database.row(_CHUNK_EXISTS, of_chunk=chunk_id) is None:
                raise ChunkNotFound(f"There is no chunk {chunk_id!r}.")
            return None
        return self._snapshots.of(change.job)

    async def record_chunk_failure(self, *, chunk_id: str, error_message: str) -> JobSnapshot | None:
        """:meth:`record_failure` for async callers."""
        return await asyncio.to_thread(self.record_failure, chunk_id, error_message)
