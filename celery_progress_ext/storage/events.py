"""What happened to a job, append-only: one row of ``job_events`` per thing that happened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from celery_progress_ext.calibration import Promise
from celery_progress_ext.history import EventType
from celery_progress_ext.jobs import iso
from celery_progress_ext.storage.database import Database
from celery_progress_ext.storage.expressions import json_value, now, rows_of
from celery_progress_ext.storage.json import dumps
from celery_progress_ext.storage.rows import ChunkRow, JobRow
from celery_progress_ext.storage.schema import job_events as events

_RECORD = sa.insert(events).values(at=now())


def _promised(promise: Promise | None) -> dict[str, Any]:
    """A promise as the columns have it."""
    if promise is None:
        return {"eta_finish_at": None, "eta_earliest_at": None, "eta_latest_at": None, "eta_model": None}
    shown = promise.shown
    return {
        "eta_finish_at": shown.finish_at,
        "eta_earliest_at": shown.earliest,
        "eta_latest_at": shown.latest,
        "eta_model": promise.model.to_json(),
    }


def record(
    conn: Connection,
    job: JobRow,
    type: EventType,
    *,
    chunk_index: int | None = None,
    attempt: int | None = None,
    message: str | None = None,
    worker: str | None = None,
    promise: Promise | None = None,
) -> None:
    """Append one event, in the transaction of the change that it records, with the version that change made.

    :param worker: the process that works on the chunk or the merge.
    :param promise: the finish time that was given last.
    """
    conn.execute(
        _RECORD,
        {
            "job_id": job.id,
            "version": job.version,
            "type": type.value,
            "chunk_index": chunk_index,
            "attempt": attempt,
            "message": message,
            "worker": worker,
            **_promised(promise),
        },
    )


_CHANGED = rows_of("changed", "changed")
_VERSION = _CHANGED.c.value["version"].as_integer()
_RECORD_ALL = sa.insert(events).from_select(
    [
        *("job_id", "version", "type", "at", "chunk_index", "attempt", "message", "worker"),
        *("eta_finish_at", "eta_earliest_at", "eta_latest_at", "eta_model"),
    ],
    sa.select(
        sa.bindparam("of_job", type_=sa.String),
        _VERSION,
        sa.cast(sa.bindparam("of_type", type_=sa.String), sa.String),
        now(),
        _CHANGED.c.value["chunk_index"].as_integer(),
        _CHANGED.c.value["attempt"].as_integer(),
        sa.cast(sa.bindparam("message", type_=sa.Text), sa.Text),
        _CHANGED.c.value["worker"].as_string(),
        *(
            sa.cast(sa.bindparam(name, type_=sa.Double), sa.Double)
            for name in ("eta_finish_at", "eta_earliest_at", "eta_latest_at")
        ),
        json_value(sa.bindparam("eta_model", type_=sa.Text)),
    ).order_by(_VERSION),
)


def record_all(
    conn: Connection,
    job: JobRow,
    type: EventType,
    chunks: Sequence[ChunkRow],
    *,
    message: str | None = None,
    promise: Promise | None = None,
) -> None:
    """Append an event for each chunk of one change, whose last version is the job's; each has a version of its own.

    :param promise: the finish time that was given last.
    """
    first = job.version - len(chunks) + 1
    changed = [
        {"version": version, "chunk_index": chunk.chunk_index, "attempt": chunk.attempt, "worker": chunk.worker}
        for version, chunk in enumerate(chunks, first)
    ]
    promised = _promised(promise)
    if promise is not None:
        promised["eta_model"] = dumps(promised["eta_model"])
    conn.execute(
        _RECORD_ALL,
        {"of_job": job.id, "of_type": type.value, "message": message, "changed": dumps(changed), **promised},
    )


_READ = (
    sa.select(
        events.c.version,
        events.c.type,
        events.c.at,
        events.c.chunk_index,
        events.c.attempt,
        events.c.message,
        events.c.worker,
        events.c.eta_finish_at,
        events.c.eta_earliest_at,
        events.c.eta_latest_at,
    )
    .where(events.c.job_id == sa.bindparam("of_job"), events.c.version > sa.bindparam("after"))
    .order_by(events.c.version, events.c.id)
    .limit(sa.bindparam("limit", type_=sa.Integer))
)


def read(database: Database, job_id: str, *, after: int = 0, limit: int = 1000) -> list[dict[str, Any]]:
    """Events of a job with a version above ``after``, oldest first."""
    rows = database.rows(_READ, of_job=job_id, after=after, limit=limit)
    return [{**row._mapping, **{name: iso(row._mapping[name]) for name in _TIMES}} for row in rows]


_TIMES = ("at", "eta_finish_at", "eta_earliest_at", "eta_latest_at")
