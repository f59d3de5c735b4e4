"""What a person may do to a job: retry what failed, cancel, delete."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from typing import TypeVar

from sqlalchemy.engine import Connection

from celery_progress_ext import ids
from celery_progress_ext.context import ProcessContext
from celery_progress_ext.eager_runs import EagerRunner
from celery_progress_ext.exceptions import IllegalTransition
from celery_progress_ext.ids import TaskId
from celery_progress_ext.jobs import JobSnapshot, JobStatus
from celery_progress_ext.log import get_logger
from celery_progress_ext.publishing import Publisher
from celery_progress_ext.recording import Recording
from celery_progress_ext.signals import jobs_forgotten
from celery_progress_ext.storage import job_changes, retention, sending
from celery_progress_ext.storage.rows import ChunkRow, JobRow

T = TypeVar("T")

_BATCH = 200

logger = get_logger(__name__)


class Operations:
    """Retry, cancel and delete, each legal only where the transition table says so."""

    def __init__(self, context: ProcessContext, recording: Recording, publisher: Publisher, eager: EagerRunner) -> None:
        self._context = context
        self._recording = recording
        self._publisher = publisher
        self._eager = eager

    def retry_failed(self, job_id: str) -> JobSnapshot:
        """Run the chunks that did not finish again, and then the body.

        :raises JobNotFound: when there is no such job.
        :raises IllegalTransition: unless the job is PARTIAL, FAILED or CANCELLED.
        """
        due = self._context.settings.lease_seconds
        job = self._changed(job_id, "retry", lambda conn: job_changes.reopen(conn, job_id, due=due))
        self._recording.conclusion.forget(job_id)
        self._recording.announcer.broadcast(job, bypass_cache=True)
        if job_id in self._publisher.eager or self._publisher.app.conf.task_always_eager:
            self._eager.run(job_id)
            return self._context.snapshots.get(job_id)
        try:
            self._send(job)
        except Exception as error:
            # The run is open, so this is no failure to retry. What is not sent here, because the broker is away or
            # this process dies, is overdue a lease later, and the reconciler sends it.
            logger.warning("retry_not_sent", job_id=job_id, error=f"{type(error).__name__}: {error}")
        return self._context.snapshots.get(job_id)

    def _send(self, job: JobRow) -> None:
        after = -1
        while batch := sending.unsent_chunks(self._context.database, job.id, after=after, limit=_BATCH):
            for each in batch:
                # Its pages are to be read again, unless the run before read them all.
                if each.chunk.reservations is None:
                    self._finished_before(each.chunk)
            after = batch[-1].chunk.chunk_index
        self._publisher.unsent_chunks(job.id)
        if job.completed_chunks == job.total_chunks:
            self._recording.bodies.settle(job)

    def _finished_before(self, chunk: ChunkRow) -> None:
        """Record a chunk that was in flight when the run before ended, and finished: it is not done again."""
        task = TaskId(chunk.job_id, chunk.chunk_index, chunk.dispatches - 1)
        try:
            self._recording.chunks.stored_success(task, ids.chunk_task_id(*astuple(task)))
        except Exception as error:
            # The result backend is away: a second run does no harm.
            logger.warning("outcome_not_read", job_id=task.job_id, error=f"{type(error).__name__}: {error}")

    def cancel(self, job_id: str) -> JobSnapshot:
        """Stop what is queued or running, keep what is finished; the job is CANCELLED.

        :raises JobNotFound: when there is no such job.
        :raises IllegalTransition: when the job is over.
        """
        ended = self._changed(
            job_id, "cancel", lambda conn: job_changes.end(conn, job_id, JobStatus.CANCELLED, error=None)
        )
        self._recording.bodies.run_ended(ended)
        return self._context.snapshots.of(ended.job)

    def delete(self, job_id: str) -> None:
        """Remove a job that is over: its rows, what is kept of it for readers and in the result backend. Sends
        ``jobs_forgotten``, as retention does: what was made of it may go too.

        :raises JobNotFound: when there is no such job.
        :raises IllegalTransition: while it is at work.
        """
        gone = self._changed(job_id, "delete", lambda conn: retention.delete(conn, job_id))
        self._context.broadcaster.discard(job_id)
        self._recording.conclusion.forget(job_id)
        # Celery's `send` logs what a receiver raises, and goes on.
        jobs_forgotten.send(sender=self._publisher.app, jobs=(gone,))

    def _changed(self, job_id: str, what: str, work: Callable[[Connection], T]) -> T:
        changed = self._context.database.write(work)
        if changed is None:
            status = self._context.snapshots.get(job_id).status
            raise IllegalTransition(f"Cannot {what} job {job_id}: it is {status}.")
        logger.info(f"job_{what}", job_id=job_id)
        return changed
