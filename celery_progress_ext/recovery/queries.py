"""What the reconciler looks for: indexed, bounded queries on the database's clock."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from celery_progress_ext.jobs import ForgottenJob
from celery_progress_ext.storage.connection import Connection
from celery_progress_ext.storage.database import Database, Row, execute, execute_one
from celery_progress_ext.storage.schema import UNAUDITED

#: Rows of one kind that one tick takes on; the next tick takes the next ones.
BATCH = 500
#: Rows that one tick deletes, about.
FORGET_ROWS = 50_000


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


#: A chunk as it was inserted: its only message is the one that Celery's chord published, in the order of the header.
_FIRST_MESSAGE = "dispatches = 1 AND attempt = 0 AND error IS NULL"
#: The plus keeps SQLite from the index of all overdue chunks, where those of one job are to be found.
_OVERDUE_OF_JOB = "job_id = :id AND status = 'pending' AND +leased_until < {now}"
_EXTEND = f"""
UPDATE document_ocr_chunks
SET leased_until = {{now}} + CASE WHEN chunk_index < :below AND {_FIRST_MESSAGE} THEN :soon ELSE :seconds END
WHERE {_OVERDUE_OF_JOB}
"""


def extend(database: Database, job_id: str, *, seconds: float, soon: float = 0.0, below: int = -1) -> None:
    """The job's messages are known to wait in the queue: look at its overdue chunks again later.

    :param seconds: how much later.
    :param soon: the same for chunks in front of index ``below`` on their first message: they were overtaken.
    """
    database.write(lambda conn: execute(conn, _EXTEND, id=job_id, seconds=seconds, soon=soon, below=below))


def extend_chunk(database: Database, chunk_id: str, *, seconds: float) -> None:
    """The same for one overdue chunk alone."""
    query = """UPDATE document_ocr_chunks SET leased_until = {now} + :seconds
               WHERE id = :id AND status = 'pending' AND leased_until < {now}"""
    database.write(lambda conn: execute(conn, query, id=chunk_id, seconds=seconds))


_FIRST = "FROM document_ocr_chunks c WHERE c.job_id = j.id AND {} ORDER BY c.chunk_index LIMIT 1"
_PENDING, _STARTED = _FIRST.format("c.status = 'pending'"), _FIRST.format("c.started_at IS NOT NULL")
_FARTHEST = "SELECT MAX(c.chunk_index) FROM document_ocr_chunks c WHERE c.job_id = j.id AND c.status"
# Each column is one look into an index, for the jobs of the page alone. Not a join with the chunks: PostgreSQL reads
# them all for it. Nothing is looked for in a job of which nothing was started: that would be all its chunks, in vain.
_FRONTS = f"""
SELECT j.id, j.run, j.created_at, {{now}} AS now,
    (SELECT c.chunk_index {_PENDING}) AS pending_index, (SELECT c.signature {_PENDING}) AS pending_signature,
    CASE WHEN j.started_at IS NOT NULL THEN (SELECT c.started_at {_STARTED}) END AS witness_started_at,
    CASE WHEN j.started_at IS NOT NULL THEN (SELECT c.signature {_STARTED}) END AS witness_signature,
    CASE WHEN j.run > 1 THEN (
        SELECT e.at FROM job_events e WHERE e.job_id = j.id AND e.type = 'job_retried' ORDER BY e.version DESC LIMIT 1
    ) END AS retried_at,
    ({_FARTHEST} = 'processing') AS processing_to,
    ({_FARTHEST} = 'completed') AS completed_to,
    ({_FARTHEST} = 'failed') AS failed_to
FROM (
    SELECT id, run, created_at, started_at FROM processing_jobs
    WHERE status IN ('PENDING', 'PROCESSING') AND stage_name <> 'merge' AND total_chunks > 0 AND id > :after
    ORDER BY id LIMIT :limit
) j ORDER BY j.id
"""


def fronts(database: Database, *, page: int = 200) -> Iterator[Row]:
    """How far each active job has come in its queue: its first pending chunk, its first and its farthest started one.

    ``retried_at`` is when its unfinished chunks were sent in this run, None in the first one.
    """
    after = ""
    while rows := database.rows(_FRONTS, after=after, limit=page):
        yield from rows
        after = rows[-1]["id"]


_ENDED_WITNESSES = f"""
SELECT j.created_at, (SELECT c.started_at {_STARTED}) AS witness_started_at,
    (SELECT c.signature {_STARTED}) AS witness_signature
FROM (
    SELECT id, created_at FROM processing_jobs
    WHERE finished_at > :since AND created_at > :since AND started_at IS NOT NULL
    ORDER BY finished_at DESC LIMIT :batch
) j
"""


def ended_witnesses(database: Database, *, since: float) -> list[Row]:
    """Of jobs created after ``since`` that ended already, the first chunk that was started; those that ended last."""
    return database.rows(_ENDED_WITNESSES, since=since, batch=BATCH)


_PASSED = f"""
SELECT *, CASE WHEN {_FIRST_MESSAGE} THEN 1 ELSE 0 END AS first_message FROM document_ocr_chunks
WHERE {_OVERDUE_OF_JOB}
  AND (:resent = 1 OR chunk_index < :below AND {_FIRST_MESSAGE})
ORDER BY chunk_index LIMIT :batch
"""


def passed_chunks(database: Database, job_id: str, *, below: int, resent: bool) -> list[Row]:
    """A job's overdue chunks in front of index ``below`` on their first message; or all, with those sent again."""
    return database.rows(_PASSED, id=job_id, below=below, resent=int(resent), batch=BATCH)


#: Started chunks of a job that are looked at for one of the right queue.
_WITNESSES = 50


def ripe_witnesses(database: Database, job_id: str, *, first: int, last: int, lease: float) -> list[Row]:
    """Chunks of a job on their first message that were started more than a lease ago, the last of the header first."""
    return database.rows(
        """SELECT chunk_index, signature FROM document_ocr_chunks
           WHERE job_id = :id AND chunk_index > :first AND chunk_index <= :last AND dispatches = 1
             AND started_at < {now} - :lease ORDER BY chunk_index DESC LIMIT :limit""",
        id=job_id,
        first=first,
        last=last,
        lease=lease,
        limit=_WITNESSES,
    )


def resent_at(database: Database, job_id: str) -> dict[int, float]:
    """When the newest message of each chunk was sent that had more than one, as the job's history has it."""
    rows = database.rows(
        """SELECT chunk_index, MAX(at) AS at FROM job_events
           WHERE job_id = :id AND type IN ('chunk_redispatched', 'chunk_retrying') GROUP BY chunk_index""",
        id=job_id,
    )
    return {row["chunk_index"]: row["at"] for row in rows}


def at_work_since(database: Database, moment: float) -> bool:
    """Whether any chunk has been worked on since before ``moment``: its worker may hold messages from that time."""
    query = "SELECT 1 AS found FROM document_ocr_chunks WHERE status = 'processing' AND started_at < :moment LIMIT 1"
    return database.row(query, moment=moment) is not None


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
