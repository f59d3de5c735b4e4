"""Two writes at once: one is paused before a statement, or before its COMMIT, while the other runs or waits for it.

The hook sits between SQLAlchemy and the driver, so it knows nothing of what the writes are. Nothing sleeps: whether the
other one waits is read from the server.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from celery_progress_ext.chunks import UNFINISHED
from celery_progress_ext.jobs import JobStatus
from celery_progress_ext.storage.audit import audit
from tests.support import sql
from tests.support.rows import Rows
from tests.support.waiting import wait_for

#: Seconds after which two writes are taken to wait for each other.
_PATIENCE = 20.0


class Pause:
    """Stops the actor's thread at its ``place``-th statement or COMMIT, until :meth:`resume`."""

    def __init__(self, engine: sa.Engine) -> None:
        self._place: int | None = None
        self.thread: threading.Thread | None = None
        self._count = 0
        self._resumed = threading.Event()
        self.reached = threading.Event()
        self.deadlocks: list[str] = []
        sa.event.listen(engine, "before_cursor_execute", lambda *_: self._step())
        sa.event.listen(engine, "commit", lambda *_: self._step())
        sa.event.listen(engine, "handle_error", self._note)

    def arm(self, place: int | None) -> None:
        """Pause at this place from now on; None runs through."""
        self._place, self._count = place, 0
        self._resumed.clear()
        self.reached.clear()
        self.deadlocks.clear()

    def resume(self) -> None:
        """Let the paused thread go on."""
        self._resumed.set()

    def _step(self) -> None:
        if threading.current_thread() is not self.thread:
            return
        place, self._count = self._count, self._count + 1
        if place == self._place:
            self.reached.set()
            assert self._resumed.wait(_PATIENCE), "nobody resumed it"

    def _note(self, context: Any) -> None:
        if getattr(context.original_exception, "pgcode", None) == "40P01":
            self.deadlocks.append(str(context.original_exception))


class Actor:
    """Somebody with a database connection of their own."""

    def __init__(self, url: str) -> None:
        self.rows = Rows(url, migrated=False)
        self.pause = Pause(self.rows.database.engine)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, write: Callable[[Rows, str], Any], job_id: str, *, pause: int | None = None) -> None:
        """Begin a write in a thread."""
        self.pause.arm(pause)
        self._error = None

        def run() -> None:
            try:
                write(self.rows, job_id)
            except BaseException as error:
                self._error = error

        self._thread = self.pause.thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether the write is over."""
        return self._thread is None or not self._thread.is_alive()

    def join(self) -> None:
        """Wait for the write's end; raises what it raised."""
        assert self._thread is not None
        self._thread.join(_PATIENCE)
        assert not self._thread.is_alive(), "it never ended"
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Give the connections back."""
        self.rows.database.dispose()


@contextmanager
def actors(url: str, count: int) -> Iterator[list[Actor]]:
    """So many of them on one database."""
    made = [Actor(url) for _ in range(count)]
    try:
        yield made
    finally:
        for actor in made:
            actor.close()


def pauses(
    first: Actor, others: list[Actor], writes: list[Callable[[Rows, str], Any]], new_job: Callable[[], str]
) -> Iterator[tuple[int, str]]:
    """The first write paused at each of its places in turn, on a new job each time; the others begin meanwhile, one
    after the other, and run or wait. Yields the place and the job when all are over.
    """
    place = 0
    while True:
        job_id = new_job()
        first.start(writes[0], job_id, pause=place)
        wait_for(lambda: first.pause.reached.is_set() or first.done, _PATIENCE, every=0.002)
        if not first.pause.reached.is_set():
            first.join()
            return
        waiting = 0
        for actor, write in zip(others, writes[1:], strict=True):
            actor.start(write, job_id)
            wait_for(
                lambda actor=actor, waiting=waiting: actor.done or _waiting(first) > waiting, _PATIENCE, every=0.003
            )
            waiting = _waiting(first)
        first.pause.resume()
        for actor in (first, *others):
            actor.join()
            assert actor.pause.deadlocks == []
        yield place, job_id
        place += 1


_LOCKED = "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def _waiting(actor: Actor) -> int:
    """How many sessions wait for a lock. Asked past the actor's hook: its engine is paused."""
    with _observer(actor.rows.database.url).connect() as conn:
        return int(conn.exec_driver_sql(_LOCKED).scalar_one())


_observers: dict[str, sa.Engine] = {}


def _observer(url: str) -> sa.Engine:
    if url not in _observers:
        _observers.clear()
        _observers[url] = sa.create_engine(url, isolation_level="AUTOCOMMIT", pool_size=1)
    return _observers[url]


def broken_invariants(rows: Rows, job_id: str) -> list[str]:
    """What is not as it must be of a job, whatever happened to it."""
    job = sql.row(rows.database, "SELECT * FROM processing_jobs WHERE id = :id", id=job_id)
    if job is None:
        return []
    found = [str(drift) for drift in audit(rows.database, job_id)]
    counts = [job[f"{status}_chunks"] for status in ("pending", "processing", "completed", "failed")]
    if min(counts) < 0 or sum(counts) != job["total_chunks"]:
        found.append(f"counters {counts} of {job['total_chunks']}")
    chunks = sql.rows(rows.database, "SELECT * FROM document_ocr_chunks WHERE job_id = :id", id=job_id)
    over = JobStatus(job["status"]).terminal
    for chunk in chunks:
        if over and chunk["status"] == "processing":
            found.append(f"chunk {chunk['chunk_index']} runs in a job that is {job['status']}")
        if not over and chunk["status"] in UNFINISHED and chunk["leased_until"] is None:
            found.append(f"chunk {chunk['chunk_index']} is {chunk['status']}, and neither leased nor due")
    return found
