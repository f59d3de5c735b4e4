"""Deleting jobs: those that retention no longer keeps, and one that a person deletes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from celery_progress_ext.jobs import TERMINAL, ForgottenJob
from celery_progress_ext.storage.database import Database, Stale
from celery_progress_ext.storage.expressions import now
from celery_progress_ext.storage.rows import has_status
from celery_progress_ext.storage.schema import document_ocr_chunks as chunks
from celery_progress_ext.storage.schema import job_kinds as kinds
from celery_progress_ext.storage.schema import processing_jobs as jobs

#: At most so many jobs, and about so many rows, are deleted by one call.
BATCH, ROWS = 500, 50_000

_OLD = jobs.c.finished_at < now() - sa.bindparam("seconds", type_=sa.Double)
_EXPIRED = (
    # There are at most as many events as versions.
    sa.select(jobs.c.id, (jobs.c.total_chunks + jobs.c.version).label("weight"))
    .where(_OLD)
    .order_by(jobs.c.finished_at)
    .limit(BATCH)
)
_OF_JOB = sa.bindparam("of_job", type_=sa.String)
# Chunks before the job, as every transaction locks them: a late success may be on its way.
_LOCK = sa.select(chunks.c.id).where(chunks.c.job_id == _OF_JOB).order_by(chunks.c.id).with_for_update()
_DELETE_ONE = sa.delete(jobs).where(jobs.c.id == _OF_JOB).returning(jobs.c.id, jobs.c.matter_id, jobs.c.document_id)
# The age once more: a job that is retried meanwhile stays.
_DELETE = _DELETE_ONE.where(_OLD)
# So that no more is kept of what past jobs were like than of the jobs.
_DELETE_KINDS = sa.delete(kinds).where(kinds.c.updated_at < now() - sa.bindparam("seconds", type_=sa.Double))


_DELETE_ENDED = _DELETE_ONE.where(has_status(jobs.c.status, TERMINAL))


def delete(conn: Connection, job_id: str) -> ForgottenJob:
    """Delete a job that is over, with its chunks and events.

    :raises Stale: where it is at work, or there is none.
    """
    conn.execute(_LOCK, {"of_job": job_id})
    row = conn.execute(_DELETE_ENDED, {"of_job": job_id}).first()
    if row is None:
        raise Stale
    return ForgottenJob(job_id=row.id, matter_id=row.matter_id, document_id=row.document_id)


def expire(database: Database, *, days: float) -> Iterator[ForgottenJob]:
    """Delete jobs that ended longer ago, with their chunks and events; each is gone, committed, when it is yielded.

    One at a time, until ``ROWS`` rows went with them: a transaction that deletes a million rows would keep every
    writer of an SQLite database waiting.
    """
    seconds, left = days * 86400.0, ROWS
    database.write(lambda conn: conn.execute(_DELETE_KINDS, {"seconds": seconds}))
    for row in database.rows(_EXPIRED, seconds=seconds):
        expired = database.write(partial(_expire, job_id=row.id, seconds=seconds))
        if expired is not None:
            yield expired
        left -= row.weight
        if left <= 0:
            return


def _expire(conn: Connection, job_id: str, seconds: float) -> ForgottenJob | None:
    conn.execute(_LOCK, {"of_job": job_id})
    row = conn.execute(_DELETE, {"of_job": job_id, "seconds": seconds}).first()
    if row is None:
        return None
    return ForgottenJob(job_id=row.id, matter_id=row.matter_id, document_id=row.document_id)
