"""What the reconciler looks for: indexed, bounded queries on the database's clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from celery_progress_ext.storage.engine import Database, Row, execute

#: Rows of one kind that one tick takes on; the next tick takes the next ones.
BATCH = 500


def lapsed_chunks(database: Database) -> list[Row]:
    """Chunks whose worker has given no sign of life for a lease."""
    return _chunks(database, "processing")


def overdue_chunks(database: Database) -> list[Row]:
    """Chunks that were sent and should have been started by now."""
    return _chunks(database, "pending")


def _chunks(database: Database, status: str) -> list[Row]:
    return database.rows(
        """SELECT c.* FROM document_ocr_chunks c JOIN processing_jobs j ON j.id = c.job_id
           WHERE c.status = :status AND c.leased_until < {now} AND j.status IN ('PENDING', 'PROCESSING')
             AND j.stage_name <> 'merge'
           ORDER BY c.leased_until LIMIT :batch""",
        status=status,
        batch=BATCH,
    )


def extend(database: Database, job_id: str, *, seconds: float) -> None:
    """The job's messages are known to wait in the queue: look at its overdue chunks again later."""

    def write(conn: Any) -> None:
        execute(
            conn,
            """UPDATE document_ocr_chunks SET leased_until = {now} + :seconds
               WHERE job_id = :id AND status = 'pending' AND leased_until < {now}""",
            id=job_id,
            seconds=seconds,
        )

    database.write(write)


def settled_jobs(database: Database) -> list[Row]:
    """Jobs whose chunks are all terminal and whose body is due: not alive, and nobody is about to publish it."""
    return database.rows(
        """SELECT *, {now} AS now FROM processing_jobs
           WHERE status IN ('PENDING', 'PROCESSING') AND completed_chunks + failed_chunks = total_chunks
             AND total_chunks > 0 AND (body_due_at IS NULL OR body_due_at <= {now})
             AND (body_leased_until IS NULL OR body_leased_until < {now})
           ORDER BY updated_at LIMIT :batch""",
        batch=BATCH,
    )


def running_jobs(database: Database, *, after: str, limit: int) -> list[Row]:
    """Active jobs in the order of their ids, from behind ``after``."""
    return database.rows(
        """SELECT *, {now} AS now FROM processing_jobs WHERE status IN ('PENDING', 'PROCESSING') AND id > :after
           AND total_chunks > 0 ORDER BY id LIMIT :limit""",
        after=after,
        limit=limit,
    )


def forget(database: Database, *, days: float) -> int:
    """Delete jobs that ended longer ago, with their chunks and events; how many."""

    def write(conn: Any) -> int:
        found = execute(
            conn,
            """DELETE FROM processing_jobs WHERE id IN (
                 SELECT id FROM processing_jobs WHERE finished_at < {now} - :seconds ORDER BY finished_at LIMIT 100)
               RETURNING id""",
            seconds=days * 86400.0,
        )
        return len(found)

    return database.write(write) or 0


@dataclass(frozen=True, kw_only=True)
class Drift:
    """A job whose counters differ from its rows: column → (counter, recounted)."""

    job_id: str
    columns: dict[str, tuple[int, int]]


_RECOUNT = """
SELECT j.id, j.total_chunks, j.pending_chunks, j.processing_chunks, j.completed_chunks, j.failed_chunks, j.pages_done,
       COUNT(c.id) AS total,
       COALESCE(SUM(CASE WHEN c.status = 'pending' THEN 1 ELSE 0 END), 0) AS pending,
       COALESCE(SUM(CASE WHEN c.status = 'processing' THEN 1 ELSE 0 END), 0) AS processing,
       COALESCE(SUM(CASE WHEN c.status = 'completed' THEN 1 ELSE 0 END), 0) AS completed,
       COALESCE(SUM(CASE WHEN c.status = 'failed' THEN 1 ELSE 0 END), 0) AS failed,
       COALESCE(SUM(c.pages_done), 0) AS pages
FROM processing_jobs j LEFT JOIN document_ocr_chunks c ON c.job_id = j.id
GROUP BY j.id
"""
_PAIRS = {
    "total_chunks": "total",
    "pending_chunks": "pending",
    "processing_chunks": "processing",
    "completed_chunks": "completed",
    "failed_chunks": "failed",
    "pages_done": "pages",
}


def audit(database: Database) -> list[Drift]:
    """Recount every job from its chunk rows; the jobs whose counters differ."""
    found = []
    for row in database.rows(_RECOUNT):
        columns = {
            name: (int(row[name]), int(row[counted]))
            for name, counted in _PAIRS.items()
            if int(row[name]) != int(row[counted])
        }
        if columns:
            found.append(Drift(job_id=row["id"], columns=columns))
    return found
