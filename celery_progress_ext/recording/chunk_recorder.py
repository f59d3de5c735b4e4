"""What happens to chunks, committed to the rows and then broadcast. Every step may be repeated, late or lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from billiard.exceptions import TimeLimitExceeded
from sqlalchemy.engine import Connection

from celery_progress_ext import ids
from celery_progress_ext.chunks import ChunkStatus
from celery_progress_ext.config import Settings
from celery_progress_ext.context import ProcessContext
from celery_progress_ext.exceptions import describe
from celery_progress_ext.ids import TaskId
from celery_progress_ext.jobs import JobStatus
from celery_progress_ext.log import get_logger
from celery_progress_ext.publishing import FAILURE, SUCCESS, Publisher
from celery_progress_ext.recording.announcer import Announcer
from celery_progress_ext.recording.batch_completer import BatchCompleter
from celery_progress_ext.recording.body_recorder import BodyRecorder
from celery_progress_ext.recording.processes import is_gone, process_name
from celery_progress_ext.storage import body_changes, chunk_changes, job_changes, lookups, sending, shortfalls
from celery_progress_ext.storage.chunk_changes import Change, Completion
from celery_progress_ext.storage.job_changes import Ended
from celery_progress_ext.storage.rows import JobRow

logger = get_logger(__name__)

#: Completions, each with a result of up to 16 KB, that are one statement's parameter.
_TOGETHER = 200


class ChunkRecorder:
    """Records what chunks report. Methods return what took effect, or None where the report was out of date."""

    def __init__(
        self, context: ProcessContext, publisher: Publisher, announcer: Announcer, bodies: BodyRecorder
    ) -> None:
        self._context = context
        self._publisher = publisher
        self._announcer = announcer
        self._bodies = bodies
        self._completions = BatchCompleter(self._complete_or_log)

    def started(self, task: TaskId, *, elapsed: float = 0.0, take_over: bool = False) -> int | None:
        """Begin an attempt; its number, or None where this task has no business with the chunk any more.

        :param take_over: look whether the attempt that holds the chunk died on this machine, rather than wait for
            its lease; for a message that the broker delivered again.
        """
        dead = self._dead_attempt(task.chunk_id) if take_over else -1
        change = self._context.database.write(
            lambda conn: chunk_changes.start(
                conn,
                task.chunk_id,
                lease=self._settings.lease_seconds,
                max_tries=self._settings.max_attempts,
                elapsed=elapsed,
                worker=process_name(),
                dead_attempt=dead,
                promise=self._context.snapshots.last_promise(task.job_id),
            )
        )
        if change is None:
            self._give_up_if_worn_out(task, dead)
            return None
        self._announcer.chunk_changed(change, "chunk_started")
        return change.chunk.attempt

    def alive(self, task: TaskId, *, attempt: int) -> bool:
        """Renew the lease; False where the attempt was superseded."""
        lease = self._settings.lease_seconds
        return bool(
            self._context.database.write(
                lambda conn: chunk_changes.beat(conn, task.chunk_id, attempt=attempt, lease=lease)
            )
        )

    def progressed(
        self, task: TaskId, *, attempt: int, done: int, seconds_since_progress: float, total: int | None = None
    ) -> int | None:
        """Record pages done, or steps of ``total``; how many chunks of the job are at work, or None where the attempt
        was superseded.
        """
        change = self._context.database.write(
            lambda conn: chunk_changes.progress(
                conn,
                task.chunk_id,
                attempt=attempt,
                done=done,
                total=total,
                lease=self._settings.lease_seconds,
                seconds_since_progress=seconds_since_progress,
            )
        )
        if change is None:
            return None
        self._announcer.broadcast(change.job)
        return change.job.processing_chunks

    def succeeded(
        self,
        task: TaskId,
        *,
        result: Any,
        seconds: float | None = None,
        total: int | None = None,
        counted_by_celery: bool = True,
        may_batch: bool = False,
    ) -> None:
        """Record a success; a second report changes nothing.

        :param total: the last total that its task reported.
        :param counted_by_celery: False where Celery may not have counted its chord part (F3, F8): after the last
            chunk the body is then published at once, and not a lease later.
        :param may_batch: it may wait for others that come right after it; see :class:`BatchCompleter`.
        """
        completion = Completion(
            chunk_id=task.chunk_id,
            result=result,
            seconds=seconds,
            total=total,
            chord_intact=counted_by_celery and task.dispatch == 1,
            dispatch=task.dispatch,
        )
        if may_batch:
            self._completions.add(task.job_id, completion)
        else:
            self._complete(task.job_id, [completion])

    def _complete(self, job_id: str, completions: Sequence[Completion]) -> None:
        promise, grace = self._context.snapshots.last_promise(job_id), self._settings.lease_seconds
        changes = (
            self._context.database.write(
                lambda conn: chunk_changes.complete_all(conn, completions, grace=grace, promise=promise)
            )
            or []
        )
        for change in changes:
            self._announcer.log(change, "chunk_completed")
        if changes:
            self._after(changes[-1].job, freed_slots=1)

    def _after(self, job: JobRow, *, freed_slots: int = 0) -> None:
        """A chunk is terminal: its job may have ended with it, or wait for its body."""
        if job.status.terminal:
            self._bodies.ended(job)
            return
        self._announcer.broadcast(job, freed_slots=freed_slots)
        self._bodies.send_if_settled(job)

    def _complete_or_log(self, job_id: str, completions: Sequence[Completion]) -> None:
        try:
            self._complete(job_id, completions)
        except Exception as error:
            # The result backend has them: the body looks there for what the rows do not know, or the reconciler.
            logger.warning(
                "completions_not_recorded",
                job_id=job_id,
                chunks=len(completions),
                error=f"{type(error).__name__}: {error}",
            )

    def stored_success(self, task: TaskId, task_id: str) -> bool:
        """Record the success that the result backend has of a chunk's task, though no receiver reported it.

        :returns: whether it has one.
        """
        state, result = self._publisher.outcome(task_id)
        if state == SUCCESS:
            self.succeeded(task, result=result, counted_by_celery=False)
        return state == SUCCESS

    def stored_end(self, task: TaskId, task_id: str) -> bool:
        """:meth:`stored_success`, or a hard time limit that nothing reported: before 5.7 Celery sends no signal where
        the message is delivered again (F11).
        """
        state, result = self._publisher.outcome(task_id)
        if state == FAILURE and isinstance(result, TimeLimitExceeded):
            self.failed(task, error=describe(result))
            return True
        return self.stored_success(task, task_id)

    def failed(
        self, task: TaskId, *, error: str, attempt: int | None = None, only_if_lease_expired: bool = False
    ) -> Change | None:
        """Record a failure for good; what that means for the job is its policy."""

        def write(conn: Connection) -> tuple[Change, Ended | None] | None:
            job_changes.lock_run_that_fails(conn, task.job_id)
            change = chunk_changes.fail(
                conn,
                task.chunk_id,
                error=error,
                attempt=attempt,
                dispatch=task.dispatch,
                only_if_lease_expired=only_if_lease_expired,
            )
            if change is None:
                return None
            verdict = _verdict(change, error)
            if verdict is None:
                return replace(change, job=body_changes.end_without_body(conn, change.job)), None
            return change, job_changes.end(conn, task.job_id, JobStatus.FAILED, error=verdict)

        # What was finished before is kept, also where this ends the job.
        self._completions.flush()
        written = self._context.database.write(write)
        if written is None:
            return None
        change, ended = written
        self._announcer.log(change, "chunk_failed", error=error)
        if ended is not None:
            self._announcer.broadcast(change.job)
            self._bodies.run_ended(ended)
        else:
            self._after(change.job)
        return change

    def reserved(self, task: TaskId, *, attempt: int, reservations: Sequence[Mapping[str, Any]]) -> bool:
        """Note the pages that this attempt could not wholly read; False where the attempt was superseded."""
        return bool(
            self._context.database.write(
                lambda conn: shortfalls.reserve(conn, task.chunk_id, attempt=attempt, reservations=reservations)
            )
        )

    def retrying(self, task: TaskId, *, attempt: int | None, due: float, reason: str) -> Change | None:
        """Celery's own retry: the same task comes again within ``due`` seconds."""
        change = self._release(task, attempt=attempt, due=due, reason=reason, resend=False)
        if change is not None:
            self._announcer.chunk_changed(change, "chunk_retrying", error=reason)
        return change

    def lost(
        self,
        task: TaskId,
        *,
        attempt: int | None,
        reason: str,
        delivered: bool = False,
        only_if_lease_expired: bool = False,
    ) -> Change | None:
        """Send a chunk again whose worker or message is lost; fail it where it was tried too often.

        A try is a delivery that is known to have reached a worker: a message that was lost on its way is none.

        :param delivered: the message reached a worker, even if no start was recorded.
        :param only_if_lease_expired: it may have been renewed, or begun, since somebody looked.
        """
        row = lookups.chunk(self._context.database, task.chunk_id)
        tries = 0 if row is None else row.tries + int(delivered and row.status is ChunkStatus.PENDING)
        if tries >= self._settings.max_attempts:
            error = f"{reason}; it was tried {tries} times"
            return self.failed(task, error=error, attempt=attempt, only_if_lease_expired=only_if_lease_expired)
        change = self._release(
            task,
            attempt=attempt,
            due=self._settings.lease_seconds,
            reason=reason,
            resend=True,
            delivered=delivered,
            only_if_lease_expired=only_if_lease_expired,
        )
        if change is not None:
            self._announcer.chunk_changed(change, "chunk_redispatched", error=reason)
            self.send_unsent(task.job_id)
        return change

    def send_unsent(self, job_id: str) -> None:
        """Publish what the broker has not taken of a job, unless somebody else is at it. What cannot be sent now, the
        next tick sends.
        """
        if self._publisher.eager.is_running(job_id):
            return
        lease = self._settings.lease_seconds
        if not self._context.database.write(lambda conn: sending.take_unsent(conn, job_id, lease=lease)):
            return
        try:
            self._publisher.unsent_chunks(job_id)
        except Exception as error:
            logger.warning("chunks_not_sent", job_id=job_id, error=f"{type(error).__name__}: {error}")

    def _release(
        self,
        task: TaskId,
        *,
        attempt: int | None,
        due: float,
        reason: str,
        resend: bool,
        delivered: bool = False,
        only_if_lease_expired: bool = False,
    ) -> Change | None:
        dispatch = task.dispatch + 1 if resend else task.dispatch
        return self._context.database.write(
            lambda conn: chunk_changes.release(
                conn,
                task.chunk_id,
                dispatch=task.dispatch,
                task_id=ids.chunk_task_id(task.job_id, task.chunk_index or 0, dispatch),
                due=due,
                reason=reason,
                attempt=attempt,
                resend=resend,
                delivered=delivered,
                only_if_lease_expired=only_if_lease_expired,
            )
        )

    def _give_up_if_worn_out(self, task: TaskId, dead_attempt: int) -> None:
        """A chunk whose message kills worker after worker never reports: the next delivery fails it instead."""
        row = lookups.abandoned_chunk(self._context.database, task.chunk_id, dead_attempt=dead_attempt)
        if row is not None and row.tries >= self._settings.max_attempts:
            self.failed(task, error=f"its worker was lost {row.tries} times", attempt=row.attempt)

    def _dead_attempt(self, chunk_id: str) -> int:
        """The attempt that holds the chunk, if its process was on this machine and is gone; else -1."""
        row = lookups.chunk(self._context.database, chunk_id)
        if row is None or row.status is not ChunkStatus.PROCESSING or row.worker is None:
            return -1
        return row.attempt if is_gone(row.worker) else -1

    def reconcile_header(self, job_id: str) -> None:
        """Before the body is claimed: Celery publishes it before the last task_success (``mark_as_done`` counts the
        chord part first, F1), so what the rows do not know yet is looked up in the result backend.
        """
        self._completions.flush()
        found: list[Completion] = []
        for task_id in lookups.unfinished_tasks(self._context.database, job_id):
            task = ids.parse(task_id)
            state, result = self._publisher.outcome(task_id)
            if state == SUCCESS and task is not None:
                found.append(
                    Completion(
                        chunk_id=task.chunk_id,
                        result=result,
                        chord_intact=task.dispatch == 1,
                        dispatch=task.dispatch,
                    )
                )
        for first in range(0, len(found), _TOGETHER):
            self._complete(job_id, found[first : first + _TOGETHER])

    def flush(self) -> None:
        """Record the completions that wait: the process ends."""
        self._completions.flush()

    @property
    def _settings(self) -> Settings:
        return self._context.settings


def _verdict(change: Change, error: str) -> str | None:
    """Why the job cannot go on after this chunk's failure; None where it can."""
    job, chunk = change.job, change.chunk
    if job.on_chunk_failure == "fail" or job.failed_chunks == job.total_chunks:
        return job.failure(chunk, error).message
    return None
