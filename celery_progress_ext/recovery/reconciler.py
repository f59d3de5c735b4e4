"""The guarantee behind the fast path: what signals, chord counters, brokers or workers lost is found and finished.

Each step is idempotent and bounded, looks at rows by index and on the database's clock, and acts by the same guarded
changes as everyone else; so two beats, late ticks and a tick that dies half-way do no harm.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import groupby
from typing import Any, TypeVar

from celery_progress_ext import ids
from celery_progress_ext.context import ProcessContext
from celery_progress_ext.exceptions import DatabaseNotMigrated, describe
from celery_progress_ext.ids import TaskId
from celery_progress_ext.jobs import ForgottenJob
from celery_progress_ext.log import get_logger
from celery_progress_ext.publishing import FAILURE, SUCCESS, Publisher
from celery_progress_ext.recording import Recording
from celery_progress_ext.recovery import queries
from celery_progress_ext.recovery.auditor import BackgroundAuditor
from celery_progress_ext.recovery.lost_messages import LostChunk, LostMessageFinder
from celery_progress_ext.signals import jobs_forgotten
from celery_progress_ext.storage import retention
from celery_progress_ext.storage.rows import ChunkRow, JobRow
from celery_progress_ext.storage.sending import SentChunk

logger = get_logger(__name__)

T = TypeVar("T")

#: Snapshots built and sent in one go by the heartbeat.
_PAGE = 200


class Reconciler:
    """One tick: heal, then tell everyone how every running job is."""

    def __init__(self, context: ProcessContext, recording: Recording, publisher: Publisher) -> None:
        self._context = context
        self._recording = recording
        self._publisher = publisher
        self._auditor = BackgroundAuditor(context.database)
        self._finder = LostMessageFinder(context.database, publisher, context.settings)
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
        rows = queries.lapsed_chunks(self._context.database)
        for row in rows:
            self._each(self._heal_lapsed, row)
        return len(rows)

    def heal_overdue(self) -> int:
        """A chunk that should have been started: lost where it was overtaken or its queue is empty, else it waits."""
        rows = queries.overdue_chunks(self._context.database)
        if not rows:
            return 0
        overtaken = self._finder.look()
        for row in overtaken.lost:
            self._each(self._heal_overtaken, row)
        # Those that were given a message of their own, or were left for now, are not to be judged by the queue's depth.
        done = {lost.chunk.id for lost in overtaken.lost}
        rows = [row for row in rows if row.chunk.id not in done]
        depths: dict[str, int | None] = {}
        for job_id, found in groupby(sorted(rows, key=_job_of), key=_job_of):
            chunks = list(found)
            heal = partial(self._heal_overdue_job, chunks, depths, below=overtaken.below.get(job_id, -1))
            self._each(heal, chunks[0])
        return len(rows) + len(done)

    def _heal_overdue_job(
        self, chunks: list[SentChunk], depths: dict[str, int | None], first: SentChunk, *, below: int
    ) -> None:
        """Send a job's overdue chunks again where their queue is empty; its depth is asked for once a tick."""
        signature = first.signature
        queue = self._publisher.queue_of(signature)
        if queue not in depths:
            depths[queue] = self._publisher.waiting(signature)
        if depths[queue] != 0:
            self._extend(first.chunk.job_id, below=below)
            return
        for row in chunks:
            self._each(self._heal_overdue, row)

    def heal_settled(self) -> int:
        """All chunks are terminal and no body is alive: record that it is done, or publish it."""
        rows = queries.settled_jobs(self._context.database)
        for row in rows:
            self._each(self._heal_settled, row)
        return len(rows)

    def beat(self) -> int:
        """Send the snapshot of every running job: a sign of life, and the cure for a broadcast that was lost."""
        count, after = 0, ""
        while rows := queries.running_jobs(self._context.database, after=after, limit=_PAGE):
            kept = self._context.broadcaster.kept_versions([row.id for row in rows])
            snapshots = [self._context.snapshots.of(row) for row in rows]
            self._context.broadcaster.publish_many(
                (snapshot, "heartbeat" if kept.get(snapshot.job_id) == snapshot.version else None)
                for snapshot in snapshots
            )
            count, after = count + len(rows), rows[-1].id
        return count

    def check(self) -> int:
        """Audit jobs that ended, and some that run."""
        checked = self._auditor.run()
        self._drifted = checked.drifted
        return checked.jobs

    def forget(self) -> int:
        """Delete what retention no longer keeps, and tell who listens: what was made of it may go too."""
        gone: list[ForgottenJob] = []
        try:
            gone.extend(retention.expire(self._context.database, days=self._context.settings.retention_days))
        finally:
            if gone:
                # Celery's `send` logs what a receiver raises, and goes on.
                jobs_forgotten.send(sender=self._publisher.app, jobs=tuple(gone))
        return len(gone)

    def _heal_lapsed(self, row: SentChunk) -> None:
        outcome = self._publisher.outcome(row.chunk.task_id)
        self._heal(
            row.chunk, outcome, attempt=row.chunk.attempt, reason="its worker gave no sign of life for a whole lease"
        )

    def _heal_overdue(self, row: SentChunk) -> None:
        self._send_again(
            row.chunk,
            partial(self._anyone_at_work, row.chunk),
            reason="no worker started it, although its queue is empty",
        )

    def _heal_overtaken(self, lost: LostChunk) -> None:
        self._send_again(
            lost.chunk, partial(self._may_be_held, lost), reason="no worker started it, but one that was sent after it"
        )

    def _send_again(self, row: ChunkRow, held: Callable[[], bool], *, reason: str) -> None:
        outcome = self._publisher.outcome(row.task_id)
        worn_out = row.tries >= self._context.settings.max_attempts
        if worn_out and outcome[0] != SUCCESS and held():
            # A busy worker may hold the message: it is not given up before the others are done.
            queries.extend_chunk(self._context.database, row.id, seconds=self._context.settings.lease_seconds)
        else:
            self._heal(row, outcome, attempt=None, reason=reason)

    def _anyone_at_work(self, row: ChunkRow) -> bool:
        return self._context.jobs.snapshot(row.job_id).chunks.processing > 0

    def _may_be_held(self, lost: LostChunk) -> bool:
        """In a queue that many jobs fill, another job's chunk may keep the worker busy."""
        return self._anyone_at_work(lost.chunk) or queries.at_work_since(self._context.database, lost.sent_by)

    def _extend(self, job_id: str, *, below: int) -> None:
        """Look at the job's overdue chunks a lease later: none can have been overtaken for a lease before that.

        :param below: chunks in front of it have been, for less than a lease: they are looked at again at the next tick.
        """
        settings = self._context.settings
        seconds, soon = settings.lease_seconds, min(settings.tick_seconds, settings.lease_seconds)
        queries.extend(self._context.database, job_id, seconds=seconds, soon=soon, below=below)

    def _heal(self, row: ChunkRow, outcome: tuple[str, Any], *, attempt: int | None, reason: str) -> None:
        """Record a success that no receiver told, else send the chunk again.

        A failure that no receiver told is no verdict: it may be Celery's own, to store the result or to count the chord
        part (F8). Another try tells which.
        """
        state, result = outcome
        if state == SUCCESS:
            self._recording.chunks.succeeded(_task(row), result=result, counted_by_celery=False)
        else:
            reason = describe(result) if state == FAILURE else reason
            self._recording.chunks.lost(_task(row), attempt=attempt, reason=reason, only_if_lease_expired=True)

    def _heal_settled(self, job: JobRow) -> None:
        bodies = self._recording.bodies
        if bodies.stored_success(job.id, job.body_task_id):
            return
        if job.body_tries >= self._context.settings.max_attempts:
            error = f"its worker was lost {job.body_tries} times"
            bodies.failed(job.id, job.body_task_id, error=error, attempt=job.body_attempt)
        else:
            bodies.send(job.id)

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
    def _each(heal: Callable[[T], None], row: T) -> None:
        """One row that can not be healed must not keep the others from it."""
        try:
            heal(row)
        except Exception as error:
            logger.warning("reconciler_row_failed", row=_id_of(row), error=f"{type(error).__name__}: {error}")


def _job_of(row: SentChunk) -> str:
    return row.chunk.job_id


def _id_of(row: object) -> str:
    return str(getattr(getattr(row, "chunk", row), "id", row))


def _task(row: ChunkRow) -> TaskId:
    task = ids.parse(row.task_id)
    assert task is not None
    return task
