"""Which chunks' messages were lost in a queue that never runs empty: those that were overtaken.

A broker gives the messages of a queue to workers in the order in which they were sent. So when a message that was sent
later was started more than a lease ago, while a chunk's own was not, that one is not in the queue any more. It was
lost; or a busy worker holds it (``worker_prefetch_multiplier``), and then one that is sent again is one too many.

What was sent later, the rows show:

- in a job, a chunk behind this one in the header, both on their first message: Celery publishes a header in order;
- in any job that was created later, whatever was started: rows are inserted before anything is published.

A message is known by when it was sent at the latest: the first from the job's creation, others from its history.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from celery_progress_ext.config import Settings
from celery_progress_ext.publishing import Publisher, QueueKey
from celery_progress_ext.recovery import queries
from celery_progress_ext.recovery.queries import PassedChunk, QueueProgress
from celery_progress_ext.storage import Database
from celery_progress_ext.storage.rows import ChunkRow

#: A publisher is taken to send so many messages of a header a second, and to begin within a tick.
_PUBLISHED_PER_SECOND = 100
#: Beyond every index of a chunk.
_ALL = 2**31 - 1
#: Options with which a worker takes a message from the queue and keeps it until its time comes.
_DELAYS = ("countdown", "eta")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Front:
    """How far an active job has come."""

    job_id: str
    #: Lower bound of when the first messages of its pending chunks were sent.
    since: float
    pending_index: int
    #: Of its first pending chunk.
    queue: QueueKey | None
    #: The farthest chunk in the header that was taken from the queue, where that says something of the order; else -1.
    taken_to: int


@dataclass
class _Reached:
    """How far the queues have come: the newest job of which a chunk was started."""

    #: Before this moment (the database's clock) a start is a lease old.
    ripe_before: float = 0.0
    ripe: dict[QueueKey, float] = field(default_factory=dict)
    any: dict[QueueKey, float] = field(default_factory=dict)

    def see(self, queue: QueueKey | None, *, sent_after: float, started_at: float) -> None:
        """A message of this queue, sent after the one moment, was started at the other."""
        if queue is not None:
            self.any[queue] = max(sent_after, self.any.get(queue, 0.0))
            if started_at < self.ripe_before:
                self.ripe[queue] = max(sent_after, self.ripe.get(queue, 0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Overtaken:
    """What one look found."""

    #: Overdue chunks whose message was overtaken: to be sent again.
    lost: list[ChunkRow]
    #: Queue → everything that was sent to it before this moment, and is not started by now, is lost.
    ripe: dict[QueueKey, float]
    #: Job id → chunks on their first message in front of this index were overtaken, if not a lease ago.
    below: dict[str, int]


class LostMessageFinder:
    """Looks how far the queues have been taken. A look costs a few index look-ups per active job."""

    def __init__(self, database: Database, publisher: Publisher, settings: Settings) -> None:
        self._database = database
        self._publisher = publisher
        self._settings = settings

    def look(self) -> Overtaken:
        """The overdue chunks that are lost, at most a batch."""
        fronts, reached = self._fronts()
        lost: list[ChunkRow] = []
        below: dict[str, int] = {}
        for front in fronts:
            passed = self._passed(front, reached.any)
            index = _ALL if passed else front.taken_to
            if index <= front.pending_index:
                continue
            below[front.job_id] = index
            if len(lost) < queries.BATCH:
                lost += self._lost(front, reached.ripe)
        return Overtaken(lost=lost[: queries.BATCH], below=below, ripe=reached.ripe)

    def _fronts(self) -> tuple[list[_Front], _Reached]:
        fronts: list[_Front] = []
        reached = _Reached()
        for progress in queries.queue_progress(self._database):
            reached.ripe_before = reached.ripe_before or progress.now - self._settings.lease_seconds
            self._see(reached, progress.created_at, progress.evidence_started_at, progress.evidence_signature)
            front = self._front(progress)
            if front is not None:
                fronts.append(front)
        if fronts:
            oldest = min(front.since for front in fronts)
            for found in queries.evidence_of_ended(self._database, since=oldest):
                self._see(reached, found.created_at, found.started_at, found.signature)
        return fronts, reached

    def _front(self, progress: QueueProgress) -> _Front | None:
        if progress.pending_index is None or progress.pending_signature is None:
            return None
        # In a run that a person began, every pending chunk was sent again: the header's order says nothing.
        taken = (progress.processing_to, progress.completed_to, progress.failed_to) if progress.run == 1 else ()
        return _Front(
            job_id=progress.job_id,
            since=progress.retried_at or progress.created_at,
            pending_index=progress.pending_index,
            queue=self._publisher.queue_key(progress.pending_signature),
            taken_to=max((index for index in taken if index is not None), default=-1),
        )

    def _see(
        self, reached: _Reached, sent_after: float, started_at: float | None, signature: Mapping[str, Any] | None
    ) -> None:
        if started_at is not None and signature is not None:
            reached.see(self._publisher.queue_key(signature), sent_after=sent_after, started_at=started_at)

    def _passed(self, front: _Front, reached: dict[QueueKey, float]) -> bool:
        return front.queue is not None and front.since < reached.get(front.queue, 0.0)

    def _lost(self, front: _Front, reached: dict[QueueKey, float]) -> list[ChunkRow]:
        """The job's overdue chunks that were overtaken more than a lease ago."""
        passed = self._passed(front, reached)
        below = _ALL if passed else front.taken_to
        rows = queries.passed_chunks(self._database, front.job_id, below=below, resent=passed)
        if not rows:
            return []
        ahead = self._ahead(front)
        lost = []
        for row in rows:
            queue = self._publisher.queue_key(row.signature)
            if queue is None or any((row.signature.get("options") or {}).get(name) for name in _DELAYS):
                continue
            overtaken_inside = row.first_message and row.chunk.chunk_index < ahead.get(queue, -1)
            if overtaken_inside or self._sent_by(row, front) < reached.get(queue, 0.0):
                lost.append(row.chunk)
        return lost

    def _ahead(self, front: _Front) -> dict[QueueKey, int]:
        """Queue → the farthest of the job's chunks on their first message that was started more than a lease ago."""
        evidence: Iterable[tuple[int, Mapping[str, Any]]] = ()
        if front.taken_to > front.pending_index:
            evidence = queries.ripe_evidence(
                self._database,
                front.job_id,
                first=front.pending_index,
                last=front.taken_to,
                lease=self._settings.lease_seconds,
            )
        ahead: dict[QueueKey, int] = {}
        for index, signature in evidence:
            queue = self._publisher.queue_key(signature)
            if queue is not None:
                ahead.setdefault(queue, index)
        return ahead

    def _sent_by(self, row: PassedChunk, front: _Front) -> float:
        """When the chunk's newest message was sent at the latest."""
        if row.chunk.sent_at is not None:
            return row.chunk.sent_at
        # A row of before revision 0003.
        return front.since + row.chunk.chunk_index / _PUBLISHED_PER_SECOND + self._settings.tick_seconds
