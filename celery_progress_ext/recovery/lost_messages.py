"""Which chunks' messages were lost in a queue that never runs empty: those that were overtaken.

A broker gives the messages of a queue to workers in the order in which they were sent. So when a message that was sent
later was started more than a lease ago, while a chunk's own was not, that one is not in the queue any more. It was
lost; or a busy worker holds it (``worker_prefetch_multiplier``), and then one that is sent again is one too many.

What was sent later, the rows tell:

- in a job, a chunk behind this one in the header, both on their first message: Celery publishes a header in order;
- in any job that was created later, whatever was started: rows are inserted before anything is published.

A message is known by when it was sent at the latest: the first from the job's creation, others from its history.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from celery_progress_ext.config import Settings
from celery_progress_ext.publishing import Dispatch, Lane
from celery_progress_ext.recovery import queries as due
from celery_progress_ext.storage import Database
from celery_progress_ext.storage.database import Row
from celery_progress_ext.storage.job_changes import as_json

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
    #: Its pending chunks were sent no earlier, as far as one message each goes.
    since: float
    pending_index: int
    #: Of its first pending chunk.
    lane: Lane | None
    #: The farthest chunk in the header that was taken from the queue, where that tells an order; else -1.
    taken_to: int


@dataclass
class _Reached:
    """How far the lanes have come: the newest job of which a chunk was started."""

    #: Before this moment (the database's clock) a start is a lease old.
    ripe_before: float = 0.0
    ripe: dict[Lane, float] = field(default_factory=dict)
    any: dict[Lane, float] = field(default_factory=dict)

    def see(self, lane: Lane | None, *, sent_after: float, started_at: float) -> None:
        """A message of this lane, sent after the one moment, was started at the other."""
        if lane is not None:
            self.any[lane] = max(sent_after, self.any.get(lane, 0.0))
            if started_at < self.ripe_before:
                self.ripe[lane] = max(sent_after, self.ripe.get(lane, 0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Overtaken:
    """What one look found."""

    #: Rows of chunks to be sent again, each with ``sent_by``, when its newest message was sent at the latest.
    lost: list[Row]
    #: Job id → chunks on their first message in front of this index were overtaken, if not a lease ago.
    below: dict[str, int]


class Overtaking:
    """Looks how far the queues have been taken. A look costs a few index look-ups per active job."""

    def __init__(self, database: Database, dispatch: Dispatch, settings: Settings) -> None:
        self._database = database
        self._dispatch = dispatch
        self._settings = settings

    def look(self) -> Overtaken:
        """The overdue chunks that are lost, at most a batch."""
        fronts, reached = self._fronts()
        lost: list[Row] = []
        below: dict[str, int] = {}
        for front in fronts:
            passed = self._passed(front, reached.any)
            index = _ALL if passed else front.taken_to
            if index <= front.pending_index:
                continue
            below[front.job_id] = index
            if len(lost) < due.BATCH:
                lost += self._lost(front, reached.ripe)
        return Overtaken(lost=lost[: due.BATCH], below=below)

    def _fronts(self) -> tuple[list[_Front], _Reached]:
        fronts: list[_Front] = []
        reached = _Reached()
        for row in due.fronts(self._database):
            reached.ripe_before = reached.ripe_before or row["now"] - self._settings.lease_seconds
            self._see(reached, row)
            if row["pending_index"] is not None:
                fronts.append(self._front(row))
        if fronts:
            oldest = min(front.since for front in fronts)
            for row in due.ended_witnesses(self._database, since=oldest):
                self._see(reached, row)
        return fronts, reached

    def _front(self, row: Row) -> _Front:
        # In a run that a person began, every pending chunk was sent again: the header's order says nothing.
        taken = (row[f"{status}_to"] for status in ("processing", "completed", "failed")) if row["run"] == 1 else ()
        return _Front(
            job_id=row["id"],
            since=row["retried_at"] or row["created_at"],
            pending_index=row["pending_index"],
            lane=self._dispatch.lane_of(as_json(row["pending_signature"])),
            taken_to=max((index for index in taken if index is not None), default=-1),
        )

    def _see(self, reached: _Reached, row: Row) -> None:
        if row["witness_started_at"] is not None:
            lane = self._dispatch.lane_of(as_json(row["witness_signature"]))
            reached.see(lane, sent_after=row["created_at"], started_at=row["witness_started_at"])

    def _passed(self, front: _Front, reached: dict[Lane, float]) -> bool:
        return front.lane is not None and front.since < reached.get(front.lane, 0.0)

    def _lost(self, front: _Front, reached: dict[Lane, float]) -> list[Row]:
        """The job's overdue chunks that were overtaken more than a lease ago."""
        passed = self._passed(front, reached)
        below = _ALL if passed else front.taken_to
        rows = due.passed_chunks(self._database, front.job_id, below=below, resent=passed)
        if not rows:
            return []
        ahead = self._ahead(front)
        resent = due.resent_at(self._database, front.job_id) if any(not row["first_message"] for row in rows) else {}
        lost = []
        for row in rows:
            signature = as_json(row["signature"])
            lane = self._dispatch.lane_of(signature)
            sent_by = self._sent_by(row, front, resent)
            if lane is None or any((signature.get("options") or {}).get(name) for name in _DELAYS):
                continue
            overtaken_inside = row["first_message"] and row["chunk_index"] < ahead.get(lane, -1)
            if overtaken_inside or sent_by < reached.get(lane, 0.0):
                lost.append({**row, "sent_by": sent_by})
        return lost

    def _ahead(self, front: _Front) -> dict[Lane, int]:
        """Lane → the farthest of the job's chunks on their first message that was started more than a lease ago."""
        lease = self._settings.lease_seconds
        rows: Iterable[Row] = ()
        if front.taken_to > front.pending_index:
            rows = due.ripe_witnesses(
                self._database, front.job_id, first=front.pending_index, last=front.taken_to, lease=lease
            )
        ahead: dict[Lane, int] = {}
        for row in rows:
            lane = self._dispatch.lane_of(as_json(row["signature"]))
            if lane is not None:
                ahead.setdefault(lane, row["chunk_index"])
        return ahead

    def _sent_by(self, row: Row, front: _Front, resent: dict[int, float]) -> float:
        """When the chunk's newest message was sent at the latest."""
        header = front.since + row["chunk_index"] / _PUBLISHED_PER_SECOND
        return float(max(header, resent.get(row["chunk_index"], 0.0)) + self._settings.tick_seconds)
