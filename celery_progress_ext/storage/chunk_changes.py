"""Guarded changes of one chunk. Each runs in one transaction and takes effect once, however often it is reported.

Every transaction locks chunks before the job, and several chunks in the order of their ids, so that two changes do not
wait for each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from celery_progress_ext.calibration import Promise
from celery_progress_ext.chunks import CHUNK_TRANSITIONS, ChunkStatus
from celery_progress_ext.history import EventType
from celery_progress_ext.pace import Pace
from celery_progress_ext.storage import events
from celery_progress_ext.storage.body_changes import end_without_body
from celery_progress_ext.storage.counters import move, move_all
from celery_progress_ext.storage.database import Stale
from celery_progress_ext.storage.expressions import among, now, parameter, rows_of, share_of
from celery_progress_ext.storage.json import dumps
from celery_progress_ext.storage.rows import CHUNK_COLUMNS, ChunkRow, JobRow, chunk_size, is_status
from celery_progress_ext.storage.schema import document_ocr_chunks as chunks
from celery_progress_ext.storage.shortfalls import restate_error

#: Results larger than this stay in the result backend alone.
RESULT_LIMIT = 16_384


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A change that took effect: the job's row after it, and the chunk's."""

    job: JobRow
    chunk: ChunkRow


_ONE = chunks.c.id == sa.bindparam("of_chunk")
_LEASED = {chunks.c.leased_until: now() + parameter("lease", sa.Double)}
_LOCK = sa.select(*CHUNK_COLUMNS, (chunks.c.leased_until < now()).label("lapsed")).where(_ONE).with_for_update()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Locked:
    """A chunk as it is now; nobody else changes it before this transaction ends."""

    chunk: ChunkRow
    lapsed: bool


def _lock(conn: Connection, chunk_id: str) -> _Locked | None:
    row = conn.execute(_LOCK, {"of_chunk": chunk_id}).first()
    return None if row is None else _Locked(chunk=ChunkRow.of(row), lapsed=bool(row.lapsed))


def _change(
    conn: Connection, statement: sa.sql.dml.ReturningUpdate[*tuple[Any, ...]], chunk_id: str, **values: Any
) -> ChunkRow:
    parameters = {"of_chunk": chunk_id, **{f"new_{name}": value for name, value in values.items()}}
    return ChunkRow.of(conn.execute(statement, parameters).one())


_START = (
    sa.update(chunks)
    .where(_ONE)
    .values(
        {
            chunks.c.status: ChunkStatus.PROCESSING.value,
            chunks.c.attempt: chunks.c.attempt + 1,
            chunks.c.tries: chunks.c.tries + 1,
            **_LEASED,
            chunks.c.started_at: now() - parameter("elapsed", sa.Double),
            chunks.c.progressed_at: now() - parameter("elapsed", sa.Double),
            chunks.c.attempt_pages_done: 0,
            chunks.c.steps_done: None,
            chunks.c.steps_total: None,
            chunks.c.first_at: None,
            chunks.c.first_steps: None,
            chunks.c.worker: parameter("worker", sa.String),
            chunks.c.error: None,
            # Those of the attempt before; a chunk whose pages are read again stays one.
            chunks.c.reservations: parameter("reservations", chunks.c.reservations.type),
        }
    )
    .returning(*CHUNK_COLUMNS)
)


def start(
    conn: Connection,
    chunk_id: str,
    *,
    lease: float,
    max_tries: int,
    elapsed: float = 0.0,
    worker: str | None = None,
    dead_attempt: int = -1,
    promise: Promise | None = None,
) -> Change | None:
    """Begin a new attempt, ``elapsed`` seconds ago; its number is ``change.chunk.attempt``.

    None where there is nothing to begin: the chunk is finished, was tried too often, or somebody alive works on it
    (``dead_attempt`` is known to be dead although its lease still runs).

    :param promise: the finish time that was given last, for the history.
    """
    locked = _lock(conn, chunk_id)
    if locked is None or locked.chunk.tries >= max_tries:
        return None
    old = locked.chunk.status
    if old not in CHUNK_TRANSITIONS[ChunkStatus.PROCESSING]:
        return None
    if old is ChunkStatus.PROCESSING and not locked.lapsed and locked.chunk.attempt != dead_attempt:
        return None
    again: list[Any] | None = None if locked.chunk.reservations is None else []
    chunk = _change(conn, _START, chunk_id, lease=lease, elapsed=elapsed, worker=worker, reservations=again)
    job = _moved(move(conn, chunk, old=old, new=ChunkStatus.PROCESSING))
    events.record(
        conn,
        job,
        EventType.CHUNK_STARTED,
        chunk_index=chunk.chunk_index,
        attempt=chunk.attempt,
        worker=chunk.worker,
        promise=promise,
    )
    return Change(job=job, chunk=chunk)


_MINE = sa.and_(
    _ONE, chunks.c.attempt == sa.bindparam("of_attempt"), is_status(chunks.c.status, ChunkStatus.PROCESSING)
)
_BEAT = sa.update(chunks).where(_MINE).values(_LEASED).returning(chunks.c.job_id)
_LAST_STEP_AT = now() - parameter("seconds_since_progress", sa.Double)
_STEPS, _STEPS_TOTAL = parameter("done", sa.BigInteger), parameter("total", sa.BigInteger)
#: The task says how many units the chunk has.
_SAYS_SIZE = sa.and_(chunks.c.grows.is_(sa.true()), _STEPS_TOTAL > 0)
#: A report of steps that are not the chunk's pages is a share of them.
_STEPS_ARE_PAGES = sa.or_(_STEPS_TOTAL <= 0, chunk_size == _STEPS_TOTAL, _SAYS_SIZE)
_PROGRESS = (
    sa.update(chunks)
    .where(_MINE)
    .values(
        {
            **_LEASED,
            chunks.c.progressed_at: _LAST_STEP_AT,
            chunks.c.attempt_pages_done: sa.case(
                (_STEPS_ARE_PAGES, _STEPS), else_=share_of(chunk_size, _STEPS, _STEPS_TOTAL)
            ),
            chunks.c.steps_done: _STEPS,
            chunks.c.steps_total: sa.case((_STEPS_TOTAL <= 0, chunk_size), else_=_STEPS_TOTAL),
            chunks.c.first_at: sa.func.coalesce(chunks.c.first_at, _LAST_STEP_AT),
            chunks.c.first_steps: sa.func.coalesce(chunks.c.first_steps, _STEPS),
        }
    )
    .returning(*CHUNK_COLUMNS)
)
_RESIZE = sa.update(chunks).where(_ONE).values(size=parameter("size", sa.BigInteger)).returning(*CHUNK_COLUMNS)
# Pages once shown are not taken back by a restart. An attempt that got further than any before it is a fresh try.
_FURTHER = (
    sa.update(chunks)
    .where(_ONE)
    .values(
        {
            chunks.c.pages_done: parameter("pages", sa.BigInteger),
            chunks.c.cost_done: parameter("cost", sa.Double),
            chunks.c.tries: 1,
        }
    )
    .returning(*CHUNK_COLUMNS)
)


def beat(conn: Connection, chunk_id: str, *, attempt: int, lease: float) -> bool:
    """Renew the lease; False where this attempt is no longer the one that counts."""
    found = conn.execute(_BEAT, {"of_chunk": chunk_id, "of_attempt": attempt, "new_lease": lease})
    return found.first() is not None


def progress(
    conn: Connection,
    chunk_id: str,
    *,
    attempt: int,
    done: int,
    lease: float,
    total: int | None = None,
    seconds_since_progress: float = 0.0,
) -> Change | None:
    """Record ``done`` of ``total`` steps of this attempt, the last of them ``seconds_since_progress`` ago, and renew
    the lease. None where this attempt is no longer the one that counts.

    :param total: the chunk's pages unless given. Of another number of steps, as many pages count as done; or it is the
        chunk's size, where nobody has said that before (``grows``).
    """
    row = conn.execute(
        _PROGRESS,
        {
            "of_chunk": chunk_id,
            "of_attempt": attempt,
            "new_done": max(0, done),
            "new_total": total or 0,
            "new_lease": lease,
            "new_seconds_since_progress": seconds_since_progress,
        },
    ).first()
    if row is None:
        return None
    chunk, grown = ChunkRow.of(row), 0
    if chunk.grows and total is not None and total > 0:
        # Not below what was shown as done.
        size = max(total, chunk.pages_done)
        grown = size - chunk.pages
        chunk = _change(conn, _RESIZE, chunk_id, size=size) if grown else chunk
    share = min(1.0, (chunk.steps_done or 0) / max(1, chunk.steps_total or 1))
    pages = max(0, min(chunk.attempt_pages_done, chunk.pages) - chunk.pages_done)
    cost = max(0.0, share * chunk.expected_cost - chunk.cost_counted)
    if pages or cost:
        chunk = _change(conn, _FURTHER, chunk_id, pages=chunk.pages_done + pages, cost=chunk.cost_counted + cost)
    old = new = ChunkStatus.PROCESSING
    job = _moved(move(conn, chunk, old=old, new=new, pages=pages, grown=grown, cost=cost))
    return Change(job=job, chunk=chunk)


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """A chunk's success, as its task reports it.

    :ivar result: what the task returned; kept in the row where it is JSON of a moderate size.
    :ivar seconds: how long the work took, for the ETA; None where that is not known.
    :ivar chord_intact: whether Celery's chord has counted it, so that it may publish the body by itself.
    :ivar dispatch: of which message it is the success.
    :ivar total: the last total that its task reported, which is the chunk's size where nobody else has said that.
    """

    chunk_id: str
    result: Any = None
    seconds: float | None = None
    chord_intact: bool = True
    dispatch: int = 1
    total: int | None = None


_REPORTED = rows_of("reported", "reported")
_REPORTED_ID = _REPORTED.c.value["id"].as_string()
_REPORTED_SECONDS = _REPORTED.c.value["seconds"].as_float()
# As text: `as_integer` is one of four bytes.
_REPORTED_TOTAL = sa.cast(_REPORTED.c.value["total"].as_string(), sa.BigInteger)
_SIZE_REPORTED = (
    sa.and_(chunks.c.grows.is_(sa.true()), _REPORTED_TOTAL > 0),
    # Not below what was shown as done.
    sa.case((chunks.c.pages_done > _REPORTED_TOTAL, chunks.c.pages_done), else_=_REPORTED_TOTAL),
)
_IS_REPORTED = among(chunks.c.id, sa.select(rows_of("reported", "ids").c.value["id"].as_string()).scalar_subquery())
_LOCK_REPORTED = sa.select(*CHUNK_COLUMNS).where(_IS_REPORTED).order_by(chunks.c.id).with_for_update()
_COMPLETE = (
    sa.update(chunks)
    .where(chunks.c.id == _REPORTED_ID, _IS_REPORTED)
    .values(
        {
            chunks.c.status: ChunkStatus.COMPLETED.value,
            chunks.c.finished_at: now(),
            chunks.c.leased_until: None,
            chunks.c.error: None,
            chunks.c.size: sa.case(_SIZE_REPORTED, else_=chunks.c.size),
            chunks.c.pages_done: sa.case(_SIZE_REPORTED, else_=chunk_size),
            chunks.c.cost_done: sa.func.coalesce(chunks.c.cost, chunk_size),
            chunks.c.result: _REPORTED.c.value["result"],
            chunks.c.started_at: sa.func.coalesce(chunks.c.started_at, now() - _REPORTED_SECONDS),
            chunks.c.attempt: sa.case((chunks.c.attempt == 0, 1), else_=chunks.c.attempt),
        }
    )
    .returning(*CHUNK_COLUMNS)
)
# The mark of pages that were to be read again; now they were.
_NO_RESERVATIONS = sa.update(chunks).where(_IS_REPORTED).values(reservations=sa.null())


def complete_all(
    conn: Connection, completions: Sequence[Completion], *, grace: float, promise: Promise | None = None
) -> list[Change]:
    """Record successes of chunks of one job, in one transaction; those that took effect, in the order given, each with
    the job's row as it is after all of them. A late success also wins over a failure; none counts twice. A job without
    a body ends with the last of its chunks.

    :param grace: seconds for Celery's chord to publish the body, when these were the last chunks.
    :param promise: the finish time that was given last, for the history.
    """
    reported = {completion.chunk_id: completion for completion in completions}
    locked = (
        ChunkRow.of(row) for row in conn.execute(_LOCK_REPORTED, {"reported": dumps([{"id": id} for id in reported])})
    )
    olds = {chunk.id: chunk for chunk in locked if _counts(chunk, reported[chunk.id])}
    if not olds:
        return []
    found = conn.execute(_COMPLETE, {"reported": "[" + ",".join(_as_json(reported[id]) for id in olds) + "]"})
    if any(chunk.reservations == [] for chunk in olds.values()):
        read_again = [{"id": chunk.id} for chunk in olds.values() if not chunk.reservations]
        conn.execute(_NO_RESERVATIONS, {"reported": dumps(read_again)})
    order = {id: place for place, id in enumerate(reported)}
    done = sorted((ChunkRow.of(row) for row in found), key=lambda chunk: order[chunk.id])
    pages, grown, cost, reservations, pace = 0, 0, 0.0, 0, Pace()
    for chunk in done:
        seconds = reported[chunk.id].seconds
        pages += chunk.pages - olds[chunk.id].pages_done
        grown += chunk.pages - olds[chunk.id].pages
        cost += chunk.expected_cost - olds[chunk.id].cost_counted
        reservations += len(chunk.reservations or ())
        pace = pace if seconds is None else pace.observe(chunk.pages, seconds)
    job = _moved(
        move_all(
            conn,
            done[-1],
            olds=[chunk.status for chunk in olds.values()],
            new=ChunkStatus.COMPLETED,
            pages=pages,
            grown=grown,
            cost=cost,
            grace=grace,
            chord_intact=all(reported[id].chord_intact for id in olds),
            pace=pace,
            reservations=reservations,
        )
    )
    events.record_all(conn, job, EventType.CHUNK_COMPLETED, done, promise=promise)
    if reservations or any(chunk.status is ChunkStatus.FAILED for chunk in olds.values()):
        job = restate_error(conn, job)
    job = end_without_body(conn, job)
    return [Change(job=job, chunk=chunk) for chunk in done]


def _counts(chunk: ChunkRow, completion: Completion) -> bool:
    """Whether a success counts: not twice, and not one of an earlier message where pages are to be read again."""
    if chunk.status not in CHUNK_TRANSITIONS[ChunkStatus.COMPLETED]:
        return False
    return chunk.reservations is None or completion.dispatch >= chunk.dispatches


_FAIL = (
    sa.update(chunks)
    .where(_ONE)
    .values(
        {
            chunks.c.status: ChunkStatus.FAILED.value,
            chunks.c.finished_at: now(),
            chunks.c.leased_until: None,
            chunks.c.error: parameter("error", sa.Text),
        }
    )
    .returning(*CHUNK_COLUMNS)
)


def fail(
    conn: Connection,
    chunk_id: str,
    *,
    error: str,
    attempt: int | None = None,
    dispatch: int | None = None,
    only_if_lease_expired: bool = False,
) -> Change | None:
    """Record a failure, of this attempt and this dispatch where they are given. None where it is out of date.

    The chord cannot publish the body any more, so the job is due for it as soon as all chunks are terminal.

    :param only_if_lease_expired: only where its lease is over: it is failed for its silence.
    """
    locked = _lock(conn, chunk_id)
    if locked is None or locked.chunk.status not in CHUNK_TRANSITIONS[ChunkStatus.FAILED]:
        return None
    old = locked.chunk
    if attempt not in (None, old.attempt) or dispatch not in (None, old.dispatches):
        return None
    if only_if_lease_expired and not locked.lapsed:
        return None
    chunk = _change(conn, _FAIL, chunk_id, error=error)
    job = _moved(move(conn, chunk, old=old.status, new=ChunkStatus.FAILED, chord_intact=False))
    events.record(
        conn,
        job,
        EventType.CHUNK_FAILED,
        chunk_index=chunk.chunk_index,
        attempt=chunk.attempt,
        message=error,
        worker=chunk.worker,
    )
    return Change(job=restate_error(conn, job), chunk=chunk)


_RELEASE = (
    sa.update(chunks)
    .where(_ONE)
    .values(
        {
            chunks.c.status: ChunkStatus.PENDING.value,
            chunks.c.leased_until: now() + parameter("due", sa.Double),
            chunks.c.error: parameter("reason", sa.Text),
            chunks.c.dispatches: chunks.c.dispatches + parameter("resend", sa.Integer),
            chunks.c.tries: chunks.c.tries + parameter("tries", sa.Integer),
            chunks.c.task_id: parameter("task_id", sa.String),
            chunks.c.started_at: None,
            chunks.c.progressed_at: None,
            # Celery's own retry publishes the message itself.
            chunks.c.sent_at: sa.case((parameter("resend", sa.Integer) == 1, 0.0), else_=now()),
        }
    )
    .returning(*CHUNK_COLUMNS)
)


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
    delivered: bool = False,
    only_if_lease_expired: bool = False,
) -> Change | None:
    """Send an unfinished chunk back to the queue; it should be started again within ``due`` seconds.

    :param dispatch: the dispatch that is given up; a chunk that was sent again meanwhile is left alone.
    :param resend: True where the caller publishes a new message under ``task_id``; False where Celery does
        (its own retry keeps the task id).
    :param delivered: the message is known to have reached a worker, so it is a try, even if no start was recorded.
    :param only_if_lease_expired: only where its lease, or the time until when it should have been started, is over.
    """
    locked = _lock(conn, chunk_id)
    if locked is None or locked.chunk.dispatches != dispatch or locked.chunk.status.terminal:
        return None
    old = locked.chunk
    if attempt not in (None, old.attempt) or (only_if_lease_expired and not locked.lapsed):
        return None
    chunk = _change(
        conn,
        _RELEASE,
        chunk_id,
        due=due,
        reason=reason,
        resend=int(resend),
        # A try was counted at the start. One that its own task repeats does not count, nor does a lost message.
        tries=-1 if not resend else int(delivered and old.status is ChunkStatus.PENDING),
        task_id=task_id,
    )
    job = _moved(move(conn, chunk, old=old.status, new=ChunkStatus.PENDING, chord_intact=not resend))
    events.record(
        conn,
        job,
        EventType.CHUNK_REDISPATCHED if resend else EventType.CHUNK_RETRYING,
        chunk_index=chunk.chunk_index,
        attempt=chunk.attempt,
        message=reason,
        worker=chunk.worker,
    )
    return Change(job=job, chunk=chunk)


def _moved(job: JobRow | None) -> JobRow:
    if job is None:
        raise Stale
    return job


def _as_json(completion: Completion) -> str:
    """A row of the statement's parameter."""
    result = small_json(completion.result) or "null"
    said = f'"id":{dumps(completion.chunk_id)},"seconds":{completion.seconds or 0.0},"total":{completion.total or 0}'
    return f'{{{said},"result":{result}}}'


def small_json(result: Any) -> str | None:
    """A result as a row keeps it, in a list of one, so that a task's None differs from a result that was not kept; None
    where it is no JSON, or too large.
    """
    try:
        text = dumps([result])
    except (TypeError, ValueError):
        return None
    return text if len(text) <= RESULT_LIMIT else None
