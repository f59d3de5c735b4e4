"""What happened to a job, append-only: one row of ``job_events`` per thing that happened."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from celery_progress_ext.history import EventType
from celery_progress_ext.jobs import iso
from celery_progress_ext.storage.connection import Connection
from celery_progress_ext.storage.database import Database, Row, execute
from celery_progress_ext.storage.json_rows import json_rows

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


_INSERT_COMPLETIONS = {
    dialect: f"""
    INSERT INTO job_events (job_id, version, type, at, chunk_index, attempt, eta_finish_at)
    SELECT :job_id, version, '{EventType.CHUNK_COMPLETED}', {{now}}, chunk_index, attempt,
        CAST(:eta AS double precision)
    FROM {json_rows(dialect, version="bigint", chunk_index="integer", attempt="integer")} AS told ORDER BY version
    """
    for dialect in ("sqlite", "postgresql")
}


def record_completions(conn: Connection, job: Row, chunks: Sequence[Row], *, eta: float | None) -> None:
    """Append an event for each chunk of one change, whose last version is the job's; each has a version of its own."""
    first = job["version"] - len(chunks) + 1
    rows = [
        {"version": version, "chunk_index": chunk["chunk_index"], "attempt": chunk["attempt"]}
        for version, chunk in enumerate(chunks, first)
    ]
    execute(conn, _INSERT_COMPLETIONS[conn.dialect], job_id=job["id"], rows=json.dumps(rows), eta=eta)


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
