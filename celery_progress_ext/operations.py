"""What a person may do to a job: retry what failed, cancel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from typing import TypeVar

from celery_progress_ext import ids
from celery_progress_ext.context import Runtime
from celery_progress_ext.exceptions import IllegalTransition
from celery_progress_ext.ids import TaskId
from celery_progress_ext.jobs import JobSnapshot, JobStatus
from celery_progress_ext.log import get_logger
from celery_progress_ext.publishing import Dispatch
from celery_progress_ext.recording.recorder import Recorder
from celery_progress_ext.storage import job_changes as job_writes
from celery_progress_ext.storage.connection import Connection
from celery_progress_ext.storage.database import Row

T = TypeVar("T")

logger = get_logger(__name__)


class Control:
    """Retry and cancel, each legal only where the transition table says so."""

    def __init__(self, runtime: Runtime, recorder: Recorder, dispatch: Dispatch) -> None:
        self._runtime = runtime
        self._recorder = recorder
        self._dispatch = dispatch

    def retry_failed(self, job_id: str) -> JobSnapshot:
        """Run the chunks that did not finish again, and then the body.

        :raises JobNotFound: when there is no such job.
        :raises IllegalTransition: unless the job is PARTIAL, FAILED or CANCELLED.
        """
        due = self._runtime.settings.lease_seconds
        job = self._changed(job_id, "retry", lambda conn: job_writes.reopen(conn, job_id, due=due))
        self._recorder.broadcast(job, fresh=True)
        try:
            self._send(job)
        except Exception as error:
            # The run is open, so this is no failure to retry. What is not sent here, because the broker is away or
            # this process dies, is overdue a lease later, and the reconciler sends it.
            logger.warning("retry_not_sent", job_id=job_id, error=f"{type(error).__name__}: {error}")
        return self._runtime.jobs.snapshot(job_id)

    def _send(self, job: Row) -> None:
        for chunk in self._runtime.database.rows(
            "SELECT * FROM document_ocr_chunks WHERE job_id = :id AND status = 'pending' ORDER BY chunk_index",
            id=job["id"],
        ):
            if not self._finished_before(chunk):
                self._dispatch.chunk(chunk)
        if job["completed_chunks"] == job["total_chunks"]:
            self._recorder.dispatch_body(job["id"])

    def _finished_before(self, chunk: Row) -> bool:
        """Record a chunk that was in flight when the run before ended, and finished: it is not done again."""
        task = TaskId(chunk["job_id"], chunk["chunk_index"], chunk["dispatches"] - 1)
        try:
            return self._recorder.stored_success(task, ids.chunk_task_id(*astuple(task)))
        except Exception as error:
            # The result backend is away: a second run does no harm.
            logger.warning("outcome_not_read", job_id=task.job_id, error=f"{type(error).__name__}: {error}")
            return False

    def cancel(self, job_id: str) -> JobSnapshot:
        """Stop what is queued or running, keep what is finished; the job is CANCELLED.

        :raises JobNotFound: when there is no such job.
        :raises IllegalTransition: when the job is over.
        """
        ended = self._changed(
            job_id, "cancel", lambda conn: job_writes.end(conn, job_id, JobStatus.CANCELLED, error=None)
        )
        self._recorder.run_ended(ended)
        return self._runtime.snapshots.of(ended.job)

    def _changed(self, job_id: str, what: str, work: Callable[[Connection], T]) -> T:
        changed = self._runtime.database.write(work)
        if changed is None:
            status = self._runtime.jobs.snapshot(job_id).status
            raise IllegalTransition(f"Cannot {what} job {job_id}: it is {status}.")
        logger.info(f"job_{what}", job_id=job_id)
        return changed
