"""What retention forgets takes its files along."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import structlog
from celery import Celery

from celery_progress_ext import CeleryProgress, ForgottenJob, jobs_forgotten
from tasks.documents import DocumentStore

logger = structlog.get_logger(__name__)


def connect(app: Celery, progress: CeleryProgress, documents_url: str) -> None:
    """Delete the files of this app's forgotten jobs, wherever its tick runs."""
    # Made where it is needed: processes that never tick open no store.
    store = cache(lambda: DocumentStore(documents_url))

    def on_forgotten(jobs: Iterable[ForgottenJob], **_: Any) -> None:
        for job in jobs:
            _delete(job, store(), progress)

    jobs_forgotten.connect(on_forgotten, sender=app, weak=False)


def _delete(job: ForgottenJob, store: DocumentStore, progress: CeleryProgress) -> None:
    """Delete a job's results, and the original when no other job of the document is left; else say what stays behind.

    Whatever goes wrong (every store has errors of its own), the other jobs' files still go.
    """
    try:
        store.delete_job(job.job_id)
        # A job of another kind, in the same database, may be over no document.
        if job.document_id is not None and progress.jobs.latest_for_document(job.document_id) is None:
            store.delete_document(job.document_id)
    except Exception as error:
        logger.warning(
            "files_left_behind",
            job_id=job.job_id,
            document_id=job.document_id,
            error=f"{type(error).__name__}: {error}",
        )
