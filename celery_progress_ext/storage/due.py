"""What the reconciler looks for: indexed, bounded queries on the database's clock."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from sqlalchemy.engine import Connection

from celery_progress_ext.jobs import ForgottenJob
from celery_progress_ext.storage.engine import Database, Row, execute, execute_one

#: Rows of one kind that one tick takes on; the next tick takes the next ones.
BATCH = 500
#: Rows that one tick deletes, about.
FORGET_ROWS = 50_000
#: A job that ended, or ended again after a retry, since it was audited; in the words of an index of the schema.
UNAUDITED = "finished_at IS NOT NULL AND COALESCE(audited_version, 0) < version"


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


_UNAUDITED = f"SELECT * FROM processing_jobs WHERE {UNAUDITED} ORDER BY finished_at LIMIT :limit"


def unaudited_jobs(database: Database, *, limit: int) -> list[Row]:
    """Jobs that ended, or ended again after a retry, since they were audited.

    :raises DatabaseNotMigrated: before revision 0002.
    """
    return database.rows(_UNAUDITED, limit=limit)


def audited(database: Database, job_id: str, *, version: int) -> bool:
    """Note that a job was audited at this version; False where that was noted before, here or by another beat."""

    def write(conn: Any) -> bool:
        return bool(
            execute(
                conn,
                """UPDATE processing_jobs SET audited_version = :version
                   WHERE id = :id AND COALESCE(audited_version, 0) < :version RETURNING id""",
                id=job_id,
                version=version,
            )
        )

    return database.write(write) or False


_FORGETTABLE = """
SELECT id, total_chunks + version AS weight FROM processing_jobs WHERE finished_at < {now} - :seconds
ORDER BY finished_at LIMIT :batch
"""
# The age once more: a job that is retried meanwhile stays.
_FORGET = """
DELETE FROM processing_jobs WHERE id = :id AND finished_at < {now} - :seconds RETURNING id, matter_id, document_id
"""


def forget(database: Database, *, days: float) -> Iterator[ForgottenJob]:
    """Delete jobs that ended longer ago, with their chunks and events; each is gone, committed, when it is given.

    One at a time, until ``FORGET_ROWS`` rows went with them: a transaction that deletes a million rows would keep every
    writer of an SQLite database waiting.
    """
    seconds, left = days * 86400.0, FORGET_ROWS
    for row in database.rows(_FORGETTABLE, seconds=seconds, batch=BATCH):
        found = database.write(partial(_forget, job_id=row["id"], seconds=seconds))
        if found is not None:
            yield ForgottenJob(job_id=found["id"], matter_id=found["matter_id"], document_id=found["document_id"])
        # There are at most as many events as versions.
        left -= row["weight"]
        if left <= 0:
            return


def _forget(conn: Connection, job_id: str, seconds: float) -> Row | None:
    return execute_one(conn, _FORGET, id=job_id, seconds=seconds)
