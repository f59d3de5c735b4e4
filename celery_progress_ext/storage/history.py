"""What happened to a job, append-only: one row of ``job_events`` per thing that happened."""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import Connection

from celery_progress_ext.history import EventType
from celery_progress_ext.jobs import iso
from celery_progress_ext.storage.engine import Database, Row, execute

_INSERT = """
INSERT INTO job_events (job_id, version, type, at, chunk_index, attempt, message, eta_finish_at)
VALUES (:job_id, :version, :type, {now}, :chunk_index, :attempt, :message, :eta)
"""


def record(
    conn: Connection,
    job: Row,
    type: EventType,
    *,
    chunk_index: int | None = None,
    attempt: int | None = None,
    message: str | None = None,
    eta: float | None = None,
) -> None:
    """Append one event, in the transaction of the change that it tells, with the version that change made."""
    execute(
        conn,
        _INSERT,
        job_id=job["id"],
        version=job["version"],
        type=type.value,
        chunk_index=chunk_index,
        attempt=attempt,
        message=message,
        eta=eta,
    )


def read(database: Database, job_id: str, *, after: int = 0, limit: int = 1000) -> list[dict[str, Any]]:
    """Events of a job with a version above ``after``, oldest first."""
    rows = database.rows(
        """SELECT version, type, at, chunk_index, attempt, message, eta_finish_at FROM job_events
           WHERE job_id = :job_id AND version > :after ORDER BY version, id LIMIT :limit""",
        job_id=job_id,
        after=after,
        limit=limit,
    )
    return [
        {
            "version": row["version"],
            "type": row["type"],
            "at": iso(row["at"]),
            "chunk_index": row["chunk_index"],
            "attempt": row["attempt"],
            "message": row["message"],
            "eta_finish_at": iso(row["eta_finish_at"]),
        }
        for row in rows
    ]
