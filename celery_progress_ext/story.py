"""The story's tracker: commit the rows, then broadcast."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Protocol

from celery_progress_ext import context
from celery_progress_ext.chunks import ChunkProgress, percent
from celery_progress_ext.exceptions import JobNotFound, ProgressError
from celery_progress_ext.jobs import JobSnapshot, JobStatus
from celery_progress_ext.log import get_logger
from celery_progress_ext.stages import StageName, stage

logger = get_logger(__name__)


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
    """Send a job's current snapshot to whoever watches it. True where a broadcaster took it.

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
        return current.broadcaster.publish(current.jobs.snapshot(job_id))
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
            self._job_tracker = context.current().jobs
        return self._job_tracker

    @property
    def chunk_service(self) -> ChunkSource:
        """The chunk service, made on first use."""
        if self._chunk_service is None:
            self._chunk_service = context.current().chunks
        return self._chunk_service

    async def update_chunk_progress(self, *, job_id: str | None, document_id: str, matter_id: str) -> None:
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
