"""Durable, exact, live progress for Celery chords."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__: str

if TYPE_CHECKING:
    from celery_progress_ext.canvas import tracked_chord, tracked_group
    from celery_progress_ext.chunks import ChunkProgress, ChunkStatus, format_chunk_failure_message
    from celery_progress_ext.exceptions import (
        ChunkNotFound,
        DatabaseAway,
        DatabaseError,
        DatabaseNotMigrated,
        IllegalTransition,
        InvalidCanvas,
        InvalidSetting,
        InvalidToken,
        JobNotFound,
        MissingExtra,
        NotConfigured,
        NotPublished,
        ProgressError,
    )
    from celery_progress_ext.extension import CeleryProgress
    from celery_progress_ext.jobs import ForgottenJob, JobSnapshot, JobStatus
    from celery_progress_ext.signals import jobs_forgotten
    from celery_progress_ext.stages import PIPELINE_STAGES
    from celery_progress_ext.story import (
        ChunkProgressTracker,
        JobTrackingService,
        OCRChunkService,
        broadcast_job_progress,
    )
    from celery_progress_ext.tracked_job import TrackedJob
    from celery_progress_ext.worker.admission import Superseded

__all__ = [
    "PIPELINE_STAGES",
    "CeleryProgress",
    "ChunkNotFound",
    "ChunkProgress",
    "ChunkProgressTracker",
    "ChunkStatus",
    "DatabaseAway",
    "DatabaseError",
    "DatabaseNotMigrated",
    "ForgottenJob",
    "IllegalTransition",
    "InvalidCanvas",
    "InvalidSetting",
    "InvalidToken",
    "JobNotFound",
    "JobSnapshot",
    "JobStatus",
    "JobTrackingService",
    "MissingExtra",
    "NotConfigured",
    "NotPublished",
    "OCRChunkService",
    "ProgressError",
    "Superseded",
    "TrackedJob",
    "__version__",
    "broadcast_job_progress",
    "format_chunk_failure_message",
    "jobs_forgotten",
    "tracked_chord",
    "tracked_group",
]

#: The module of each public name, imported when it is asked for: Celery imports this package in each of its commands
#: (``cli``), for apps that track nothing too.
_MODULES = {
    "CeleryProgress": "extension",
    "ChunkNotFound": "exceptions",
    "ChunkProgress": "chunks",
    "ChunkProgressTracker": "story",
    "ChunkStatus": "chunks",
    "DatabaseAway": "exceptions",
    "DatabaseError": "exceptions",
    "DatabaseNotMigrated": "exceptions",
    "ForgottenJob": "jobs",
    "IllegalTransition": "exceptions",
    "InvalidCanvas": "exceptions",
    "InvalidSetting": "exceptions",
    "InvalidToken": "exceptions",
    "JobNotFound": "exceptions",
    "JobSnapshot": "jobs",
    "JobStatus": "jobs",
    "JobTrackingService": "story",
    "MissingExtra": "exceptions",
    "NotConfigured": "exceptions",
    "NotPublished": "exceptions",
    "OCRChunkService": "story",
    "PIPELINE_STAGES": "stages",
    "ProgressError": "exceptions",
    "Superseded": "worker.admission",
    "TrackedJob": "tracked_job",
    "broadcast_job_progress": "story",
    "format_chunk_failure_message": "chunks",
    "jobs_forgotten": "signals",
    "tracked_chord": "canvas",
    "tracked_group": "canvas",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("celery-progress-ext")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
