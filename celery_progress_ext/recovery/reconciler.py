"""The guarantee behind the fast path: what signals, chord counters, brokers or workers lost is found and finished.

Each step is idempotent and bounded, looks at rows by index and on the database's clock, and acts by the same guarded
changes as everyone else; so two beats, late ticks and a tick that dies half-way do no harm.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from itertools import groupby
from typing import Any, TypeVar

from celery_progress_ext import ids
from celery_progress_ext.context import ProcessContext
from celery_progress_ext.exceptions import DatabaseNotMigrated, describe
from celery_progress_ext.ids import TaskId
from celery_progress_ext.jobs import ForgottenJob
from celery_progress_ext.lanes import JobQueues
from celery_progress_ext.log import get_logger
from celery_progress_ext.publishing import FAILURE, SUCCESS, Publisher, QueueKey
from celery_progress_ext.recording import Recording
from celery_progress_ext.recovery import queries
from celery_progress_ext.recovery.auditor import BackgroundAuditor
from celery_progress_ext.recovery.lost_messages import LostMessageFinder
from celery_progress_ext.signals import jobs_forgotten
from celery_progress_ext.storage import endings, kinds, lookups, retention, sending, workers
from celery_progress_ext.storage.body_changes import BodyDispatch
from celery_progress_ext.storage.rows import ChunkRow, JobRow
from celery_progress_ext.storage.sending import SentChunk

logger = get_logger(__name__)

T = TypeVar("T")

#: A message that a busy worker may hold is taken for lost after so many leases all the same.
_HELD_LEASES = 8
#: What follows a run is published within so many seconds of its end, or never: the broker was away for days.
_CONCLUDED_WITHIN = 7 * 86_400.0

#: Snapshots built and sent in one go by the heartbeat.
_PAGE = 200


class QueueDepths:
    """How many messages wait in a queue, asked for once a tick, before the tick sends any itself."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._depths: dict[str, int | None] = {}

    def of(self, signature: Mapping[str, Any]) -> int | None:
        """The depth of the queue that this goes to; None where the broker does not say."""
        queue = self._publisher.queue_of(signature)
        if queue not in self._depths:
            self._depths[queue] = self._publisher.waiting(signature)
        return self._depths[queue]


class OneLook:
    """How far the queues have been taken, looked up when it is first asked for."""

    def __init__(self, finder: LostMessageFinder) -> None:
        self._finder = finder

    @cached_property
    def _ripe(self) -> Mapping[QueueKey, float]:
        return self._finder.look().ripe

    def overtaken(self, queue: QueueKey | None, sent_at: float) -> bool:
        """Whether something that was sent to this queue later was started more than a lease ago."""
        return queue is not None and sent_at < self._ripe.get(queue, 0.0)


class Reconciler:
    """One tick: heal, then broadcast the state of every running job."""

    def __init__(self, context: ProcessContext, recording: Recording, publisher: Publisher) -> None:
        self._context = context
        self._recording = recording
        self._publisher = publisher
        self._auditor = BackgroundAuditor(context.database)
        self._finder = LostMessageFinder(context.database, publisher, context.settings)
        self._depths = QueueDepths(publisher)
        #: Steps that wait for a migration, which is logged once.
        self._waiting: set[str] = set()
        self._drifted = 0

    def tick(self) -> dict[str, int]:
        """Run every step, each even where another fails; how many rows each looked at, and jobs found drifted."""
        steps: tuple[Callable[[], int], ...] = (
            self.clamp,
            # These ask how many messages wait: what the others send would keep lost ones waiting for another lease.
            self.heal_overdue,
            self.heal_settled,
            self.heal_lapsed,
            self.heal_unsent,
            self.conclude,
            self.beat,
            self.catch_up,
            self.check,
            self.learn,
            self.forget,
            self.forget_workers,
        )
        self._drifted = 0
        self._depths = QueueDepths(self._publisher)
        return {**{step.__name__: self._run(step) for step in steps}, "drifted": self._drifted}

    def clamp(self) -> int:
        """Shorten leases that a clock that went back has made too long."""
        clamped = queries.clamp_leases(self._context.database, lease=self._context.settings.lease_seconds)
        if clamped:
            logger.warning("leases_clamped", leases=clamped, reason="the database's clock went back")
        return clamped

    def heal_unsent(self) -> int:
        """What the broker has not taken, because it was away or its publisher died, is sent."""
        found = sending.jobs_with_unsent_chunks(self._context.database, limit=queries.BATCH)
        for job_id in found:
            self._recording.chunks.send_unsent(job_id)
        return len(found)

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
        for chunk in overtaken.lost:
            self._each(self._heal_overtaken, chunk)
        # Those that were given a message of their own, or were left for now, are not to be judged by the queue's depth.
        done = {chunk.id for chunk in overtaken.lost}
        rows = [row for row in rows if row.chunk.id not in done]
        for job_id, found in groupby(sorted(rows, key=_job_of), key=_job_of):
            chunks = list(found)
            heal = partial(self._heal_overdue_job, chunks, below=overtaken.below.get(job_id, -1))
            self._each(heal, chunks[0])
        return len(rows) + len(done)

    def _heal_overdue_job(self, chunks: list[SentChunk], first: SentChunk, *, below: int) -> None:
        """Send a job's overdue chunks again where their queue is empty, or nobody listens to it; each by its own queue,
        since those that were sent again may have gone another way.
        """
        waits = False
        by_queue: dict[QueueKey, list[SentChunk]] = defaultdict(list)
        for row in chunks:
            by_queue[self._publisher.queue_key_of(row.signature)].append(row)
        for rows in by_queue.values():
            reason = self._lost_because(rows[0])
            if reason is None:
                waits = True
                continue
            for row in rows:
                self._each(partial(self._heal_overdue, reason=reason), row)
        if waits:
            self._extend(first.chunk.job_id, below=below)

    def _lost_because(self, row: SentChunk) -> str | None:
        """Why an overdue chunk will not be started from its queue; None where it waits there."""
        if self._depths.of(row.signature) == 0:
            return "no worker started it, although its queue is empty"
        job = lookups.job(self._context.database, row.chunk.job_id)
        if job is not None and self._publisher.stranded(row.signature, JobQueues.of(job.queues).chunk_lane):
            return "no worker listens to its queue any more"
        return None

    def heal_settled(self) -> int:
        """All chunks are terminal and no body is alive: record that it is done, or publish it."""
        due = queries.settled_jobs(self._context.database)
        if due:
            look = OneLook(self._finder)
            for each in due:
                self._each(partial(self._heal_settled, look), each)
        return len(due)

    def conclude(self) -> int:
        """Runs whose result or followers were not published at their end: the process died first, or failed to."""
        lease = self._context.settings.lease_seconds
        found = endings.unfollowed(self._context.database, lease=lease, most=_CONCLUDED_WITHIN, limit=queries.BATCH)
        for job in found:
            self._recording.conclusion.store_result(job)
            self._recording.conclusion.follow_or_log(job.id)
        return len(found)

    def beat(self) -> int:
        """Send the snapshot of every running job: a sign of life, and the cure for a broadcast that was lost."""
        count, after = 0, ""
        while rows := queries.running_jobs(self._context.database, after=after, limit=_PAGE):
            kept = self._context.broadcaster.kept_versions([row.id for row in rows])
            snapshots = [self._context.snapshots.of(self._caught_up(row, kept)) for row in rows]
            self._context.broadcaster.publish_many(
                (snapshot, "heartbeat" if kept.get(snapshot.job_id) == snapshot.version else None)
                for snapshot in snapshots
            )
            count, after = count + len(rows), rows[-1].id
        return count

    def catch_up(self) -> int:
        """The database came back without its last writes (a standby, a backup): jobs whose end readers would not see,
        because they were given a newer version, get one above it.
        """
        rows = queries.recently_ended_jobs(self._context.database, limit=queries.BATCH)
        kept = self._context.broadcaster.kept_versions([row.id for row in rows])
        behind = [row for row in rows if kept.get(row.id, 0) > row.version]
        for row in behind:
            self._context.broadcaster.publish(self._context.snapshots.of(self._caught_up(row, kept)))
        return len(behind)

    def _caught_up(self, row: JobRow, kept: Mapping[str, int]) -> JobRow:
        """The row, with a version above the one that readers have where it fell behind: the rows win."""
        if kept.get(row.id, 0) <= row.version:
            return row
        # It may just have changed: what was kept before the row is read again is not newer than that.
        job = lookups.job(self._context.database, row.id) or row
        above = kept[row.id]
        if job.version >= above:
            return job
        raised = self._context.database.write(lambda conn: queries.raise_version(conn, row.id, above=above))
        if raised is not None:
            logger.warning("job_was_behind", job_id=row.id, version=job.version, readers_had=above)
        return raised or job

    def check(self) -> int:
        """Audit jobs that ended, and some that run."""
        checked = self._auditor.run()
        self._drifted = checked.drifted
        return checked.jobs

    def learn(self) -> int:
        """What runs that ended say of the next ones of their kind."""
        return kinds.learn(self._context.database)

    def forget(self) -> int:
        """Delete what retention no longer keeps, and send ``jobs_forgotten``: what was made of it may go too."""
        gone: list[ForgottenJob] = []
        try:
            gone.extend(retention.expire(self._context.database, days=self._context.settings.retention_days))
        finally:
            if gone:
                # Celery's `send` logs what a receiver raises, and goes on.
                jobs_forgotten.send(sender=self._publisher.app, jobs=tuple(gone))
        return len(gone)

    def forget_workers(self) -> int:
        """Delete the rows of workers that have not been seen for a week."""
        return workers.forget(self._context.database)

    def _heal_lapsed(self, row: SentChunk) -> None:
        outcome = self._publisher.outcome(row.chunk.task_id)
        self._heal(
            row.chunk, outcome, attempt=row.chunk.attempt, reason="its worker gave no sign of life for a whole lease"
        )

    def _heal_overdue(self, row: SentChunk, *, reason: str) -> None:
        self._send_again(row.chunk, reason)

    def _heal_overtaken(self, chunk: ChunkRow) -> None:
        self._send_again(chunk, "no worker started it, but one that was sent after it")

    def _send_again(self, chunk: ChunkRow, reason: str) -> None:
        outcome = self._publisher.outcome(chunk.task_id)
        if outcome[0] != SUCCESS and chunk.dispatches > 1 and self._may_be_held(chunk.sent_at):
            lease = self._context.settings.lease_seconds
            queries.extend_chunk(self._context.database, chunk.id, seconds=lease)
        else:
            self._heal(chunk, outcome, attempt=None, reason=reason)

    def _may_be_held(self, sent_at: float | None) -> bool:
        """Whether a worker that is busy since before a message was sent may hold it, unacknowledged: no broker lists
        those (RabbitMQ counts ready messages only, Redis lists no others). So a message that waits gets one spare copy;
        another follows when nobody is left who could hold it, or after ``_HELD_LEASES``.
        """
        if not sent_at:
            return False
        database, lease = self._context.database, self._context.settings.lease_seconds
        if not queries.sent_within(database, sent_at, seconds=_HELD_LEASES * lease):
            return False
        return queries.at_work_since(database, sent_at) or queries.merging_since(database, sent_at)

    def _extend(self, job_id: str, *, below: int) -> None:
        """Look at the job's overdue chunks a lease later: none can have been overtaken for a lease before that.

        :param below: chunks in front of it have been, for less than a lease: they are looked at again at the next tick.
        """
        settings = self._context.settings
        seconds, soon = settings.lease_seconds, min(settings.tick_seconds, settings.lease_seconds)
        queries.extend(self._context.database, job_id, seconds=seconds, soon=soon, below=below)

    def _heal(self, row: ChunkRow, outcome: tuple[str, Any], *, attempt: int | None, reason: str) -> None:
        """Record a success that no receiver reported, else send the chunk again.

        A failure that no receiver reported is no verdict: it may be Celery's own, to store the result or to count the
        chord part (F8). Another try shows which.
        """
        state, result = outcome
        if state == SUCCESS:
            self._recording.chunks.succeeded(_task(row), result=result, counted_by_celery=False)
        else:
            reason = describe(result) if state == FAILURE else reason
            self._recording.chunks.lost(_task(row), attempt=attempt, reason=reason, only_if_lease_expired=True)

    def _heal_settled(self, look: OneLook, due: BodyDispatch) -> None:
        bodies, job = self._recording.bodies, due.job
        if not job.has_body:
            bodies.settle(job)
            return
        if bodies.stored_success(job.id, job.body_task_id):
            return
        if job.body_tries >= self._context.settings.max_attempts:
            error = f"its worker was lost {job.body_tries} times"
            bodies.failed(job.id, job.body_task_id, error=error, attempt=job.body_attempt)
        elif self._body_waits(look, due):
            bodies.postpone(job.id)
        else:
            bodies.send(job.id)

    def _body_waits(self, look: OneLook, due: BodyDispatch) -> bool:
        """Whether the body's newest message may still come to a worker; the chord's own gets a spare copy at once."""
        job = due.job
        if not job.body_sent_at or (job.merge_started_at or 0.0) > job.body_sent_at:
            return False  # it was not sent, or was taken and its worker is lost
        if self._publisher.stranded(due.signature, JobQueues.of(job.queues).body_lane):
            return False
        if look.overtaken(self._publisher.queue_key(due.signature), job.body_sent_at):
            return False
        return self._depths.of(due.signature) != 0 or self._may_be_held(job.body_sent_at)

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
        """One row that cannot be healed must not keep the others from it."""
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
