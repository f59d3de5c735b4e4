"""Snapshots on their way to the readers: each at once while they are few, the newest in time when they are many.

Nobody sees more than some ten changes a second, but a job of short chunks has a thousand, each of which would go to
every reader. Readers may skip versions (the newest one is the whole truth), so a process sends a job's first changes as
they come, and then at most ``PER_SECOND``. What a process that dies still holds, the next tick sends.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from celery_progress_ext.context import ProcessContext
from celery_progress_ext.forks import begins_anew_in_a_child
from celery_progress_ext.log import get_logger
from celery_progress_ext.storage.rows import JobRow

logger = get_logger(__name__)

#: So many snapshots of a job are sent without a wait...
BURST = 20
#: ... and so many a second after that, from each process.
PER_SECOND = 10.0
_KEPT_JOBS = 256


@dataclass(slots=True)
class _Bucket:
    """A token bucket, and the newest row of a job that waits for a token."""

    tokens: float = BURST
    counted_at: float = field(default_factory=time.monotonic)
    #: With the slots that its change freed.
    waiting: tuple[JobRow, int] | None = None

    def left(self) -> bool:
        """Whether something may be sent now."""
        now = time.monotonic()
        self.tokens = min(float(BURST), self.tokens + (now - self.counted_at) * PER_SECOND)
        self.counted_at = now
        return self.tokens >= 1.0


class SnapshotThrottle:
    """Sends the snapshots that belong to rows; one per process, shared by its threads, usable after a fork."""

    def __init__(self, context: ProcessContext) -> None:
        self._context = context
        self.begin_anew()
        begins_anew_in_a_child(self)

    def begin_anew(self) -> None:
        """Nothing waits; in a forked child, the parent sends its own."""
        self._lock = threading.Lock()
        self._jobs: OrderedDict[str, _Bucket] = OrderedDict()
        self._timer: threading.Timer | None = None

    def submit(self, job: JobRow, *, freed_slots: int = 0, bypass_cache: bool = False) -> None:
        """Send the snapshot of a job's row (with ``now``), or a newer one soon.

        :param bypass_cache: what a reader waits for, as the end of a job: it never waits.
        :param freed_slots: see ``Snapshots.of``.
        """
        if bypass_cache or job.status.terminal:
            with self._lock:
                self._jobs.pop(job.id, None)
            self._send(job, freed_slots=freed_slots, bypass_cache=bypass_cache)
            return
        with self._lock:
            its = self._jobs.setdefault(job.id, _Bucket())
            self._jobs.move_to_end(job.id)
            if len(self._jobs) > _KEPT_JOBS:
                self._jobs.popitem(last=False)
            if its.waiting is None or job.version > its.waiting[0].version:
                its.waiting = job, freed_slots
            if not its.left():
                self._flush_soon()
                return
            job, freed_slots = self._taken(its)
        self._send(job, freed_slots=freed_slots)

    def flush(self) -> None:
        """Send what waits, now: a token has come, or the process ends."""
        with self._lock:
            self._timer = None
            taken = [self._taken(its) for its in self._jobs.values() if its.waiting is not None]
        for job, freed_slots in taken:
            try:
                self._send(job, freed_slots=freed_slots)
            except Exception as error:
                # The database is away; nobody waits for a thread's exception.
                logger.warning("broadcast_failed", job_id=job.id, error=type(error).__name__)

    def _send(self, job: JobRow, *, freed_slots: int, bypass_cache: bool = False) -> None:
        self._context.broadcaster.publish(
            self._context.snapshots.of(job, bypass_cache=bypass_cache, freed_slots=freed_slots)
        )

    @staticmethod
    def _taken(its: _Bucket) -> tuple[JobRow, int]:
        assert its.waiting is not None
        taken, its.waiting = its.waiting, None
        its.tokens = max(0.0, its.tokens - 1.0)
        return taken

    def _flush_soon(self) -> None:
        if self._timer is None:
            self._timer = threading.Timer(1.0 / PER_SECOND, self.flush)
            self._timer.daemon = True
            self._timer.start()
