"""The workers that are there: which queues each listens to, how many slots it has, and when it was seen last.

A broker does not say who consumes (Redis knows no consumers), so each worker writes a row of its own. Workers of a
version that does not are in no roster: what is said of a roster without workers is that nothing is known.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    """A worker as it described itself last. Times are seconds since the epoch, on the database's clock.

    :ivar node: Celery's name of it, such as ``celery@host``.
    :ivar queues: the queues that it listens to.
    :ivar slots: how many tasks it runs at once.
    :ivar alive_until: the end of its lease; it has passed for a worker that stopped.
    """

    node: str
    queues: frozenset[str]
    slots: int
    seen_at: float
    alive_until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """Every worker that was seen of late, as of ``now``, the database's clock."""

    now: float = 0.0
    workers: tuple[WorkerRecord, ...] = ()

    @property
    def known(self) -> bool:
        """Whether any worker has been seen: without one, nothing is known of queues and slots."""
        return bool(self.workers)

    @property
    def alive(self) -> tuple[WorkerRecord, ...]:
        """The workers whose lease has not ended."""
        return tuple(worker for worker in self.workers if worker.alive_until > self.now)

    @property
    def last_seen_at(self) -> float | None:
        """When any worker was seen last; None where none was."""
        return max((worker.seen_at for worker in self.workers), default=None)

    def listens(self, queue: str) -> bool:
        """Whether a live worker listens to a queue."""
        return any(queue in worker.queues for worker in self.alive)

    def slots(self, queues: Iterable[str] | None = None) -> int:
        """How many tasks of these queues, or of any, can run at once: the slots of the live workers that listen."""
        wanted = None if queues is None else frozenset(queues)
        return sum(worker.slots for worker in self.alive if wanted is None or wanted & worker.queues)

    def abandoned(self, queue: str, *, seconds: float) -> bool:
        """Whether workers are known, and none has listened to the queue for at least so long."""
        listened = max((worker.alive_until for worker in self.workers if queue in worker.queues), default=0.0)
        return self.known and listened < self.now - seconds
