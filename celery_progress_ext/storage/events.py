"""What happened to a job, append-only: one row of ``job_events`` per thing that happened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from celery_progress_ext.history import EventType
from celery_progress_ext.jobs import iso
from celery_progress_ext.storage.database import Database
from celery_progress_ext.storage.expressions import now, rows_of
from celery_progress_ext.storage.json import dumps
from celery_progress_ext.storage.rows import ChunkRow, JobRow
from celery_progress_ext.storage.schema import job_events as events

_RECORD = sa.insert(events).values(at=now())


def record(
    conn: Connection,
    job: JobRow,
    type: EventType,
    *,
    chunk_index: int | None = None,
    attempt: int | None = None,
    message: str | None = None,
) -> None:
    """Append one event, in the transaction of the change that it records, with the version that change made."""
    conn.execute(
        _RECORD,
        {
            "job_id": job.id,
            "version": job.version,
            "type": type.value,
            "chunk_index": chunk_index,
            "attempt": attempt,
            "message": message,
        },
    )


_CHANGED = rows_of("changed", "changed")
_VERSION = _CHANGED.c.value["version"].as_integer()
_RECORD_ALL = sa.insert(events).from_select(
    ["job_id", "version", "type", "at", "chunk_index", "attempt", "message", "eta_finish_at"],
    sa.select(
        sa.bindparam("of_job", type_=sa.String),
        _VERSION,
        sa.cast(sa.bindparam("of_type", type_=sa.String), sa.String),
        now(),
        _CHANGED.c.value["chunk_index"].as_integer(),
        _CHANGED.c.value["attempt"].as_integer(),
        sa.cast(sa.bindparam("message", type_=sa.Text), sa.Text),
        sa.cast(sa.bindparam("eta", type_=sa.Double), sa.Double),
    ).order_by(_VERSION),
)


def record_all(
    conn: Connection,
    job: JobRow,
    type: EventType,
    chunks: Sequence[ChunkRow],
    *,
    message: str | None = None,
    eta: float | None = None,
) -> None:
    """Append an event for each chunk of one change, whose last version is the job's; each has a version of its own.

    :param eta: the finish time that was given last.
    """
    first = job.version - len(chunks) + 1
    changed = [
        {"version": version, "chunk_index": chunk.chunk_index, "attempt": chunk.attempt}
        for version, chunk in enumerate(chunks, first)
    ]
    conn.execute(
        _RECORD_ALL,
        {"of_job": job.id, "of_type": type.value, "message": message, "changed": dumps(changed), "eta": eta},
    )


_READ = (
    sa.select(
        events.c.version,
        events.c.type,
        events.c.at,
        events.c.chunk_index,
        events.c.attempt,
        events.c.message,
        events.c.eta_finish_at,
    )
    .where(events.c.job_id == sa.bindparam("of_job"), events.c.version > sa.bindparam("after"))
    .order_by(events.c.version, events.c.id)
    .limit(sa.bindparam("limit", type_=sa.Integer))
)


def read(database: Database, job_id: str, *, after: int = 0, limit: int = 1000) -> list[dict[str, Any]]:
    """Events of a job with a version above ``after``, oldest first."""
    rows = database.rows(_READ, of_job=job_id, after=after, limit=limit)
    return [{**row._mapping, "at": iso(row.at), "eta_finish_at": iso(row.eta_finish_at)} for row in rows]
