"""Durable, exact, live progress for Celery chords."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery_progress_ext.canvas import tracked_chord
    from celery_progress_ext.chunks import ChunkProgress, ChunkStatus, format_chunk_failure_message
    from celery_progress_ext.exceptions import ProgressError
    from celery_progress_ext.extension import CeleryProgress
    from celery_progress_ext.jobs import ForgottenJob, JobSnapshot, JobStatus
    from celery_progress_ext.signals import jobs_forgotten
    from celery_progress_ext.stages import PIPELINE_STAGES
    from celery_progress_ext.storage import JobTrackingService, OCRChunkService
    from celery_progress_ext.story import ChunkProgressTracker, broadcast_job_progress

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

#: The module of each public name, imported when it is asked for: Celery imports this package in each of its commands
#: (``cli``), for apps that track nothing too.
_MODULES = {
    "PIPELINE_STAGES": "stages",
    "CeleryProgress": "extension",
    "ChunkProgress": "chunks",
    "ChunkProgressTracker": "story",
    "ChunkStatus": "chunks",
    "ForgottenJob": "jobs",
    "JobSnapshot": "jobs",
    "JobStatus": "jobs",
    "JobTrackingService": "storage",
    "OCRChunkService": "storage",
    "ProgressError": "exceptions",
    "broadcast_job_progress": "story",
    "format_chunk_failure_message": "chunks",
    "jobs_forgotten": "signals",
    "tracked_chord": "canvas",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
