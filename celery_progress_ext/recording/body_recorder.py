"""What happens to a job's body: claimed once, alive, finished or failed, and published where Celery's chord cannot."""

from __future__ import annotations

from typing import Any

from celery_progress_ext import ids
from celery_progress_ext.config import Settings
from celery_progress_ext.context import ProcessContext
from celery_progress_ext.ids import TaskId
from celery_progress_ext.jobs import JobStatus
from celery_progress_ext.log import get_logger
from celery_progress_ext.publishing import SUCCESS, Publisher, ResultLost
from celery_progress_ext.recording.announcer import Announcer
from celery_progress_ext.recording.conclusion import Conclusion
from celery_progress_ext.recording.processes import process_name
from celery_progress_ext.storage import body_changes, job_changes, lookups
from celery_progress_ext.storage.borrowed import borrowed
from celery_progress_ext.storage.chunk_changes import small_json
from celery_progress_ext.storage.job_changes import Ended
from celery_progress_ext.storage.json import loads
from celery_progress_ext.storage.rows import JobRow

logger = get_logger(__name__)


class BodyRecorder:
    """Records what bodies report. Methods return what took effect, or None where the report was out of date."""

    def __init__(
        self, context: ProcessContext, publisher: Publisher, announcer: Announcer, conclusion: Conclusion
    ) -> None:
        self._context = context
        self._publisher = publisher
        self._announcer = announcer
        self._conclusion = conclusion

    def claimed(self, task: TaskId, task_id: str) -> JobRow | None:
        """Take the merge for this delivery; None where it must end without effect."""
        job = self._context.database.write(
            lambda conn: body_changes.claim(
                conn,
                task.job_id,
                task_id=task_id,
                lease=self._settings.lease_seconds,
                max_tries=self._settings.max_attempts,
                worker=process_name(),
                promise=self._context.snapshots.last_promise(task.job_id),
            )
        )
        if job is None:
            logger.info("body_superseded", job_id=task.job_id, task_id=task_id)
            return None
        logger.info("merge_started", job_id=job.id, attempt=job.body_attempt)
        self._announcer.broadcast(job)
        return job

    def alive(self, job_id: str, *, attempt: int) -> bool:
        """Renew the body's lease; False where it was superseded."""
        lease = self._settings.lease_seconds
        return bool(
            self._context.database.write(lambda conn: body_changes.beat(conn, job_id, attempt=attempt, lease=lease))
        )

    def progressed(self, job_id: str, *, attempt: int, done: int, total: int | None = None) -> bool:
        """Record how far the merge is; False where it was superseded."""
        lease = self._settings.lease_seconds
        job = self._context.database.write(
            lambda conn: body_changes.progress(conn, job_id, attempt=attempt, done=done, total=total, lease=lease)
        )
        if job is not None:
            self._announcer.broadcast(job)
        return job is not None

    def succeeded(self, job_id: str, *, attempt: int, result: Any) -> JobRow | None:
        """The merge took effect: the job is COMPLETED or PARTIAL."""
        kept = _kept(result)
        job = self._context.database.write(lambda conn: body_changes.finish(conn, job_id, attempt=attempt, result=kept))
        if job is not None:
            self._conclude(job, result=result, known=True)
        return job

    def finish_in(self, connection: Any, job_id: str, *, attempt: int, result: Any) -> bool:
        """End the job in a transaction of the user's; False where the attempt was superseded.

        What follows is published once it is committed: :meth:`concluded`, or a lease later the tick.
        """
        kept = _kept(result)
        with borrowed(self._context.database, connection) as conn:
            job = body_changes.finish(conn, job_id, attempt=attempt, result=kept)
        return job is not None

    def concluded(self, job_id: str, *, result: Any) -> None:
        """The user's transaction that ended the job was committed."""
        job = lookups.job(self._context.database, job_id)
        if job is not None and job.status.terminal and job.followed_at is None:
            self._conclude(job, result=result, known=True)

    def _conclude(self, job: JobRow, *, result: Any = None, known: bool = False) -> None:
        # A caller of `job.get()` that saw the end must find the result.
        self._conclusion.store_result(job, result=result, known=known)
        self._announcer.job_ended(job)
        self._conclusion.follow_or_log(job.id)

    def stored_success(self, job_id: str, task_id: str) -> bool:
        """Record the success that the result backend has of the body's task; whether it has one."""
        job = lookups.job(self._context.database, job_id)
        # Only a merge that this run began: the body of the run before it, in a PARTIAL job, succeeded too.
        if job is None or job.merge_started_at is None or job.body_task_id != task_id:
            return False
        state, result = self._publisher.outcome(task_id)
        if state == SUCCESS:
            self.succeeded(job_id, attempt=job.body_attempt, result=result)
        return state == SUCCESS

    def failed(self, job_id: str, task_id: str, *, error: str, attempt: int | None = None) -> JobRow | None:
        """The merge failed for good: the job is FAILED; what its chunks made is kept for a retry.

        :param attempt: the one that failed; None where the reporter does not know it (MainProcess), and then the
            failure counts only where the job waits for this very task.
        """
        job = lookups.job(self._context.database, job_id)
        if job is None or (attempt is None and not _awaits(job, task_id)):
            return None
        attempt = job.body_attempt if attempt is None else attempt
        merging = job.merge_message or "Merging"
        ended = self._context.database.write(
            lambda conn: job_changes.end(
                conn, job_id, JobStatus.FAILED, error=f"{merging} failed: {error}", body_attempt=attempt
            )
        )
        if ended is None:
            return None
        self._conclude(ended.job)
        return ended.job

    def retrying(self, job_id: str, *, attempt: int, due: float) -> None:
        """Celery's own retry of the body: it comes again within ``due`` seconds."""
        job = self._context.database.write(lambda conn: body_changes.release(conn, job_id, attempt=attempt, due=due))
        if job is not None:
            self._announcer.broadcast(job)

    def send(self, job_id: str, *, seen_dispatches: int | None = None) -> bool:
        """Publish the body if it is due and nobody else does; True where this call did."""
        if self._publisher.eager.is_running(job_id):
            return False
        lease = self._settings.lease_seconds
        due = self._context.database.write(
            lambda conn: body_changes.take_dispatch(conn, job_id, grace=lease, seen_dispatches=seen_dispatches)
        )
        if due is None:
            return False
        dispatches = due.job.body_dispatches
        try:
            self._publisher.body(due)
        except ResultLost as error:
            self.failed(job_id, due.job.body_task_id, error=str(error), attempt=due.job.body_attempt)
        except Exception as error:
            # It costs neither a try nor patience: the next tick tries again.
            logger.warning("body_not_sent", job_id=job_id, error=f"{type(error).__name__}: {error}")
            self._context.database.write(lambda conn: body_changes.not_sent(conn, job_id, dispatches=dispatches))
            return False
        else:
            self._context.database.write(
                lambda conn: body_changes.sent(conn, job_id, dispatches=dispatches, grace=lease)
            )
        return True

    def postpone(self, job_id: str) -> None:
        """The body's message waits, or may be held by a busy worker: look again a lease later."""
        grace = self._settings.lease_seconds
        self._context.database.write(lambda conn: body_changes.postpone(conn, job_id, grace=grace))

    def send_if_settled(self, job: JobRow) -> None:
        """When the last chunk ended and Celery's chord cannot publish the body any more, do it now."""
        if job.chunks.settled and not job.chord_intact:
            self.send(job.id, seen_dispatches=job.body_dispatches)

    def settle(self, job: JobRow) -> None:
        """All chunks of a job are terminal, and no report of them has moved it on: publish its body. One that has none
        ends; an earlier version of the library recorded its last chunk, or somebody did by hand.
        """
        if job.has_body:
            self.send(job.id)
            return
        ended = self._context.database.write(lambda conn: body_changes.end_without_body(conn, job))
        if ended is not None and ended.version > job.version:
            self.ended(ended)

    def ended(self, job: JobRow) -> None:
        """A job without a body has ended with its last chunk."""
        self._conclude(job)

    def run_ended(self, ended: Ended) -> None:
        """Announce that a run was ended early, and stop its tasks."""
        self._conclude(ended.job)
        self._publisher.revoke(ended.task_ids)

    @property
    def _settings(self) -> Settings:
        return self._context.settings


def _kept(result: Any) -> list[Any] | None:
    """What the row keeps of a body's result, as ``body_changes.finish`` takes it."""
    text = small_json(result)
    return None if text is None else loads(text)


def _awaits(job: JobRow, task_id: str) -> bool:
    """Whether this body's task is the one that the run has, or waits for: not one of the run before, reported late."""
    if job.merge_started_at is not None:
        return job.body_task_id == task_id
    task = ids.parse(task_id)
    return job.chunks.settled and task is not None and task.dispatch > job.body_dispatches
