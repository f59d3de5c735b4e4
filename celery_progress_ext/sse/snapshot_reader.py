"""Current snapshots for the streams: read once for all that ask at the same time, and never waited for long."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from celery_progress_ext.broadcast import Broadcaster
from celery_progress_ext.exceptions import DatabaseAway, DatabaseError
from celery_progress_ext.jobs import JobSnapshot
from celery_progress_ext.log import get_logger
from celery_progress_ext.sse.published import Published

logger = get_logger(__name__)

T = TypeVar("T")

#: Jobs and matters whose last read is remembered.
_REMEMBERED = 1024
#: Open jobs that a matter's stream begins with, and ended ones that a reconnect brings at most.
OPEN_JOBS_LIMIT = 500
ENDED_JOBS_LIMIT = 1000
#: A cursor is a time at which a snapshot was read; what was committed around it may have been sent later. Seconds.
CURSOR_MARGIN_SECONDS = 120.0
#: How long a stream waits for the database before it goes on with the kept snapshot. Seconds.
PATIENCE_SECONDS = 0.5
#: Reads of one job at once, when many ask one after another, and the pause between further ones. Seconds.
_BURST = 3
_PAUSE_SECONDS = 0.1
#: Reads of different jobs at once, of the broadcaster and of the database: each takes a connection.
_AT_ONCE = 8


class DatabaseLate(DatabaseAway):
    """The database did not answer soon enough; the kept snapshots serve meanwhile."""


class Jobs(Protocol):
    """What the streams need of the job service."""

    def snapshot(self, job_id: str) -> JobSnapshot:
        """The whole truth about a job; raises JobNotFound."""

    def list(
        self, matter_id: str | None = None, *, limit: int = 50, active_only: bool = False
    ) -> Sequence[JobSnapshot]:
        """Snapshots of a matter's jobs, newest first."""


class SnapshotReader:
    """Reads snapshots for streams: a thousand readers that connect at once ask for the same few."""

    def __init__(self, jobs: Jobs, broadcaster: Broadcaster) -> None:
        self._jobs = jobs
        self._broadcaster = broadcaster
        self._patient = _PatientReads()
        self._asking = threading.BoundedSemaphore(_AT_ONCE)
        self._of_job: _Shared[Published | None] = _Shared()
        self._of_matter: _Shared[list[Published]] = _Shared()
        self._ended: _Shared[list[Published]] = _Shared()
        self._fresh: _Shared[Published] = _Shared()
        self._listed: _Shared[list[Published]] = _Shared()

    def of_job(self, job_id: str) -> Published | None:
        """The newer of row and kept snapshot; the kept one while rows cannot be read, None when there is neither.

        :raises JobNotFound: when there is no such job.
        """
        return self._of_job.get(job_id, lambda: self._read_job(job_id))

    def fresh(self, job_id: str) -> Published:
        """The row as it is now, with what changes without a version; the kept snapshot while rows cannot be read.

        :raises JobNotFound: when there is no such job.
        :raises DatabaseError: when neither can be read.
        """
        return self._fresh.get(job_id, lambda: self._read_fresh(job_id))

    def listed(self, matter_id: str, *, limit: int, active: bool) -> list[Published]:
        """The jobs of a matter, newest first.

        :raises DatabaseError: when they cannot be read.
        """
        return self._listed.get(f"{limit} {active} {matter_id}", lambda: self._read_list(matter_id, limit, active))

    def of_matter(self, matter_id: str) -> list[Published]:
        """The open jobs of a matter, oldest first; none while rows cannot be read."""
        return self._of_matter.get(matter_id, lambda: self._read_matter(matter_id))

    def ended_since(self, matter_id: str, cursor: int) -> list[Published]:
        """The jobs of a matter that ended since a cursor, and some from shortly before it, oldest first."""
        # Readers that were cut off together come back together: their cursors are rounded to be one question.
        since = cursor / 1000 - CURSOR_MARGIN_SECONDS
        since -= since % 60
        return self._ended.get(f"{since:.0f} {matter_id}", lambda: self._read_ended(matter_id, since))

    def _read_job(self, job_id: str) -> Published | None:
        # Kept first: a version that is committed later is also published later, and the topic hears it.
        with self._asking:
            message = self._broadcaster.kept(job_id)
        kept = None if message is None else Published.of(message)
        try:
            row = self._patient.read(lambda: self._jobs.snapshot(job_id), wait_long=kept is None)
        except DatabaseError as error:
            logger.warning("snapshot_unreadable", job_id=job_id, error=type(error).__name__)
            return kept
        # Redis may have lost what the database knows, or missed its broadcast.
        return kept if kept is not None and kept.version >= row.version else Published(row.to_dict())

    def _read_fresh(self, job_id: str) -> Published:
        try:
            return Published(self._patient.read(lambda: self._jobs.snapshot(job_id)).to_dict())
        except DatabaseError as error:
            with self._asking:
                message = self._broadcaster.kept(job_id)
            if message is None and isinstance(error, DatabaseLate):
                return Published(self._jobs.snapshot(job_id).to_dict())
            if message is None:
                raise
            logger.warning("snapshot_unreadable", job_id=job_id, error=type(error).__name__)
            return Published.of(message)

    def _read_list(self, matter_id: str, limit: int, active: bool) -> list[Published]:
        rows = self._jobs.list(matter_id, limit=limit, active_only=active)
        return [Published(row.to_dict()) for row in rows]

    def _read_matter(self, matter_id: str) -> list[Published]:
        rows = self._list(matter_id, limit=OPEN_JOBS_LIMIT, active_only=True)
        return [Published(row.to_dict()) for row in reversed(rows)]

    def _read_ended(self, matter_id: str, since: float) -> list[Published]:
        rows = self._list(matter_id, limit=ENDED_JOBS_LIMIT, active_only=False)
        ended = [row for row in rows if row.finished_at is not None and row.finished_at.timestamp() >= since]
        return [Published(row.to_dict()) for row in reversed(ended)]

    def _list(self, matter_id: str, *, limit: int, active_only: bool) -> Sequence[JobSnapshot]:
        try:
            return self._patient.read(lambda: self._jobs.list(matter_id, limit=limit, active_only=active_only))
        except DatabaseError as error:
            logger.warning("snapshots_unreadable", matter_id=matter_id, error=type(error).__name__)
            return []


class _Batch(Generic[T]):
    """One read, and the threads that wait for it."""

    def __init__(self) -> None:
        self.done = threading.Event()
        #: The thread that was to read was killed before it had an answer: the others ask again.
        self.abandoned = False
        self.error: Exception | None = None
        self.found: T


class _Line(Generic[T]):
    """The reads of one key, one after another."""

    def __init__(self) -> None:
        self.reading = threading.Lock()
        #: The threads that the next read serves; none once it has begun, since it may miss what came later.
        self.next: _Batch[T] | None = None
        self.begun_at = float("-inf")
        self.allowance = float(_BURST)


class _Shared(Generic[T]):
    """Reads that begin only after every thread that waits for them has come. One at a time for each key, and not too
    many a second."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: OrderedDict[str, _Line[T]] = OrderedDict()

    def get(self, key: str, read: Callable[[], T]) -> T:
        """What ``read`` returns or raises, for every thread that waits for it."""
        while True:
            with self._lock:
                line = self._line(key)
                batch, first = line.next or _Batch[T](), line.next is None
                line.next = batch
            if first:
                self._read(line, batch, read)
            else:
                # All are woken together: one by one, each would stand in line again for its next question.
                batch.done.wait()
            if batch.error is not None:
                raise batch.error
            if not batch.abandoned:
                return batch.found

    def _read(self, line: _Line[T], batch: _Batch[T], read: Callable[[], T]) -> None:
        batch.abandoned = True
        try:
            with line.reading:
                self._pace(line)
                with self._lock:
                    line.next = None
                line.begun_at = time.monotonic()
                try:
                    batch.found = read()
                except Exception as error:
                    batch.error = error
                batch.abandoned = False
        finally:
            with self._lock:
                if line.next is batch:
                    line.next = None
            batch.done.set()

    def _pace(self, line: _Line[T]) -> None:
        gained = (time.monotonic() - line.begun_at) / _PAUSE_SECONDS
        line.allowance = min(line.allowance + gained, _BURST) - 1
        if line.allowance < 0:
            time.sleep(-line.allowance * _PAUSE_SECONDS)
            line.allowance = 0.0

    def _line(self, key: str) -> _Line[T]:
        line = self._lines.setdefault(key, _Line())
        self._lines.move_to_end(key)
        if len(self._lines) > _REMEMBERED:
            self._lines.popitem(last=False)
        return line


class _Work(Generic[T]):
    """A read that somebody waits for, or no more."""

    def __init__(self, read: Callable[[], T]) -> None:
        self._read = read
        self.done = threading.Event()
        self.given_up = False
        self.error: BaseException | None = None
        self.found: T

    def run(self) -> None:
        try:
            self.found = self._read()
        except BaseException as error:
            self.error = error


class _PatientReads:
    """Reads of a database that may hang: in threads of their own, so that nobody has to wait for their end."""

    def __init__(self) -> None:
        self._running = threading.BoundedSemaphore(_AT_ONCE)
        self._lock = threading.Lock()
        self._late = 0

    def read(self, read: Callable[[], T], *, wait_long: bool = False) -> T:
        """What ``read`` returns or raises.

        :param wait_long: there is nothing to go on with, so wait for as long as it takes.
        :raises DatabaseLate: when it takes too long, or others before it have and still do.
        """
        if wait_long:
            return read()
        if self._late or not self._running.acquire(timeout=PATIENCE_SECONDS):
            raise DatabaseLate("The database is slow.")
        work = _Work(read)
        threading.Thread(target=self._run, args=(work,), name="sse-read", daemon=True).start()
        if not work.done.wait(PATIENCE_SECONDS):
            with self._lock:
                if not work.done.is_set():
                    work.given_up = True
                    self._late += 1
                    raise DatabaseLate(f"The database has not answered within {PATIENCE_SECONDS:g} s.")
        if work.error is not None:
            raise work.error
        return work.found

    def _run(self, work: _Work[Any]) -> None:
        work.run()
        self._running.release()
        with self._lock:
            work.done.set()
            self._late -= work.given_up
