"""Two writes at once: one is stopped while the other runs or waits for it.

It is stopped before a statement or before its COMMIT, by a hook between SQLAlchemy and the driver, which knows nothing
of what the writes are; and inside a statement, by a third session that holds a row which it needs. Nothing sleeps:
whether the other one waits is read from the server.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from celery_progress_ext import ids
from celery_progress_ext.chunks import UNFINISHED
from celery_progress_ext.jobs import JobStatus
from celery_progress_ext.storage import lookups
from celery_progress_ext.storage.audit import audit
from celery_progress_ext.storage.chunk_changes import Completion
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
        #: What it came to, in order; the last one is where it was paused.
        self.steps: list[str] = []
        sa.event.listen(engine, "before_cursor_execute", lambda _conn, _cursor, text, *_: self._step(_in_short(text)))
        sa.event.listen(engine, "commit", lambda *_: self._step("COMMIT"))
        sa.event.listen(engine, "handle_error", self._note)

    def arm(self, place: int | None) -> None:
        """Pause at this place from now on; None runs through."""
        self._place, self._count = place, 0
        self._resumed.clear()
        self.reached.clear()
        self.deadlocks.clear()
        self.steps.clear()

    def resume(self) -> None:
        """Let the paused thread go on."""
        self._resumed.set()

    def _step(self, what: str) -> None:
        if threading.current_thread() is not self.thread:
            return
        place, self._count = self._count, self._count + 1
        self.steps.append(what)
        if place == self._place:
            self.reached.set()
            assert self._resumed.wait(_PATIENCE), "nobody resumed it"

    def _note(self, context: Any) -> None:
        if getattr(context.original_exception, "pgcode", None) == "40P01":
            self.deadlocks.append(str(context.original_exception))


_VERB = re.compile(r"\s*(\w+).*?(?:FROM|INTO|UPDATE)\s+(\w+)", re.DOTALL)


def _in_short(statement: str) -> str:
    found = _VERB.match(statement) or _VERB.match(f"{statement.split()[0]} {statement}")
    locking = " FOR UPDATE" if "FOR UPDATE" in statement else ""
    return f"{found[1]} {found[2]}{locking}" if found else statement.split("\n", 1)[0]


class Actor:
    """Somebody with a database connection of their own."""

    def __init__(self, url: str) -> None:
        self.rows = Rows(url, migrated=False)
        self.pause = Pause(self.rows.database.engine)
        #: For the third session, past the hook.
        self.holder = sa.create_engine(url, poolclass=sa.StaticPool)
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
        self.holder.dispose()


@contextmanager
def actors(url: str, count: int) -> Iterator[list[Actor]]:
    """So many of them on one database."""
    made = [Actor(url) for _ in range(count)]
    try:
        yield made
    finally:
        for actor in made:
            actor.close()


Write = Callable[[Rows, str], Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A job after several writes met on it."""

    job_id: str
    #: Where the first write was stopped.
    place: str
    #: How many of the others had to wait for it.
    waited: int


def cases(actors: Sequence[Actor], writes: Sequence[Write], new_job: Callable[[], str]) -> Iterator[Case]:
    """The first write stopped at each of its places in turn, on a new job each time; the others begin meanwhile, one
    after the other, and run or wait. Each case is given when all writes of it are over.
    """
    yield from _before_each_step(actors, writes, new_job)
    yield from _inside_a_statement(actors, writes, new_job)


def _before_each_step(actors: Sequence[Actor], writes: Sequence[Write], new_job: Callable[[], str]) -> Iterator[Case]:
    first, *others = actors
    place = 0
    while True:
        job_id = new_job()
        first.start(writes[0], job_id, pause=place)
        wait_for(lambda: first.pause.reached.is_set() or first.done, _PATIENCE, every=0.002)
        if not first.pause.reached.is_set():
            first.join()
            return
        waited = _begin(others, writes[1:], job_id)
        first.pause.resume()
        _end(actors)
        yield Case(job_id=job_id, waited=waited, place=f"before its step {place}, {first.pause.steps[place]}")
        place += 1


def _inside_a_statement(actors: Sequence[Actor], writes: Sequence[Write], new_job: Callable[[], str]) -> Iterator[Case]:
    """While a third session holds a row: the statement has its snapshot then, and the locks of the rows before it."""
    first, *others = actors
    for name, table, row_of in _HELD_ROWS:
        job_id = new_job()
        with first.holder.begin() as holder:
            holder.exec_driver_sql(f"SELECT id FROM {table} WHERE id = %s FOR UPDATE", (row_of(job_id),))
            first.start(writes[0], job_id)
            wait_for(lambda: first.done or _waiting(first) > 0, _PATIENCE, every=0.002)
            waited = None if first.done else _begin(others, writes[1:], job_id)
        if waited is None:
            first.join()  # it does not need this row
            forget(first.rows, job_id)
        else:
            _end(actors)
            place = f"inside {first.pause.steps[-1]}, while somebody holds {name}"
            yield Case(job_id=job_id, waited=waited, place=place)


#: What the third session holds: name, table, the row's id.
_HELD_ROWS: tuple[tuple[str, str, Callable[[str], str]], ...] = (
    ("chunk 0", "document_ocr_chunks", lambda job_id: ids.chunk_id(job_id, 0)),
    ("chunk 1", "document_ocr_chunks", lambda job_id: ids.chunk_id(job_id, 1)),
    ("the job", "processing_jobs", lambda job_id: job_id),
)


def _begin(actors: Sequence[Actor], writes: Sequence[Write], job_id: str) -> int:
    """Start each in turn; it runs to its end, or until it waits. How many of them wait."""
    for actor, write in zip(actors, writes, strict=True):
        waiting = _waiting(actor)
        actor.start(write, job_id)
        wait_for(lambda actor=actor, waiting=waiting: actor.done or _waiting(actor) > waiting, _PATIENCE, every=0.003)
    return sum(not actor.done for actor in actors)


def _end(actors: Sequence[Actor]) -> None:
    for actor in actors:
        actor.join()
        assert actor.pause.deadlocks == [], actor.pause.deadlocks


_WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND cardinality(pg_blocking_pids(pid)) > 0
"""


def _waiting(actor: Actor) -> int:
    """How many sessions wait for another. Asked past the actor's hook: its engine is paused."""
    with _observer(actor.rows.database.url).connect() as conn:
        return int(conn.exec_driver_sql(_WAITING).scalar_one())


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


def not_run_by_a_retry(rows: Rows, job_id: str) -> list[str]:
    """Cancel the job where it still runs, retry it, and finish it: which rule is broken on the way."""
    rows.end(job_id)
    before = _chunks(rows, job_id)
    if rows.reopen(job_id) is None:
        return []
    found = broken_invariants(rows, job_id)
    for old, new in zip(before, _chunks(rows, job_id), strict=True):
        without_result = old["status"] != "completed" or old["reservations"] is not None
        if without_result and (new["status"] != "pending" or new["dispatches"] != old["dispatches"] + 1):
            found.append(f"chunk {old['chunk_index']} has no result, and was not sent again by the retry")
    rows.complete_all(
        [Completion(chunk_id=chunk["id"], dispatch=chunk["dispatches"]) for chunk in _chunks(rows, job_id)]
    )
    claimed = rows.claim(job_id)
    ended = None if claimed is None else rows.finish(job_id, claimed.body_attempt)
    if ended is None and lookups.job(rows.database, job_id).shape is not None:  # type: ignore[union-attr]
        ended = lookups.job(rows.database, job_id)
    if ended is None or ended.status is not JobStatus.COMPLETED:
        found.append(f"after the retry the job does not end COMPLETED: {ended or claimed}")
    return found + broken_invariants(rows, job_id)


def _chunks(rows: Rows, job_id: str) -> list[sql.Row]:
    return sql.rows(
        rows.database, "SELECT * FROM document_ocr_chunks WHERE job_id = :id ORDER BY chunk_index", id=job_id
    )


def forget(rows: Rows, job_id: str) -> None:
    """Remove a job that was looked at."""
    rows.database.write(lambda conn: sql.execute(conn, "DELETE FROM processing_jobs WHERE id = :id", id=job_id))
