"""What happened to a task, committed to the rows and then broadcast. Every step may be repeated, late or lost."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from celery_progress_ext import ids
from celery_progress_ext.chunks import format_chunk_failure_message
from celery_progress_ext.context import Runtime
from celery_progress_ext.ids import TaskId
from celery_progress_ext.jobs import JobStatus
from celery_progress_ext.log import get_logger
from celery_progress_ext.publishing import SUCCESS, Dispatch, ResultLost, worker_name
from celery_progress_ext.recording.batch_completer import GroupCommit
from celery_progress_ext.recording.snapshot_throttle import Outbox
from celery_progress_ext.storage import body_changes as body_writes
from celery_progress_ext.storage import chunk_changes as chunk_writes
from celery_progress_ext.storage import job_changes as job_writes
from celery_progress_ext.storage.chunk_changes import Change, Completion
from celery_progress_ext.storage.connection import Connection
from celery_progress_ext.storage.database import Row
from celery_progress_ext.storage.job_changes import Ended

logger = get_logger(__name__)


#: Completions, each with a result of up to 16 KB, that are one statement's parameter.
_TOGETHER = 200


class Recorder:
    """Records what tasks report. Methods return what took effect, or None where the report was out of date."""

    def __init__(self, runtime: Runtime, dispatch: Dispatch) -> None:
        self._runtime = runtime
        self._dispatch = dispatch
        self._outbox = Outbox(runtime)
        self._completions = GroupCommit(self._complete_quietly)

    # -- chunks

    def chunk_started(self, task: TaskId, *, elapsed: float = 0.0, take_over: bool = False) -> int | None:
        """Begin an attempt; its number, or None where this task has no business with the chunk any more.

        :param take_over: look whether the attempt that holds the chunk died on this machine, rather than wait for
            its lease; for a message that the broker delivered again.
        """
        dead = self._dead_attempt(task.chunk_id) if take_over else -1
        change = self._write(
            lambda conn: chunk_writes.start(
                conn,
                task.chunk_id,
                lease=self._settings.lease_seconds,
                max_tries=self._settings.max_attempts,
                elapsed=elapsed,
                worker=worker_name(),
                dead_attempt=dead,
            )
        )
        if change is None:
            self._give_up_if_worn_out(task, dead)
            return None
        self._announce(change, "chunk_started")
        assert change.chunk is not None
        return int(change.chunk["attempt"])

    def chunk_alive(self, task: TaskId, *, attempt: int) -> bool:
        """Renew the lease; False where the attempt was superseded."""
        lease = self._settings.lease_seconds
        return bool(
            self._runtime.database.write(
                lambda conn: chunk_writes.beat(conn, task.chunk_id, attempt=attempt, lease=lease)
            )
        )

    def chunk_progressed(self, task: TaskId, *, attempt: int, done: int, quiet: float) -> int | None:
        """Record pages done; how many chunks of the job are at work, or None where the attempt was superseded."""
        change = self._write(
            lambda conn: chunk_writes.progress(
                conn,
                task.chunk_id,
                attempt=attempt,
                done=done,
                lease=self._settings.lease_seconds,
                quiet=quiet,
            )
        )
        if change is None:
            return None
        self.broadcast(change.job)
        return int(change.job["processing_chunks"])

    def chunk_succeeded(
        self, task: TaskId, *, result: Any, seconds: float | None = None, counted: bool = True, soon: bool = False
    ) -> None:
        """Record a success; a second report changes nothing.

        :param counted: False where Celery may not have counted its chord part (F3, F8): after the last chunk the body
            is then published at once, and not a lease later.
        :param soon: it may wait for others that come right after it; see :class:`GroupCommit`.
        """
        completion = Completion(
            chunk_id=task.chunk_id, result=result, seconds=seconds, intact=counted and task.dispatch == 1
        )
        if soon:
            self._completions.add(task.job_id, completion)
        else:
            self._complete(task.job_id, [completion])

    def _complete(self, job_id: str, completions: Sequence[Completion]) -> None:
        eta, grace = self._runtime.snapshots.last_eta(job_id), self._settings.lease_seconds
        told, single = completions[0], len(completions) == 1

        def write(conn: Connection) -> list[Change]:
            if single:
                change = chunk_writes.complete(
                    conn,
                    told.chunk_id,
                    result=told.result,
                    seconds=told.seconds,
                    intact=told.intact,
                    grace=grace,
                    eta=eta,
                )
                return [] if change is None else [change]
            return chunk_writes.complete_all(conn, completions, grace=grace, eta=eta)

        changes = self._runtime.database.write(write, single=single) or []
        for change in changes:
            self._tell(change, "chunk_completed")
        if changes:
            job = changes[-1].job
            self.broadcast(job, freed=1)
            self._settle(job)

    def _complete_quietly(self, job_id: str, completions: Sequence[Completion]) -> None:
        try:
            self._complete(job_id, completions)
        except Exception as error:
            # The result backend has them: the body asks there for what the rows do not know, or the reconciler.
            logger.warning(
                "completions_not_recorded",
                job_id=job_id,
                chunks=len(completions),
                error=f"{type(error).__name__}: {error}",
            )

    def stored_success(self, task: TaskId, task_id: str) -> bool:
        """Record the success that the result backend has of a chunk's task, though no receiver told it.

        :returns: whether it has one.
        """
        state, result = self._dispatch.outcome(task_id)
        if state == SUCCESS:
            self.chunk_succeeded(task, result=result, counted=False)
        return state == SUCCESS

    def chunk_failed(
        self, task: TaskId, *, error: str, attempt: int | None = None, lapsed: bool = False
    ) -> Change | None:
        """Record a failure for good; what that means for the job is its policy."""

        def write(conn: Connection) -> Change | None:
            change = chunk_writes.fail(
                conn, task.chunk_id, error=error, attempt=attempt, dispatch=task.dispatch, lapsed=lapsed
            )
            if change is None:
                return None
            verdict = _verdict(change, error)
            if verdict is not None:
                over.append(job_writes.end(conn, task.job_id, JobStatus.FAILED, error=verdict))
            return change

        over: list[Ended] = []
        # What was finished before is kept, also where this ends the job.
        self._completions.flush()
        change = self._write(write)
        if change is not None:
            self._announce(change, "chunk_failed", error=error)
            if over:
                self.run_ended(over[-1])
            else:
                self._settle(change.job)
        return change

    def chunk_retrying(self, task: TaskId, *, attempt: int | None, due: float, reason: str) -> Change | None:
        """Celery's own retry: the same task comes again within ``due`` seconds."""
        change = self._release(task, attempt=attempt, due=due, reason=reason, resend=False)
        if change is not None:
            self._announce(change, "chunk_retrying", error=reason)
        return change

    def chunk_lost(self, task: TaskId, *, attempt: int | None, reason: str, lapsed: bool = False) -> Change | None:
        """Send a chunk again whose worker or message is lost; fail it where it was tried too often.

        :param lapsed: only if its lease is over still: it may have been renewed, or begun, since somebody looked.
        """
        row = self._runtime.database.row("SELECT tries FROM document_ocr_chunks WHERE id = :id", id=task.chunk_id)
        if row is not None and row["tries"] >= self._settings.max_attempts:
            error = f"{reason}; it was tried {row['tries']} times"
            return self.chunk_failed(task, error=error, attempt=attempt, lapsed=lapsed)
        # Each message that vanishes doubles the patience with the next, so that a long queue is not flooded.
        due = self._settings.lease_seconds * 2 ** min(task.dispatch, 6)
        change = self._release(task, attempt=attempt, due=due, reason=reason, resend=True, lapsed=lapsed)
        if change is not None:
            self._announce(change, "chunk_redispatched", error=reason)
            assert change.chunk is not None
            self._dispatch.chunk(change.chunk)
        return change

    def _release(
        self, task: TaskId, *, attempt: int | None, due: float, reason: str, resend: bool, lapsed: bool = False
    ) -> Change | None:
        dispatch = task.dispatch + 1 if resend else task.dispatch
        return self._write(
            lambda conn: chunk_writes.release(
                conn,
                task.chunk_id,
                dispatch=task.dispatch,
                task_id=ids.chunk_task_id(task.job_id, task.chunk_index or 0, dispatch),
                due=due,
                reason=reason,
                attempt=attempt,
                resend=resend,
                lapsed=lapsed,
            )
        )

    def _give_up_if_worn_out(self, task: TaskId, dead_attempt: int) -> None:
        """A chunk whose message kills worker after worker never reports: the next delivery fails it instead."""
        row = self._runtime.database.row(
            """SELECT status, attempt, tries FROM document_ocr_chunks WHERE id = :id
               AND (status = 'pending' OR status = 'processing' AND (leased_until < {now} OR attempt = :dead))""",
            id=task.chunk_id,
            dead=dead_attempt,
        )
        if row is not None and row["tries"] >= self._settings.max_attempts:
            self.chunk_failed(task, error=f"its worker was lost {row['tries']} times", attempt=row["attempt"])

    def _dead_attempt(self, chunk_id: str) -> int:
        """The attempt that holds the chunk, if its process was on this machine and is gone; else -1."""
        row = self._runtime.database.row(
            "SELECT attempt, worker FROM document_ocr_chunks WHERE id = :id AND status = 'processing'", id=chunk_id
        )
        if row is None or not row["worker"]:
            return -1
        host, _, pid = row["worker"].rpartition(":")
        if host != socket.gethostname():
            return -1
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return int(row["attempt"])
        except OSError:
            return -1
        return -1

    # -- the body

    def body_claimed(self, task: TaskId, task_id: str) -> Row | None:
        """Take the merge for this delivery; None where it must end without effect."""
        self.reconcile_header(task.job_id)
        job = self._runtime.database.write(
            lambda conn: body_writes.claim(
                conn,
                task.job_id,
                task_id=task_id,
                lease=self._settings.lease_seconds,
                max_tries=self._settings.max_attempts,
            )
        )
        if job is None:
            logger.info("body_superseded", job_id=task.job_id, task_id=task_id)
            return None
        logger.info("merge_started", job_id=job["id"], attempt=job["body_attempt"])
        self.broadcast(job)
        return job

    def reconcile_header(self, job_id: str) -> None:
        """Celery publishes the body before the last task_success (facts of Celery: mark_as_done counts the chord part
        first), so what the rows do not know yet is asked of the result backend.
        """
        self._completions.flush()
        rows = self._runtime.database.rows(
            """SELECT task_id FROM document_ocr_chunks WHERE job_id = :id AND status IN ('pending', 'processing')
               ORDER BY chunk_index""",
            id=job_id,
        )
        found: list[Completion] = []
        for row in rows:
            task = ids.parse(row["task_id"])
            state, result = self._dispatch.outcome(row["task_id"])
            if state == SUCCESS and task is not None:
                found.append(Completion(chunk_id=task.chunk_id, result=result, intact=task.dispatch == 1))
        for first in range(0, len(found), _TOGETHER):
            self._complete(job_id, found[first : first + _TOGETHER])

    def body_alive(self, job_id: str, *, attempt: int) -> bool:
        """Renew the body's lease; False where it was superseded."""
        lease = self._settings.lease_seconds
        return bool(
            self._runtime.database.write(lambda conn: body_writes.beat(conn, job_id, attempt=attempt, lease=lease))
        )

    def body_progressed(self, job_id: str, *, attempt: int, done: int) -> bool:
        """Record how far the merge is; False where it was superseded."""
        lease = self._settings.lease_seconds
        job = self._runtime.database.write(
            lambda conn: body_writes.progress(conn, job_id, attempt=attempt, done=done, lease=lease)
        )
        if job is not None:
            self.broadcast(job)
        return job is not None

    def body_succeeded(self, job_id: str, *, attempt: int) -> Row | None:
        """The merge took effect: the job is COMPLETED or PARTIAL."""
        return self._ended(self._runtime.database.write(lambda conn: body_writes.finish(conn, job_id, attempt=attempt)))

    def stored_body_success(self, job_id: str, task_id: str) -> bool:
        """Record the success that the result backend has of the body's task; whether it has one."""
        row = self._body(job_id)
        # Only a merge that this run began: the body of the run before it, in a PARTIAL job, succeeded too.
        if row is None or row["merge_started_at"] is None or row["body_task_id"] != task_id:
            return False
        state, _ = self._dispatch.outcome(task_id)
        if state == SUCCESS:
            self.body_succeeded(job_id, attempt=row["body_attempt"])
        return state == SUCCESS

    def body_failed(self, job_id: str, task_id: str, *, error: str, attempt: int | None = None) -> Row | None:
        """The merge failed for good: the job is FAILED; what its chunks made is kept for a retry.

        :param attempt: the one that failed; None where the reporter does not know it (MainProcess), and then the
            failure counts only where the job waits for this very task.
        """
        if attempt is None:
            row = self._body(job_id)
            if row is None or not _awaits(row, task_id):
                return None
            attempt = row["body_attempt"]
        error = f"Merging failed: {error}"
        ended = self._runtime.database.write(
            lambda conn: job_writes.end(conn, job_id, JobStatus.FAILED, error=error, body_attempt=attempt)
        )
        return None if ended is None else self._ended(ended.job)

    def body_retrying(self, job_id: str, *, attempt: int, due: float) -> None:
        """Celery's own retry of the body: it comes again within ``due`` seconds."""
        job = self._runtime.database.write(lambda conn: body_writes.release(conn, job_id, attempt=attempt, due=due))
        if job is not None:
            self.broadcast(job)

    def dispatch_body(self, job_id: str, *, seen_dispatches: int | None = None) -> bool:
        """Publish the body if it is due and nobody else does; True where this call did."""
        job = self._runtime.database.write(
            lambda conn: body_writes.take_dispatch(
                conn, job_id, grace=self._settings.lease_seconds, seen_dispatches=seen_dispatches
            )
        )
        if job is None:
            return False
        try:
            self._dispatch.body(job)
        except ResultLost as error:
            self.body_failed(job_id, job["body_task_id"], error=str(error), attempt=job["body_attempt"])
        return True

    def _body(self, job_id: str) -> Row | None:
        return self._runtime.database.row(
            """SELECT body_task_id, body_attempt, body_dispatches, merge_started_at,
                 completed_chunks + failed_chunks = total_chunks AS settled FROM processing_jobs WHERE id = :id""",
            id=job_id,
        )

    # -- shared

    def broadcast(self, job: Row, *, freed: int = 0, fresh: bool = False) -> None:
        """Send the snapshot of a job's row to its watchers, or a newer one soon; see :class:`Outbox`."""
        self._outbox.post(job, freed=freed, fresh=fresh)

    def flush(self) -> None:
        """Record the completions and send the snapshots that wait: the process ends."""
        self._completions.flush()
        self._outbox.flush()

    def run_ended(self, ended: Ended) -> None:
        """Tell that a run was ended early, and stop its tasks."""
        self._ended(ended.job)
        self._dispatch.revoke(ended.task_ids)

    def _settle(self, job: Row) -> None:
        """When the last chunk ended and Celery's chord can not publish the body any more, do it now."""
        settled = job["completed_chunks"] + job["failed_chunks"] == job["total_chunks"]
        if settled and not job["chord_intact"]:
            self.dispatch_body(job["id"], seen_dispatches=job["body_dispatches"])

    def _ended(self, job: Row | None) -> Row | None:
        if job is not None:
            logger.info("job_ended", job_id=job["id"], status=job["status"], error=job["error"])
            self.broadcast(job, fresh=True)
        return job

    def _announce(self, change: Change, event: str, **fields: Any) -> None:
        self._tell(change, event, **fields)
        self.broadcast(change.job)

    def _tell(self, change: Change, event: str, **fields: Any) -> None:
        assert change.chunk is not None
        # What did not go well has a reason.
        tell = logger.warning if "error" in fields else logger.info
        tell(
            event,
            job_id=change.job["id"],
            chunk_index=change.chunk["chunk_index"],
            attempt=change.chunk["attempt"],
            completed=change.job["completed_chunks"],
            total=change.job["total_chunks"],
            **fields,
        )

    def _write(self, work: Callable[[Connection], Change | None]) -> Change | None:
        return self._runtime.database.write(work)

    @property
    def _settings(self) -> Any:
        return self._runtime.settings


def _awaits(job: Row, task_id: str) -> bool:
    """Whether this body's task is the one that the run has, or waits for: not one of the run before, told late."""
    if job["merge_started_at"] is not None:
        return bool(job["body_task_id"] == task_id)
    task = ids.parse(task_id)
    return bool(job["settled"]) and task is not None and task.dispatch > job["body_dispatches"]


def _verdict(change: Change, error: str) -> str | None:
    """Why the job can not go on after this chunk's failure; None where it can."""
    job, chunk = change.job, change.chunk
    assert chunk is not None
    if job["on_chunk_failure"] == "fail" or job["failed_chunks"] == job["total_chunks"]:
        return format_chunk_failure_message(
            chunk["chunk_index"], chunk["page_start"], chunk["page_end"], error, job["unit"]
        )
    return None
