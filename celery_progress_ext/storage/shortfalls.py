"""What a job falls short of: chunks that failed, and pages that a completed chunk could not wholly read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from celery_progress_ext.chunks import ChunkStatus
from celery_progress_ext.storage.rows import JobRow, is_status
from celery_progress_ext.storage.schema import document_ocr_chunks as chunks
from celery_progress_ext.storage.schema import processing_jobs as jobs

_OF_JOB = sa.bindparam("of_job", type_=sa.String)
_LIMIT = sa.bindparam("limit", type_=sa.Integer)
FAILED = (
    sa.select(
        *(chunks.c[name] for name in ("chunk_index", "page_start", "page_end", "error", "size", "grows")),
    )
    .where(chunks.c.job_id == _OF_JOB, is_status(chunks.c.status, ChunkStatus.FAILED))
    .order_by(chunks.c.chunk_index)
    .limit(_LIMIT)
)
RESERVED = (
    sa.select(chunks.c.chunk_index, chunks.c.reservations)
    .where(
        chunks.c.job_id == _OF_JOB,
        is_status(chunks.c.status, ChunkStatus.COMPLETED),
        chunks.c.reservations.is_not(None),
    )
    .order_by(chunks.c.chunk_index)
    .limit(_LIMIT)
)
_SET_ERROR = sa.update(jobs).where(jobs.c.id == _OF_JOB).values(error=sa.bindparam("new_error", type_=sa.Text))

_MINE = sa.and_(
    chunks.c.id == sa.bindparam("of_chunk", type_=sa.String),
    chunks.c.attempt == sa.bindparam("of_attempt", type_=sa.Integer),
    is_status(chunks.c.status, ChunkStatus.PROCESSING),
)
_RESERVE = (
    sa.update(chunks)
    .where(_MINE)
    .values(reservations=sa.bindparam("new_reservations", type_=chunks.c.reservations.type))
    .returning(chunks.c.id)
)


def reserve(conn: Connection, chunk_id: str, *, attempt: int, reservations: Sequence[Mapping[str, Any]]) -> bool:
    """Note the pages that this attempt could not wholly read, all of them so far: each a ``page`` and a ``message``.
    False where the attempt is no longer the one that counts.
    """
    values = {"of_chunk": chunk_id, "of_attempt": attempt, "new_reservations": list(reservations)}
    return conn.execute(_RESERVE, values).first() is not None


def restate_error(conn: Connection, job: JobRow) -> JobRow:
    """Say in the job's row what it falls short of: the first failed chunk's own sentence, or the first such page's,
    then how many more there are. In the transaction that changed the counts, and of its version.
    """
    error = _sentence(conn, job)
    if error == job.error:
        return job
    conn.execute(_SET_ERROR, {"of_job": job.id, "new_error": error})
    return replace(job, error=error)


def _not_whole(unit: str) -> tuple[str, str]:
    """What is said of one such unit, and of several. Pages are read; of others nobody knows the singular."""
    if unit == "pages":
        return "page was not wholly read", "pages were not wholly read"
    return f"of the {unit} was not wholly done", f"of the {unit} were not wholly done"


def _sentence(conn: Connection, job: JobRow) -> str | None:
    first = conn.execute(FAILED, {"of_job": job.id, "limit": 1}).first() if job.failed_chunks else None
    units = _not_whole(job.unit)
    rest = [(job.failed_chunks - 1, "chunk failed", "chunks failed"), (job.reservations, *units)]
    if first is not None:
        sentence = job.failure(first).message
    else:
        reserved = conn.execute(RESERVED, {"of_job": job.id, "limit": 1}).first() if job.reservations else None
        if reserved is None:
            return None
        sentence = reserved.reservations[0]["message"]
        rest = [(job.reservations - 1, *units)]
    more = [f"{count} more {one if count == 1 else many}" for count, one, many in rest if count > 0]
    return "; ".join([sentence, *more])
