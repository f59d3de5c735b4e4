"""The guarantee behind the fast path: what signals, chord counters, brokers or workers lost is found and finished.

Each step is idempotent and bounded, looks at rows by index and on the database's clock, and acts by the same guarded
changes as everyone else; so two beats, late ticks and a tick that dies half-way do no harm.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import groupby
from typing import Any

from celery_progress_ext import ids
from celery_progress_ext.context import Runtime
from celery_progress_ext.exceptions import DatabaseNotMigrated, describe
from celery_progress_ext.ids import TaskId
from celery_progress_ext.jobs import ForgottenJob
from celery_progress_ext.log import get_logger
from celery_progress_ext.publishing import FAILURE, SUCCESS, Dispatch
from celery_progress_ext.recording.recorder import Recorder
from celery_progress_ext.recovery import queries as due
from celery_progress_ext.recovery.auditor import Check
from celery_progress_ext.recovery.lost_messages import Overtaking
from celery_progress_ext.signals import jobs_forgotten
from celery_progress_ext.storage.database import Row
from celery_progress_ext.storage.job_changes import as_json

logger = get_logger(__name__)

#: Snapshots built and sent in one go by the heartbeat.
_PAGE = 200


class Reconciler:
    """One tick: heal, then tell everyone how every running job is."""

    def __init__(self, runtime: Runtime, recorder: Recorder, dispatch: Dispatch) -> None:
        self._runtime = runtime
        self._recorder = recorder
        self._dispatch = dispatch
        self._check = Check(runtime.database)
        self._overtaking = Overtaking(runtime.database, dispatch, runtime.settings)
        #: Steps that wait for a migration, which is told once.
        self._waiting: set[str] = set()
        self._drifted = 0

    def tick(self) -> dict[str, int]:
        """Run every step, each even where another fails; how many rows each looked at, and jobs found drifted."""
        steps: tuple[Callable[[], int], ...] = (
            self.heal_lapsed,
            self.heal_overdue,
            self.heal_settled,
            self.beat,
            self.check,
            self.forget,
        )
        self._drifted = 0
        return {**{step.__name__: self._run(step) for step in steps}, "drifted": self._drifted}

    def heal_lapsed(self) -> int:
        """A chunk whose worker is silent: record what it achieved, or send it again."""
        rows = due.lapsed_chunks(self._runtime.database)
        for row in rows:
            self._each(self._heal_lapsed, row)
        return len(rows)

    def heal_overdue(self) -> int:
        """A chunk that should have been started: lost where it was overtaken or its queue is empty, else it waits."""
        rows = due.overdue_chunks(self._runtime.database)
        if not rows:
            return 0
        overtaken = self._overtaking.look()
        for row in overtaken.lost:
            self._each(self._heal_overtaken, row)
        # Those that were given a message of their own, or were left for now, are not to be judged by the queue's depth.
        done = {row["id"] for row in overtaken.lost}
        rows = [row for row in rows if row["id"] not in done]
        depths: dict[str, int | None] = {}
        for job_id, found in groupby(sorted(rows, key=lambda row: str(row["job_id"])), key=lambda row: row["job_id"]):
            chunks = list(found)
            heal = partial(self._heal_overdue_job, chunks, depths, below=overtaken.below.get(job_id, -1))
            self._each(heal, chunks[0])
        return len(rows) + len(done)

    def _heal_overdue_job(self, chunks: list[Row], depths: dict[str, int | None], first: Row, *, below: int) -> None:
        """Send a job's overdue chunks again where their queue is empty; its depth is asked for once a tick."""
        signature = as_json(first["signature"])
        queue = self._dispatch.queue_of(signature)
        if queue not in depths:
            depths[queue] = self._dispatch.waiting(signature)
        if depths[queue] != 0:
            self._extend(first["job_id"], below=below)
            return
        for row in chunks:
            self._each(self._heal_overdue, row)

    def heal_settled(self) -> int:
        """All chunks are terminal and no body is alive: record that it is done, or publish it."""
        rows = due.settled_jobs(self._runtime.database)
        for row in rows:
            self._each(self._heal_settled, row)
        return len(rows)

    def beat(self) -> int:
        """Send the snapshot of every running job: a sign of life, and the cure for a broadcast that was lost."""
        count, after = 0, ""
        while rows := due.running_jobs(self._runtime.database, after=after, limit=_PAGE):
            kept = self._runtime.broadcaster.kept_versions([row["id"] for row in rows])
            snapshots = [self._runtime.snapshots.of(row) for row in rows]
            self._runtime.broadcaster.publish_many(
                (snapshot, "heartbeat" if kept.get(snapshot.job_id) == snapshot.version else None)
                for snapshot in snapshots
            )
            count, after = count + len(rows), rows[-1]["id"]
        return count

    def check(self) -> int:
        """Audit jobs that ended, and some that run."""
        checked = self._check.run()
        self._drifted = checked.drifted
        return checked.jobs

    def forget(self) -> int:
        """Delete what retention no longer keeps, and tell who listens: what was made of it may go too."""
        gone: list[ForgottenJob] = []
        try:
            gone.extend(due.forget(self._runtime.database, days=self._runtime.settings.retention_days))
        finally:
            if gone:
                # Celery's `send` logs what a receiver raises, and goes on.
                jobs_forgotten.send(sender=self._dispatch.app, jobs=tuple(gone))
        return len(gone)

    def _heal_lapsed(self, row: Row) -> None:
        outcome = self._dispatch.outcome(row["task_id"])
        self._heal(row, outcome, attempt=row["attempt"], reason="its worker gave no sign of life for a whole lease")

    def _heal_overdue(self, row: Row) -> None:
        self._send_again(row, self._anyone_at_work, reason="no worker started it, although its queue is empty")

    def _heal_overtaken(self, row: Row) -> None:
        self._send_again(row, self._may_be_held, reason="no worker started it, but one that was sent after it")

    def _send_again(self, row: Row, held: Callable[[Row], bool], *, reason: str) -> None:
        outcome = self._dispatch.outcome(row["task_id"])
        worn_out = row["tries"] >= self._runtime.settings.max_attempts
        if worn_out and outcome[0] != SUCCESS and held(row):
            # A busy worker may hold the message: it is not given up before the others are done.
            due.extend_chunk(self._runtime.database, row["id"], seconds=self._runtime.settings.lease_seconds)
        else:
            self._heal(row, outcome, attempt=None, reason=reason)

    def _anyone_at_work(self, row: Row) -> bool:
        return self._runtime.jobs.snapshot(row["job_id"]).chunks.processing > 0

    def _may_be_held(self, row: Row) -> bool:
        """In a queue that many jobs fill, another job's chunk may keep the worker busy."""
        return self._anyone_at_work(row) or due.at_work_since(self._runtime.database, row["sent_by"])

    def _extend(self, job_id: str, *, below: int) -> None:
        """Look at the job's overdue chunks a lease later: none can have been overtaken for a lease before that.

        :param below: chunks in front of it have been, for less than a lease: they are looked at again at the next tick.
        """
        settings = self._runtime.settings
        seconds, soon = settings.lease_seconds, min(settings.tick_seconds, settings.lease_seconds)
        due.extend(self._runtime.database, job_id, seconds=seconds, soon=soon, below=below)

    def _heal(self, row: Row, outcome: tuple[str, Any], *, attempt: int | None, reason: str) -> None:
        """Record a success that no receiver told, else send the chunk again.

        A failure that no receiver told is no verdict: it may be Celery's own, to store the result or to count the chord
        part (F8). Another try tells which.
        """
        state, result = outcome
        if state == SUCCESS:
            self._recorder.chunk_succeeded(_task(row), result=result, counted=False)
        else:
            reason = describe(result) if state == FAILURE else reason
            self._recorder.chunk_lost(_task(row), attempt=attempt, reason=reason, lapsed=True)

    def _heal_settled(self, row: Row) -> None:
        if self._recorder.stored_body_success(row["id"], row["body_task_id"]):
            return
        if row["body_tries"] >= self._runtime.settings.max_attempts:
            error = f"its worker was lost {row['body_tries']} times"
            self._recorder.body_failed(row["id"], row["body_task_id"], error=error, attempt=row["body_attempt"])
        else:
            self._recorder.dispatch_body(row["id"])

    def _run(self, step: Callable[[], int]) -> int:
        try:
            count = step()
            self._waiting.discard(step.__name__)
            return count
        except DatabaseNotMigrated as error:
            # New code before its migration: the other steps do not need the new column.
            if step.__name__ not in self._waiting:
                self._waiting.add(step.__name__)
                logger.warning("reconciler_step_waits", step=step.__name__, advice=str(error))
            return 0
        except Exception as error:
            logger.warning("reconciler_step_failed", step=step.__name__, error=f"{type(error).__name__}: {error}")
            return 0

    @staticmethod
    def _each(heal: Callable[[Row], None], row: Row) -> None:
        """One row that can not be healed must not keep the others from it."""
        try:
            heal(row)
        except Exception as error:
            logger.warning("reconciler_row_failed", id=row["id"], error=f"{type(error).__name__}: {error}")


def _task(row: Row) -> TaskId:
    task = ids.parse(row["task_id"])
    assert task is not None
    return task
