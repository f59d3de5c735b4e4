"""Durable, exact, live progress for Celery chords."""

from celery_progress_ext.canvas import tracked_chord
from celery_progress_ext.chunks import ChunkProgress, ChunkStatus, format_chunk_failure_message
from celery_progress_ext.exceptions import ProgressError
from celery_progress_ext.extension import CeleryProgress
from celery_progress_ext.jobs import ForgottenJob, JobSnapshot, JobStatus
from celery_progress_ext.signals import jobs_forgotten
from celery_progress_ext.stages import PIPELINE_STAGES
from celery_progress_ext.storage import JobTrackingService, OCRChunkService
from celery_progress_ext.tracker import ChunkProgressTracker, broadcast_job_progress

__all__ = [
    "PIPELINE_STAGES",
    "CeleryProgress",
    "ChunkProgress",
    "ChunkProgressTracker",
    "ChunkStatus",
    "ForgottenJob",
    "JobSnapshot",
    "JobStatus",
    "JobTrackingService",
    "OCRChunkService",
    "ProgressError",
    "broadcast_job_progress",
    "format_chunk_failure_message",
    "jobs_forgotten",
    "tracked_chord",
]
