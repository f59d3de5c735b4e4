"""What the broker took: which messages were sent, which are still to be sent, and which process sends them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from celery_progress_ext.chunks import ChunkStatus
from celery_progress_ext.history import EventType
from celery_progress_ext.storage import events
from celery_progress_ext.storage.database import AnyRow, Database
from celery_progress_ext.storage.expressions import among, now, rows_of
from celery_progress_ext.storage.json import dumps
from celery_progress_ext.storage.rows import CHUNK_COLUMNS, JOB_COLUMNS, ChunkRow, JobRow, counting, is_status
from celery_progress_ext.storage.schema import document_ocr_chunks as chunks
from celery_progress_ext.storage.schema import processing_jobs as jobs


@dataclass(frozen=True, kw_only=True, slots=True)
class SentChunk:
    """A chunk, and the signature that it is sent with."""

    chunk: ChunkRow
    signature: Mapping[str, Any]
    #: Seconds within which it should be started; negative where it is overdue.
    due_in: float

    @classmethod
    def of(cls, row: AnyRow) -> SentChunk:
        """From a row of ``SENT_COLUMNS``."""
        return cls(chunk=ChunkRow.of(row), signature=row.signature, due_in=row.due_in or 0.0)


SENT_COLUMNS = [*CHUNK_COLUMNS, chunks.c.signature, (chunks.c.leased_until - now()).label("due_in")]
_OF_JOB = sa.bindparam("of_job", type_=sa.String)
_LEASE = sa.bindparam("new_lease", type_=sa.Double)
_PENDING = is_status(chunks.c.status, ChunkStatus.PENDING)
#: The broker has not taken the chunk's newest message yet. A literal, so that the partial index is used.
unsent = sa.and_(_PENDING, chunks.c.sent_at == sa.literal_column("0"))
#: The broker has it; rows from before revision 0003 always say so.
sent = sa.or_(chunks.c.sent_at.is_(None), chunks.c.sent_at > sa.literal_column("0"))
_NOBODY_SENDS = sa.or_(jobs.c.publishing_until.is_(None), jobs.c.publishing_until < now())

_UNSENT_JOBS = (
    sa.select(jobs.c.id)
    .where(jobs.c.id.in_(sa.select(chunks.c.job_id).where(unsent)), counting, _NOBODY_SENDS)
    .order_by(jobs.c.id)
    .limit(sa.bindparam("limit", type_=sa.Integer))
)


def jobs_with_unsent_chunks(database: Database, *, limit: int) -> list[str]:
    """Jobs of which some messages are still to be sent, and no process is sending them."""
    return [row.id for row in database.rows(_UNSENT_JOBS, limit=limit)]


_LOCK_UNSENT = (
    sa.select(*CHUNK_COLUMNS).where(chunks.c.job_id == _OF_JOB, unsent).order_by(chunks.c.id).with_for_update()
)
_TAKE = (
    sa.update(jobs)
    .where(jobs.c.id == _OF_JOB, counting, _NOBODY_SENDS)
    # What was not sent with the chord has no part in it.
    .values(
        {
            jobs.c.publishing_until: now() + _LEASE,
            jobs.c.chord_intact: False,
            jobs.c.version: jobs.c.version + sa.bindparam("new_changes", type_=sa.Integer),
        }
    )
    .returning(*JOB_COLUMNS)
)
# The first message may have been sent after all, by a publisher that died before it noted so: one of another dispatch
# is asked whether the chunk is in other hands before it runs, a second first one would not be.
_RENUMBER = (
    sa.update(chunks)
    .where(chunks.c.job_id == _OF_JOB, unsent, chunks.c.dispatches == 1)
    .values(dispatches=2, task_id=chunks.c.id.concat(".2"))
)
_READ_UNSENT = (
    sa.select(*SENT_COLUMNS)
    .where(chunks.c.job_id == _OF_JOB, unsent, chunks.c.chunk_index > sa.bindparam("after", type_=sa.Integer))
    .order_by(chunks.c.chunk_index)
    .limit(sa.bindparam("limit", type_=sa.Integer))
)


def take_unsent(conn: Connection, job_id: str, *, lease: float) -> bool:
    """Claim the sending of a job's unsent chunks for ``lease`` seconds; False where another process has it."""
    locked = [ChunkRow.of(row) for row in conn.execute(_LOCK_UNSENT, {"of_job": job_id})]
    first = [chunk for chunk in locked if chunk.dispatches == 1]
    row = conn.execute(_TAKE, {"of_job": job_id, "new_lease": lease, "new_changes": len(first)}).first()
    if row is None:
        return False
    if first:
        conn.execute(_RENUMBER, {"of_job": job_id})
        events.record_all(conn, JobRow.of(row), EventType.CHUNK_REDISPATCHED, first, message="it was not sent")
    return True


def unsent_chunks(database: Database, job_id: str, *, after: int = -1, limit: int) -> list[SentChunk]:
    """A job's chunks that are still to be sent, in the order of the header, behind index ``after``."""
    rows = database.rows(_READ_UNSENT, of_job=job_id, after=after, limit=limit)
    return [SentChunk.of(row) for row in rows]


_ARE_TASKS = among(chunks.c.id, sa.select(rows_of("tasks", "tasks").c.value["chunk"].as_string()).scalar_subquery())
_IS_MESSAGE = among(
    chunks.c.task_id, sa.select(rows_of("tasks", "messages").c.value["task"].as_string()).scalar_subquery()
)
_LOCK_MARKED = sa.select(chunks.c.id).where(_ARE_TASKS).order_by(chunks.c.id).with_for_update()
_MARK_SENT = (
    sa.update(chunks)
    .where(
        _ARE_TASKS,
        # Not where a newer message is on its way.
        _IS_MESSAGE,
        chunks.c.sent_at == sa.literal_column("0"),
    )
    .values(
        {
            chunks.c.sent_at: now(),
            # A chunk is overdue from when it was sent. One that was started meanwhile has a lease.
            chunks.c.leased_until: sa.case(
                (_PENDING, now() + sa.bindparam("new_due", type_=sa.Double)), else_=chunks.c.leased_until
            ),
        }
    )
)
_STILL_PUBLISHING = (
    sa.update(jobs)
    .where(jobs.c.id == _OF_JOB, jobs.c.publishing_until.is_not(None))
    .values(publishing_until=now() + _LEASE)
)
_PUBLISHED = sa.update(jobs).where(jobs.c.id == _OF_JOB).values(publishing_until=None)


def mark_sent(
    conn: Connection, job_id: str, tasks: Sequence[tuple[str, str]], *, due: float, lease: float, last: bool
) -> None:
    """Note that the broker took these messages, and that their sender is alive.

    :param tasks: chunk id and task id of each.
    :param due: seconds within which each should be started.
    :param lease: seconds until another process may take over the rest.
    :param last: the sender is done, with or without a rest.
    """
    if tasks:
        given = dumps([{"chunk": chunk, "task": task} for chunk, task in tasks])
        conn.execute(_LOCK_MARKED, {"tasks": given})
        conn.execute(_MARK_SENT, {"tasks": given, "new_due": due})
    if last:
        conn.execute(_PUBLISHED, {"of_job": job_id})
    else:
        conn.execute(_STILL_PUBLISHING, {"of_job": job_id, "new_lease": lease})


_REROUTE = (
    sa.update(chunks)
    .where(chunks.c.id == sa.bindparam("of_chunk"), chunks.c.task_id == sa.bindparam("of_task"), _PENDING)
    .values(signature=sa.bindparam("new_signature", type_=chunks.c.signature.type))
)
_REROUTE_BODY = (
    sa.update(jobs)
    .where(jobs.c.id == _OF_JOB)
    .values(body_signature=sa.bindparam("new_signature", type_=jobs.c.body_signature.type))
)
_SET_QUEUES = (
    sa.update(jobs).where(jobs.c.id == _OF_JOB).values(queues=sa.bindparam("new_queues", type_=jobs.c.queues.type))
)


def reroute(
    conn: Connection,
    job_id: str,
    *,
    task: tuple[str, str] | None,
    signature: Mapping[str, Any],
    queues: Mapping[str, Any],
) -> None:
    """A message is about to go another way than its signature says: note it, as a message is looked for in its queue.

    :param task: the chunk's id and its newest task's; None for the job's body.
    :param queues: where the job's messages go from now on.
    """
    if task is None:
        conn.execute(_REROUTE_BODY, {"of_job": job_id, "new_signature": signature})
    else:
        conn.execute(_REROUTE, {"of_chunk": task[0], "of_task": task[1], "new_signature": signature})
    conn.execute(_SET_QUEUES, {"of_job": job_id, "new_queues": queues})
