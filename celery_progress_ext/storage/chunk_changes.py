"""Guarded changes of one chunk. Each runs in one transaction and takes effect once, however often it is reported."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from celery_progress_ext.chunks import CHUNK_TRANSITIONS, ChunkStatus
from celery_progress_ext.eta import Pace
from celery_progress_ext.history import EventType
from celery_progress_ext.storage import at_once
from celery_progress_ext.storage import events as history
from celery_progress_ext.storage.connection import Connection
from celery_progress_ext.storage.counters import move, move_all
from celery_progress_ext.storage.database import Row, Stale, execute, execute_one, execute_prepared
from celery_progress_ext.storage.json_rows import json_rows

#: Results larger than this stay in the result backend alone.
RESULT_LIMIT = 16_384


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change that took effect: the job's row after it (with ``now``), and the chunk's, where one changed."""

    job: Row
    chunk: Row | None = None


_STARTED = "leased_until = {now} + :lease"
_START = f"""
UPDATE document_ocr_chunks SET status = 'processing', attempt = attempt + 1, tries = tries + 1, {_STARTED},
    started_at = {{now}} - :elapsed, progressed_at = {{now}} - :elapsed, attempt_pages_done = 0,
    worker = :worker, error = NULL
WHERE id = :id AND tries < :max_tries AND status = :old
  AND (:old = 'pending' OR leased_until < {{now}} OR attempt = :dead_attempt)
RETURNING *
"""


def start(
    conn: Connection,
    chunk_id: str,
    *,
    lease: float,
    max_tries: int,
    elapsed: float = 0.0,
    worker: str | None = None,
    dead_attempt: int = -1,
) -> Change | None:
    """Begin a new attempt, ``elapsed`` seconds ago; its number is ``change.chunk["attempt"]``.

    None where there is nothing to begin: the chunk is finished, was tried too often, or somebody alive works on it
    (``dead_attempt`` is known to be dead although its lease still runs).
    """
    for old in (ChunkStatus.PENDING, ChunkStatus.PROCESSING):
        chunk = execute_one(
            conn,
            _START,
            id=chunk_id,
            old=old.value,
            lease=lease,
            elapsed=elapsed,
            worker=worker,
            max_tries=max_tries,
            dead_attempt=dead_attempt,
        )
        if chunk is not None:
            job = _moved(move(conn, chunk, old=old, new=ChunkStatus.PROCESSING))
            history.record(
                conn, job, EventType.CHUNK_STARTED, chunk_index=chunk["chunk_index"], attempt=chunk["attempt"]
            )
            return Change(job=job, chunk=chunk)
    return None


_BEAT = f"""
UPDATE document_ocr_chunks SET {_STARTED}
WHERE id = :id AND attempt = :attempt AND status = 'processing'
RETURNING job_id
"""
_PROGRESS = f"""
UPDATE document_ocr_chunks SET {_STARTED}, progressed_at = {{now}} - :quiet, attempt_pages_done = :done
WHERE id = :id AND attempt = :attempt AND status = 'processing'
RETURNING *
"""
_PAGES = "UPDATE document_ocr_chunks SET pages_done = :done WHERE id = :id"


def beat(conn: Connection, chunk_id: str, *, attempt: int, lease: float) -> bool:
    """Renew the lease; False where this attempt is no longer the one that counts."""
    return execute_one(conn, _BEAT, id=chunk_id, attempt=attempt, lease=lease) is not None


def progress(
    conn: Connection, chunk_id: str, *, attempt: int, done: int, lease: float, quiet: float = 0.0
) -> Change | None:
    """Record ``done`` pages of this attempt, the last of them ``quiet`` seconds ago, and renew the lease.

    None where this attempt is no longer the one that counts.
    """
    chunk = execute_one(conn, _PROGRESS, id=chunk_id, attempt=attempt, done=done, lease=lease, quiet=quiet)
    if chunk is None:
        return None
    # Pages once shown are not taken back by a restart: only what goes beyond the most ever done is added.
    gained = max(0, min(done, chunk["page_end"] - chunk["page_start"] + 1) - chunk["pages_done"])
    if gained:
        execute(conn, _PAGES, id=chunk_id, done=chunk["pages_done"] + gained)
    job = _moved(move(conn, chunk, old=ChunkStatus.PROCESSING, new=ChunkStatus.PROCESSING, pages=gained))
    return Change(job=job, chunk=chunk)


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """A chunk's success, as its task tells it.

    :ivar result: what the task returned; kept in the row where it is JSON of a moderate size.
    :ivar seconds: how long the work took, for the ETA; None where that is not known.
    :ivar intact: whether Celery's chord has counted it, so that it may publish the body by itself.
    """

    chunk_id: str
    result: Any = None
    seconds: float | None = None
    intact: bool = True


_COMPLETED = """
status = 'completed', finished_at = {now}, leased_until = NULL, error = NULL, result = RESULT,
started_at = COALESCE(started_at, {now} - SECONDS), attempt = CASE WHEN attempt = 0 THEN 1 ELSE attempt END
"""
_COMPLETE_AT_ONCE = at_once.completion(
    _COMPLETED.replace("RESULT", "CAST(:result AS jsonb)").replace("SECONDS", ":seconds"),
    CHUNK_TRANSITIONS[ChunkStatus.COMPLETED],
)
#: The chunks of the JSON rows, by the primary key: PostgreSQL, told nothing but a join, reads all chunks for it.
_THESE = {
    "sqlite": f"id IN {json_rows('sqlite', told_id='text')}",
    "postgresql": f"id = ANY(ARRAY{json_rows('postgresql', told_id='text')})",
}
#: In one order for everybody who locks several, as SQLite's write transaction has done already.
_LOCK = {
    dialect: f"SELECT id, status, pages_done FROM document_ocr_chunks WHERE {these} ORDER BY id {locking}"
    for (dialect, these), locking in zip(_THESE.items(), ("", "FOR UPDATE"), strict=True)
}
_COMPLETE = {
    dialect: f"""
    UPDATE document_ocr_chunks SET pages_done = page_end - page_start + 1,
        {_COMPLETED.replace("RESULT", result).replace("SECONDS", "told_seconds")}
    FROM {json_rows(dialect, told_id="text", told_seconds="double precision", told_result="text")} AS told
    WHERE id = told_id AND {_THESE[dialect]}
    RETURNING id, job_id, chunk_index, page_start, page_end, status, attempt, dispatches, task_id, error
    """
    for dialect, result in (("sqlite", "told_result"), ("postgresql", "CAST(told_result AS jsonb)"))
}


def complete(
    conn: Connection,
    chunk_id: str,
    *,
    result: Any,
    seconds: float | None = None,
    intact: bool = True,
    grace: float,
    eta: float | None = None,
) -> Change | None:
    """Record a success; a late one also wins over a failure. Counted once: None for every further report.

    :param result, seconds, intact: as in :class:`Completion`.
    :param grace: seconds for Celery's chord to publish the body, when this was the last chunk.
    :param eta: the finish time that was given last, for the history.
    """
    if conn.dialect == "postgresql":
        found = execute_prepared(
            conn,
            _COMPLETE_AT_ONCE,
            id=chunk_id,
            seconds=seconds or 0.0,
            timed=int(seconds is not None),
            result=_small_json(result),
            grace=grace,
            intact=intact,
            eta=eta,
        )
        return None if found is None else _change_of(found)
    completion = Completion(chunk_id=chunk_id, result=result, seconds=seconds, intact=intact)
    changes = complete_all(conn, [completion], grace=grace, eta=eta)
    return changes[0] if changes else None


def complete_all(
    conn: Connection, completions: Sequence[Completion], *, grace: float, eta: float | None = None
) -> list[Change]:
    """:func:`complete` for chunks of one job, in one transaction; those that took effect, in the order given.

    Each has the job's row as it is after all of them.
    """
    dialect = conn.dialect
    told = {completion.chunk_id: completion for completion in completions}
    olds = {
        row["id"]: row
        for row in execute(conn, _LOCK[dialect], rows=json.dumps([{"told_id": id} for id in told]))
        if row["status"] in CHUNK_TRANSITIONS[ChunkStatus.COMPLETED]
    }
    if not olds:
        return []
    new = [
        {"told_id": id, "told_seconds": told[id].seconds or 0.0, "told_result": _small_json(told[id].result)}
        for id in olds
    ]
    found = execute(conn, _COMPLETE[dialect], rows=json.dumps(new))
    order = {id: place for place, id in enumerate(told)}
    chunks = sorted(found, key=lambda chunk: order[chunk["id"]])
    pages, pace = 0, Pace()
    for chunk in chunks:
        size, seconds = chunk["page_end"] - chunk["page_start"] + 1, told[chunk["id"]].seconds
        pages += size - olds[chunk["id"]]["pages_done"]
        pace = pace if seconds is None else pace.observe(size, seconds)
    job = _moved(
        move_all(
            conn,
            chunks[-1],
            olds=[ChunkStatus(row["status"]) for row in olds.values()],
            new=ChunkStatus.COMPLETED,
            pages=pages,
            grace=grace,
            intact=all(told[id].intact for id in olds),
            pace=pace,
        )
    )
    history.record_completions(conn, job, chunks, eta=eta)
    return [Change(job=job, chunk=chunk) for chunk in chunks]


_FAIL = """
UPDATE document_ocr_chunks SET status = 'failed', finished_at = {now}, leased_until = NULL, error = :error
WHERE id = :id AND status = :old AND dispatches = COALESCE(:dispatch, dispatches)
  AND attempt = COALESCE(:attempt, attempt) AND (:lapsed = 0 OR leased_until < {now})
RETURNING *
"""


def fail(
    conn: Connection,
    chunk_id: str,
    *,
    error: str,
    attempt: int | None = None,
    dispatch: int | None = None,
    lapsed: bool = False,
) -> Change | None:
    """Record a failure, of this attempt and this dispatch where they are given. None where it is out of date.

    The chord can not publish the body any more, so the job is due for it as soon as all chunks are terminal.

    :param lapsed: only where its lease is over: it is failed for its silence.
    """
    for old in _likely_first(ChunkStatus.FAILED, ChunkStatus.PROCESSING):
        chunk = execute_one(
            conn,
            _FAIL,
            id=chunk_id,
            old=old.value,
            error=error,
            attempt=attempt,
            dispatch=dispatch,
            lapsed=int(lapsed),
        )
        if chunk is not None:
            job = _moved(move(conn, chunk, old=old, new=ChunkStatus.FAILED, intact=False))
            history.record(
                conn,
                job,
                EventType.CHUNK_FAILED,
                chunk_index=chunk["chunk_index"],
                attempt=chunk["attempt"],
                message=error,
            )
            return Change(job=job, chunk=chunk)
    return None


_RELEASE = """
UPDATE document_ocr_chunks SET status = 'pending', leased_until = {now} + :due, error = :reason,
    dispatches = dispatches + :resend, tries = tries + :tries,
    task_id = :task_id, started_at = NULL, progressed_at = NULL
WHERE id = :id AND status = :old AND dispatches = :dispatch
  AND (CAST(:attempt AS INTEGER) IS NULL OR attempt = :attempt) AND (:lapsed = 0 OR leased_until < {now})
RETURNING *
"""


def release(
    conn: Connection,
    chunk_id: str,
    *,
    dispatch: int,
    task_id: str,
    due: float,
    reason: str,
    attempt: int | None = None,
    resend: bool,
    lapsed: bool = False,
) -> Change | None:
    """Send an unfinished chunk back to the queue; it should be started again within ``due`` seconds.

    :param dispatch: the dispatch that is given up; a chunk that was sent again meanwhile is left alone.
    :param resend: True where the caller publishes a new message under ``task_id``; False where Celery does
        (its own retry keeps the task id).
    :param lapsed: only where its lease, or the time until when it should have been started, is over.
    """
    for old in (ChunkStatus.PROCESSING, ChunkStatus.PENDING):
        chunk = execute_one(
            conn,
            _RELEASE,
            id=chunk_id,
            old=old.value,
            dispatch=dispatch,
            attempt=attempt,
            task_id=task_id,
            due=due,
            reason=reason,
            resend=int(resend),
            lapsed=int(lapsed),
            # A try was counted at the start; one that its own task repeats does not count, one that never began does.
            tries=-1 if not resend else int(old is ChunkStatus.PENDING),
        )
        if chunk is not None:
            job = _moved(move(conn, chunk, old=old, new=ChunkStatus.PENDING, intact=not resend))
            history.record(
                conn,
                job,
                EventType.CHUNK_REDISPATCHED if resend else EventType.CHUNK_RETRYING,
                chunk_index=chunk["chunk_index"],
                attempt=chunk["attempt"],
                message=reason,
            )
            return Change(job=job, chunk=chunk)
    return None


def _change_of(found: Row) -> Change:
    """Of a row of ``at_once``, in which the chunk's columns begin with ``c_``."""
    chunk = {name[2:]: value for name, value in found.items() if name.startswith("c_")}
    return Change(job={name: value for name, value in found.items() if not name.startswith("c_")}, chunk=chunk)


def _likely_first(new: ChunkStatus, likely: ChunkStatus) -> Iterable[ChunkStatus]:
    return sorted(CHUNK_TRANSITIONS[new], key=lambda old: (old != likely, old))


def _moved(job: Row | None) -> Row:
    if job is None:
        raise Stale
    return job


def _small_json(result: Any) -> str | None:
    """In a list of one, so that a task's None differs from a result that was not kept."""
    try:
        text = json.dumps([result], separators=(",", ":"))
    except (TypeError, ValueError):
        return None
    return text if len(text) <= RESULT_LIMIT else None
