"""The specification's facade, for code that tracks by hand: ``ChunkProgressTracker``, its two services and
``broadcast_job_progress``, with the names, arguments and messages that the specification gives them.

The input and output is done once, synchronously; each async method runs a synchronous one in a thread. Nothing of the
library's own uses this module but ``CeleryProgress.jobs`` and ``.chunks``, which are the two services.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Collection, Coroutine, Mapping
from datetime import datetime
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from celery_progress_ext import context, ids
from celery_progress_ext.chunks import ChunkProgress, percent
from celery_progress_ext.config import Settings
from celery_progress_ext.exceptions import ChunkNotFound, JobNotFound, ProgressError
from celery_progress_ext.jobs import JobSnapshot, JobStatus
from celery_progress_ext.log import get_logger
from celery_progress_ext.stages import StageName, stage
from celery_progress_ext.storage import Database, Snapshots, chunk_changes, events, job_changes, lookups

logger = get_logger(__name__)

#: Rows as a program reads them; an alias, since `JobTrackingService.list` hides the type in the class.
Rows = list[dict[str, Any]]
SnapshotList = list[JobSnapshot]

_Self = TypeVar("_Self")
_Given = ParamSpec("_Given")
_Answer = TypeVar("_Answer")


def _in_a_thread(
    method: Callable[Concatenate[_Self, _Given], _Answer],
) -> Callable[Concatenate[_Self, _Given], Coroutine[Any, Any, _Answer]]:
    """The async form of a method that waits for the database: same arguments, same answer."""

    @functools.wraps(method)
    async def call(self: _Self, /, *args: _Given.args, **kwargs: _Given.kwargs) -> _Answer:
        return await asyncio.to_thread(method, self, *args, **kwargs)

    return call


class _Service:
    """A service over one database, this process's unless one is given; found on first use."""

    def __init__(self, database: Database | None = None, snapshots: Snapshots | None = None) -> None:
        self._given: tuple[Database, Snapshots] | None = None
        if database is not None:
            self._given = database, snapshots or Snapshots(database, Settings.read({}))

    @property
    def _database(self) -> Database:
        return self._given[0] if self._given else context.current().database

    @property
    def _snapshots(self) -> Snapshots:
        return self._given[1] if self._given else context.current().snapshots


#: So many jobs whose ids begin alike are named.
_NAMESAKES = 5


class JobTrackingService(_Service):
    """Reads jobs, and takes what a caller says of a job that it tracks by hand."""

    def snapshot(self, job_id: str) -> JobSnapshot:
        """The whole truth about a job.

        :raises JobNotFound: when there is no such job.
        """
        return self._snapshots.get(job_id)

    def named(self, text: str) -> JobSnapshot:
        """The job of this id, or the only one whose id begins so, with or without ``job_``.

        :raises JobNotFound: where there is none, or more than one.
        """
        found = lookups.job_ids(self._database, text, limit=_NAMESAKES)
        if len(found) > 1:
            raise JobNotFound(f"More than one job begins with {text!r}: {', '.join(found)}; give more of its id.")
        return self.snapshot(found[0] if found else text)

    def list(
        self,
        matter_id: str | None = None,
        *,
        owner: str | None = None,
        limit: int = 50,
        active_only: bool = False,
        statuses: Collection[JobStatus] | None = None,
        search: str = "",
        before: tuple[datetime, str] | None = None,
    ) -> SnapshotList:
        """Snapshots of an owner's jobs (``matter_id`` is another name of ``owner``), or of all, newest first.

        :param statuses: only jobs with one of these.
        :param search: only jobs whose title has each of these words in it, whatever its case and accents.
        :param before: only jobs behind the one with this ``created_at`` and ``job_id``: the last of the page before.
        """
        wanted = None if statuses is None else frozenset(statuses)
        return self._snapshots.find(
            matter_id=matter_id or owner,
            limit=limit,
            active_only=active_only,
            statuses=wanted,
            search=search,
            before=before,
        )

    def of_document(self, document_id: str) -> SnapshotList:
        """Snapshots of a document's jobs, newest first."""
        return [self._snapshots.of(row) for row in lookups.jobs_of_document(self._database, document_id)]

    def latest_for_document(self, document_id: str) -> JobSnapshot | None:
        """The newest job over a document."""
        row = lookups.newest_of_document(self._database, document_id)
        return None if row is None else self._snapshots.of(row)

    def chunks(self, job_id: str) -> Rows:
        """The chunk rows of a job in order: index, range, status, attempt, pages done, times, error.

        :raises JobNotFound: when there is no such job.
        """
        rows = lookups.chunk_list(self._database, job_id)
        if not rows and lookups.job(self._database, job_id) is None:
            raise ids.unknown(job_id)
        return rows

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

    #: :meth:`update` for async callers.
    update_job_status = _in_a_thread(update)


class OCRChunkService(_Service):
    """Reads and fails chunks by hand."""

    def progress(self, document_id: str) -> ChunkProgress:
        """Counts of the newest job over a document; all zero where there is none."""
        row = lookups.newest_of_document(self._database, document_id)
        return ChunkProgress(total=0, pending=0, processing=0, completed=0, failed=0) if row is None else row.chunks

    #: :meth:`progress` for async callers.
    get_chunk_progress = _in_a_thread(progress)

    def record_failure(self, chunk_id: str, error_message: str) -> JobSnapshot | None:
        """Fail a chunk by hand, whatever attempt is on it. None where it is finished or the run is over.

        :raises ChunkNotFound: when there is no such chunk.
        """
        change = self._database.write(lambda conn: chunk_changes.fail(conn, chunk_id, error=error_message))
        if change is None:
            if lookups.chunk(self._database, chunk_id) is None:
                raise ChunkNotFound(f"There is no chunk {chunk_id!r}.")
            return None
        return self._snapshots.of(change.job)

    #: :meth:`record_failure` for async callers.
    record_chunk_failure = _in_a_thread(record_failure)


class JobTracker(Protocol):
    """What the tracker needs of a job service."""

    async def update_job_status(
        self,
        *,
        job_id: str,
        status: JobStatus,
        stage: str | None = None,
        progress_pct: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Any:
        """Record the status."""


class ChunkSource(Protocol):
    """What the tracker needs of a chunk service."""

    async def get_chunk_progress(self, document_id: str) -> ChunkProgress:
        """The counts of the document's newest job."""


def broadcast_job_progress(
    *,
    matter_id: str | None,
    job_id: str | None,
    progress_pct: int | None = None,
    stage: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> bool:
    """Send a job's current snapshot to those who watch it. True where a broadcaster took it.

    What goes out is what the rows say, with their version, so that a late or repeated call does no harm; the other
    arguments are for the log. An unknown job, or a database or Redis that is away, is a log line, no exception: the
    beat task broadcasts again.
    """
    log = logger.bind(matter_id=matter_id, job_id=job_id, progress_pct=progress_pct, stage=stage)
    if job_id is None:
        log.warning("broadcast_skipped", reason="no job_id")
        return False
    current = context.current()
    try:
        return current.broadcaster.publish(current.snapshots.get(job_id))
    except JobNotFound:
        log.warning("broadcast_skipped", reason="unknown job", metadata=dict(metadata or {}))
    except ProgressError as error:
        log.warning("broadcast_skipped", reason=str(error))
    except Exception as error:
        # The next change or tick broadcasts again; the work must not fail for it.
        log.warning("broadcast_failed", error=type(error).__name__)
    return False


class ChunkProgressTracker:
    """Updates a job from its chunks' counts, and broadcasts it.

    :param job_tracker: any object with an awaitable ``update_job_status``; this process's service by default.
    :param chunk_service: any object with an awaitable ``get_chunk_progress``; this process's service by default.
    """

    def __init__(self, job_tracker: JobTracker | None = None, chunk_service: ChunkSource | None = None) -> None:
        self._job_tracker = job_tracker
        self._chunk_service = chunk_service

    @property
    def job_tracker(self) -> JobTracker:
        """The job service, made on first use."""
        if self._job_tracker is None:
            self._job_tracker = JobTrackingService()
        return self._job_tracker

    @property
    def chunk_service(self) -> ChunkSource:
        """The chunk service, made on first use."""
        if self._chunk_service is None:
            self._chunk_service = OCRChunkService()
        return self._chunk_service

    async def update_chunk_progress(self, *, job_id: str | None, document_id: str, matter_id: str | None) -> None:
        """Set the stage ``Processing chunk {completed}/{total}`` and the percent, and broadcast them."""
        if job_id is None:
            logger.warning("chunk_progress_skipped", reason="no job_id", document_id=document_id)
            return
        progress = await self.chunk_service.get_chunk_progress(document_id)
        pct = percent(progress.completed, progress.total)
        message = stage(StageName.CHUNK_PROCESSING).format(completed=progress.completed, total=progress.total)
        await self.job_tracker.update_job_status(
            job_id=job_id, status=JobStatus.PROCESSING, stage=message, progress_pct=pct
        )
        broadcast_job_progress(
            matter_id=matter_id,
            job_id=job_id,
            progress_pct=pct,
            stage=message,
            metadata={
                "chunks_completed": progress.completed,
                "chunks_total": progress.total,
                "chunks_failed": progress.failed,
            },
        )
        logger.info(
            "chunk_progress_updated",
            job_id=job_id,
            document_id=document_id,
            completed=progress.completed,
            total=progress.total,
            progress_pct=pct,
        )

    async def start_merge_stage(self, *, document_id: str, job_id: str | None) -> None:
        """Set the stage ``Merging OCR results`` and broadcast it."""
        if job_id is None:
            logger.warning("merge_stage_skipped", reason="no job_id", document_id=document_id)
            return
        message = stage(StageName.MERGE).format()
        snapshot = await self.job_tracker.update_job_status(job_id=job_id, status=JobStatus.PROCESSING, stage=message)
        known = snapshot if isinstance(snapshot, JobSnapshot) else None
        broadcast_job_progress(
            matter_id=known.matter_id if known else None,
            job_id=job_id,
            progress_pct=known.progress_pct if known else None,
            stage=message,
        )
        logger.info("merge_stage_started", job_id=job_id, document_id=document_id)

    async def report_chunk_failure(self, *, chunk_id: str, error_message: str) -> None:
        """Fail a chunk by hand; its job's snapshot then names it: ``Chunk 5 (pages 101-125) failed: …``."""
        record = getattr(self.chunk_service, "record_chunk_failure", None)
        pending = record(chunk_id=chunk_id, error_message=error_message) if record else None
        snapshot = await pending if inspect.isawaitable(pending) else None
        if not isinstance(snapshot, JobSnapshot):
            logger.warning("chunk_failure_ignored", chunk_id=chunk_id, error=error_message)
            return
        broadcast_job_progress(
            matter_id=snapshot.matter_id,
            job_id=snapshot.job_id,
            progress_pct=snapshot.progress_pct,
            stage=snapshot.stage,
            metadata={"chunks_failed": snapshot.chunks.failed},
        )
        logger.info("chunk_failure_reported", chunk_id=chunk_id, job_id=snapshot.job_id, error=error_message)
