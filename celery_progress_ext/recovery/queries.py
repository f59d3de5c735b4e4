"""What the reconciler looks for: indexed, bounded queries on the database's clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from celery_progress_ext.chunks import ChunkStatus
from celery_progress_ext.history import EventType
from celery_progress_ext.storage.body_changes import BodyDispatch
from celery_progress_ext.storage.database import Database
from celery_progress_ext.storage.events import record
from celery_progress_ext.storage.expressions import now
from celery_progress_ext.storage.rows import (
    JOB_COLUMNS,
    ChunkRow,
    JobRow,
    active,
    counting,
    is_status,
    settled,
)
from celery_progress_ext.storage.schema import document_ocr_chunks as chunks
from celery_progress_ext.storage.schema import job_events as events
from celery_progress_ext.storage.schema import processing_jobs as jobs
from celery_progress_ext.storage.schema import unaudited
from celery_progress_ext.storage.sending import SENT_COLUMNS, SentChunk, sent

#: Rows of one kind that one tick takes on; the next tick takes the next ones.
BATCH = 500


_OF_JOB = sa.bindparam("of_job", type_=sa.String)
_LIMIT = sa.bindparam("limit", type_=sa.Integer)


def _expired(status: ChunkStatus, *conditions: sa.ColumnElement[bool]) -> sa.Select[Any]:
    return (
        sa.select(*SENT_COLUMNS)
        .join(jobs, jobs.c.id == chunks.c.job_id)
        .where(is_status(chunks.c.status, status), chunks.c.leased_until < now(), counting, *conditions)
        .order_by(chunks.c.leased_until)
        .limit(BATCH)
    )


_LAPSED, _OVERDUE = _expired(ChunkStatus.PROCESSING), _expired(ChunkStatus.PENDING, sent)


def lapsed_chunks(database: Database) -> list[SentChunk]:
    """Chunks whose worker has given no sign of life for a lease."""
    return [SentChunk.of(row) for row in database.rows(_LAPSED)]


def overdue_chunks(database: Database) -> list[SentChunk]:
    """Chunks that were sent and should have been started by now."""
    return [SentChunk.of(row) for row in database.rows(_OVERDUE)]


#: A chunk as it was inserted: its only message is the one that Celery's chord published, in the order of the header.
_FIRST_MESSAGE = sa.and_(chunks.c.dispatches == 1, chunks.c.attempt == 0, chunks.c.error.is_(None))
_OVERDUE_OF_JOB = sa.and_(
    chunks.c.job_id == _OF_JOB,
    is_status(chunks.c.status, ChunkStatus.PENDING),
    sent,
    # The sum keeps SQLite from the index of all overdue chunks, where those of one job are to be found.
    chunks.c.leased_until + 0.0 < now(),
)
_BELOW = sa.bindparam("below", type_=sa.Integer)
_EXTEND = (
    sa.update(chunks)
    .where(_OVERDUE_OF_JOB)
    .values(
        leased_until=now()
        + sa.case(
            (sa.and_(chunks.c.chunk_index < _BELOW, _FIRST_MESSAGE), sa.bindparam("soon", type_=sa.Double)),
            else_=sa.bindparam("seconds", type_=sa.Double),
        )
    )
)
_LOCK_OVERDUE = sa.select(chunks.c.id).where(_OVERDUE_OF_JOB).order_by(chunks.c.id).with_for_update()


def extend(database: Database, job_id: str, *, seconds: float, soon: float = 0.0, below: int = -1) -> None:
    """The job's messages are known to wait in the queue: look at its overdue chunks again later.

    :param seconds: how much later.
    :param soon: the same for chunks in front of index ``below`` on their first message: they were overtaken.
    """

    def write(conn: Connection) -> None:
        conn.execute(_LOCK_OVERDUE, {"of_job": job_id})
        conn.execute(_EXTEND, {"of_job": job_id, "seconds": seconds, "soon": soon, "below": below})

    database.write(write)


_EXTEND_CHUNK = (
    sa.update(chunks)
    .where(
        chunks.c.id == sa.bindparam("of_chunk"),
        is_status(chunks.c.status, ChunkStatus.PENDING),
        chunks.c.leased_until < now(),
    )
    .values(leased_until=now() + sa.bindparam("seconds", type_=sa.Double))
)


def extend_chunk(database: Database, chunk_id: str, *, seconds: float) -> None:
    """The same for one overdue chunk alone."""

    def write(conn: Connection) -> None:
        conn.execute(_EXTEND_CHUNK, {"of_chunk": chunk_id, "seconds": seconds})

    database.write(write)


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueProgress:
    """How far an active job has come in its queue: its first pending chunk, its first and its farthest started one.

    :ivar retried_at: when its unfinished chunks were sent in this run, None in the first one.
    """

    job_id: str
    run: int
    created_at: float
    now: float
    pending_index: int | None
    pending_signature: Mapping[str, Any] | None
    evidence_started_at: float | None
    evidence_signature: Mapping[str, Any] | None
    retried_at: float | None
    processing_to: int | None
    completed_to: int | None
    failed_to: int | None


_PAGE = (
    sa.select(jobs.c.id, jobs.c.run, jobs.c.created_at, jobs.c.started_at)
    .where(counting, jobs.c.total_chunks > 0, jobs.c.id > sa.bindparam("after"))
    .order_by(jobs.c.id)
    .limit(_LIMIT)
    .subquery("page")
)


def _first(column: sa.Column[Any], of: sa.FromClause, condition: sa.ColumnElement[bool]) -> sa.ScalarSelect[Any]:
    return (
        sa.select(column)
        .where(chunks.c.job_id == of.c.id, condition)
        .order_by(chunks.c.chunk_index)
        .limit(1)
        .correlate(of)
        .scalar_subquery()
    )


def _farthest(status: ChunkStatus) -> sa.ScalarSelect[Any]:
    return (
        sa.select(sa.func.max(chunks.c.chunk_index))
        .where(chunks.c.job_id == _PAGE.c.id, is_status(chunks.c.status, status))
        .correlate(_PAGE)
        .scalar_subquery()
    )


_IS_PENDING, _STARTED = is_status(chunks.c.status, ChunkStatus.PENDING), chunks.c.started_at.is_not(None)
_BEGUN = _PAGE.c.started_at.is_not(None)
_RETRIED_AT = (
    sa.select(events.c.at)
    .where(events.c.job_id == _PAGE.c.id, events.c.type == sa.literal_column(f"'{EventType.JOB_RETRIED.value}'"))
    .order_by(events.c.version.desc())
    .limit(1)
    .correlate(_PAGE)
    .scalar_subquery()
)
# Each column is one look into an index, for the jobs of the page alone. Not a join with the chunks: PostgreSQL scans
# every chunk for it. Jobs without a started chunk are skipped; the lookup would scan all their chunks for nothing.
_QUEUE_PROGRESS = sa.select(
    _PAGE.c.id.label("job_id"),
    _PAGE.c.run,
    _PAGE.c.created_at,
    now().label("now"),
    _first(chunks.c.chunk_index, _PAGE, _IS_PENDING).label("pending_index"),
    _first(chunks.c.signature, _PAGE, _IS_PENDING).label("pending_signature"),
    sa.case((_BEGUN, _first(chunks.c.started_at, _PAGE, _STARTED))).label("evidence_started_at"),
    sa.type_coerce(sa.case((_BEGUN, _first(chunks.c.signature, _PAGE, _STARTED))), chunks.c.signature.type).label(
        "evidence_signature"
    ),
    sa.case((_PAGE.c.run > 1, _RETRIED_AT)).label("retried_at"),
    _farthest(ChunkStatus.PROCESSING).label("processing_to"),
    _farthest(ChunkStatus.COMPLETED).label("completed_to"),
    _farthest(ChunkStatus.FAILED).label("failed_to"),
).order_by(_PAGE.c.id)


def queue_progress(database: Database, *, page: int = 200) -> Iterator[QueueProgress]:
    """How far each active job has come in its queue."""
    after = ""
    while rows := database.rows(_QUEUE_PROGRESS, after=after, limit=page):
        yield from (QueueProgress(**row._mapping) for row in rows)
        after = rows[-1].job_id


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """A message that was taken from its queue: sent after ``created_at``, and started at ``started_at``."""

    created_at: float
    started_at: float | None
    signature: Mapping[str, Any] | None


_RECENT = (
    sa.select(jobs.c.id, jobs.c.created_at)
    .where(
        jobs.c.finished_at > sa.bindparam("since", type_=sa.Double),
        jobs.c.created_at > sa.bindparam("since", type_=sa.Double),
        jobs.c.started_at.is_not(None),
    )
    .order_by(jobs.c.finished_at.desc())
    .limit(BATCH)
    .subquery("recent")
)
_EVIDENCE_OF_ENDED = sa.select(
    _RECENT.c.created_at,
    _first(chunks.c.started_at, _RECENT, _STARTED).label("started_at"),
    _first(chunks.c.signature, _RECENT, _STARTED).label("signature"),
)


def evidence_of_ended(database: Database, *, since: float) -> list[Evidence]:
    """Of jobs created after ``since`` that ended already, the first chunk that was started; those that ended last."""
    return [Evidence(**row._mapping) for row in database.rows(_EVIDENCE_OF_ENDED, since=since)]


@dataclass(frozen=True, kw_only=True, slots=True)
class PassedChunk(SentChunk):
    """An overdue chunk that something behind it overtook.

    :ivar first_message: its only message is the chord's own.
    """

    first_message: bool


_PASSED = (
    sa.select(*SENT_COLUMNS, sa.case((_FIRST_MESSAGE, 1), else_=0).label("first_message"))
    .where(
        _OVERDUE_OF_JOB,
        sa.or_(sa.bindparam("resent", type_=sa.Boolean), sa.and_(chunks.c.chunk_index < _BELOW, _FIRST_MESSAGE)),
    )
    .order_by(chunks.c.chunk_index)
    .limit(BATCH)
)


def passed_chunks(database: Database, job_id: str, *, below: int, resent: bool) -> list[PassedChunk]:
    """A job's overdue chunks in front of index ``below`` on their first message; or all, with those sent again."""
    return [
        PassedChunk(
            chunk=ChunkRow.of(row),
            signature=row.signature,
            due_in=row.due_in or 0.0,
            first_message=bool(row.first_message),
        )
        for row in database.rows(_PASSED, of_job=job_id, below=below, resent=resent)
    ]


#: Started chunks of a job that are looked at for one of the right queue.
_EVIDENCE = 50
_RIPE_EVIDENCE = (
    sa.select(chunks.c.chunk_index, chunks.c.signature)
    .where(
        chunks.c.job_id == _OF_JOB,
        chunks.c.chunk_index > sa.bindparam("first", type_=sa.Integer),
        chunks.c.chunk_index <= sa.bindparam("last", type_=sa.Integer),
        chunks.c.dispatches == 1,
        chunks.c.started_at < now() - sa.bindparam("lease", type_=sa.Double),
    )
    .order_by(chunks.c.chunk_index.desc())
    .limit(_EVIDENCE)
)


def ripe_evidence(
    database: Database, job_id: str, *, first: int, last: int, lease: float
) -> list[tuple[int, Mapping[str, Any]]]:
    """Chunks of a job on their first message that were started more than a lease ago, the last of the header first:
    index and signature.
    """
    rows = database.rows(_RIPE_EVIDENCE, of_job=job_id, first=first, last=last, lease=lease)
    return [(row.chunk_index, row.signature) for row in rows]


_AT_WORK_SINCE = (
    sa.select(sa.literal(1))
    .select_from(chunks)
    .where(
        is_status(chunks.c.status, ChunkStatus.PROCESSING),
        chunks.c.started_at < sa.bindparam("moment", type_=sa.Double),
    )
    .limit(1)
)


def at_work_since(database: Database, moment: float) -> bool:
    """Whether any chunk has been worked on since before ``moment``: its worker may hold messages from that time."""
    return database.row(_AT_WORK_SINCE, moment=moment) is not None


_SENT_WITHIN = sa.select(sa.bindparam("moment", type_=sa.Double) > now() - sa.bindparam("seconds", type_=sa.Double))


def sent_within(database: Database, moment: float, *, seconds: float) -> bool:
    """Whether ``moment`` is less than so many seconds ago, on the database's clock."""
    row = database.row(_SENT_WITHIN, moment=moment, seconds=seconds)
    return row is not None and bool(row[0])


_MERGING_SINCE = (
    sa.select(sa.literal(1))
    .select_from(jobs)
    .where(active, jobs.c.body_leased_until > now(), jobs.c.merge_started_at < sa.bindparam("moment", type_=sa.Double))
    .limit(1)
)


def merging_since(database: Database, moment: float) -> bool:
    """The same for bodies."""
    return database.row(_MERGING_SINCE, moment=moment) is not None


_SETTLED = (
    sa.select(*JOB_COLUMNS, jobs.c.body_signature)
    .where(
        active,
        settled,
        jobs.c.total_chunks > 0,
        sa.or_(jobs.c.body_due_at.is_(None), jobs.c.body_due_at <= now()),
        sa.or_(jobs.c.body_leased_until.is_(None), jobs.c.body_leased_until < now()),
    )
    .order_by(jobs.c.updated_at)
    .limit(BATCH)
)


def settled_jobs(database: Database) -> list[BodyDispatch]:
    """Jobs whose chunks are all terminal and whose body is due: not alive, and nobody is about to publish it."""
    return [BodyDispatch(job=JobRow.of(row), signature=row.body_signature) for row in database.rows(_SETTLED)]


_LEASE = sa.bindparam("lease", type_=sa.Double)
_TOO_FAR = now() + 1.5 * _LEASE
_HELD_TOO_FAR = sa.and_(is_status(chunks.c.status, ChunkStatus.PROCESSING), chunks.c.leased_until > _TOO_FAR)
_ANY_TOO_FAR = sa.union_all(
    sa.select(chunks.c.id).where(_HELD_TOO_FAR),
    sa.select(jobs.c.id).where(active, sa.or_(jobs.c.body_leased_until > _TOO_FAR, jobs.c.publishing_until > _TOO_FAR)),
).limit(1)
_CLAMPED = now() + _LEASE
_CLAMP = (
    sa.update(chunks).where(_HELD_TOO_FAR).values(leased_until=_CLAMPED),
    sa.update(jobs).where(active, jobs.c.body_leased_until > _TOO_FAR).values(body_leased_until=_CLAMPED),
    sa.update(jobs).where(active, jobs.c.publishing_until > _TOO_FAR).values(publishing_until=_CLAMPED),
)


def clamp_leases(database: Database, *, lease: float) -> int:
    """Shorten leases that end further in the future than any is given: the database's clock went back, and a worker
    that died meanwhile would not be missed. Due times of what waits are left alone: they may be days away.

    :returns: how many there were.
    """
    if database.row(_ANY_TOO_FAR, lease=lease) is None:
        return 0

    def write(conn: Connection) -> int:
        return sum(conn.execute(each, {"lease": lease}).rowcount for each in _CLAMP)

    return database.write(write) or 0


_RUNNING = (
    sa.select(*JOB_COLUMNS)
    .where(active, jobs.c.id > sa.bindparam("after"), jobs.c.total_chunks > 0)
    .order_by(jobs.c.id)
    .limit(_LIMIT)
)


def running_jobs(database: Database, *, after: str, limit: int) -> list[JobRow]:
    """Active jobs in the order of their ids, from behind ``after``."""
    return [JobRow.of(row) for row in database.rows(_RUNNING, after=after, limit=limit)]


_RECENTLY_ENDED = (
    sa.select(*JOB_COLUMNS).where(jobs.c.finished_at.is_not(None)).order_by(jobs.c.finished_at.desc()).limit(_LIMIT)
)


def recently_ended_jobs(database: Database, *, limit: int) -> list[JobRow]:
    """The jobs that ended last."""
    return [JobRow.of(row) for row in database.rows(_RECENTLY_ENDED, limit=limit)]


_RAISE_VERSION = (
    sa.update(jobs)
    .where(jobs.c.id == _OF_JOB, jobs.c.version <= sa.bindparam("of_version", type_=sa.BigInteger))
    .values(version=sa.bindparam("of_version", type_=sa.BigInteger) + 1)
    .returning(*JOB_COLUMNS)
)


def raise_version(conn: Connection, job_id: str, *, above: int) -> JobRow | None:
    """Give a job a version above one that readers were given; None where it has one."""
    row = conn.execute(_RAISE_VERSION, {"of_job": job_id, "of_version": above}).first()
    if row is None:
        return None
    job = JobRow.of(row)
    record(conn, job, EventType.VERSION_RAISED)
    return job


_UNAUDITED = sa.select(*JOB_COLUMNS).where(unaudited).order_by(jobs.c.finished_at).limit(_LIMIT)


def unaudited_jobs(database: Database, *, limit: int) -> list[JobRow]:
    """Jobs that ended, or ended again after a retry, since they were audited."""
    return [JobRow.of(row) for row in database.rows(_UNAUDITED, limit=limit)]


_AUDITED = (
    sa.update(jobs)
    .where(jobs.c.id == _OF_JOB, sa.func.coalesce(jobs.c.audited_version, 0) < sa.bindparam("of_version"))
    .values(audited_version=sa.bindparam("of_version", type_=sa.BigInteger))
    .returning(jobs.c.id)
)


def audited(database: Database, job_id: str, *, version: int) -> bool:
    """Note that a job was audited at this version; False where that was noted before, here or by another beat."""

    def write(conn: Connection) -> bool:
        return conn.execute(_AUDITED, {"of_job": job_id, "of_version": version}).first() is not None

    return database.write(write) or False
