"""Reads of single rows and short lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from celery_progress_ext import ids
from celery_progress_ext.chunks import ChunkStatus
from celery_progress_ext.jobs import iso
from celery_progress_ext.storage.counters import COUNTERS
from celery_progress_ext.storage.database import Database
from celery_progress_ext.storage.expressions import now
from celery_progress_ext.storage.rows import (
    CHUNK_COLUMNS,
    JOB_COLUMNS,
    ChunkRow,
    JobRow,
    chunk_size,
    is_status,
    unfinished,
)
from celery_progress_ext.storage.schema import document_ocr_chunks as chunks
from celery_progress_ext.storage.schema import processing_jobs as jobs

_OF_JOB = sa.bindparam("of_job", type_=sa.String)
_JOB = sa.select(*JOB_COLUMNS).where(jobs.c.id == _OF_JOB)
_ONE = chunks.c.id == sa.bindparam("of_chunk", type_=sa.String)
_CHUNK = sa.select(*CHUNK_COLUMNS).where(_ONE)
_ABANDONED = _CHUNK.where(
    sa.or_(
        is_status(chunks.c.status, ChunkStatus.PENDING),
        sa.and_(
            is_status(chunks.c.status, ChunkStatus.PROCESSING),
            sa.or_(chunks.c.leased_until < now(), chunks.c.attempt == sa.bindparam("dead_attempt", type_=sa.Integer)),
        ),
    )
)
_UNFINISHED_TASKS = (
    sa.select(chunks.c.task_id).where(chunks.c.job_id == _OF_JOB, unfinished).order_by(chunks.c.chunk_index)
)


def job(database: Database, job_id: str) -> JobRow | None:
    """A job; None where there is none."""
    row = database.row(_JOB, of_job=job_id)
    return None if row is None else JobRow.of(row)


def chunk(database: Database, chunk_id: str) -> ChunkRow | None:
    """A chunk; None where there is none."""
    row = database.row(_CHUNK, of_chunk=chunk_id)
    return None if row is None else ChunkRow.of(row)


_LAST_COMPLETED = (
    sa.select(*CHUNK_COLUMNS)
    .where(chunks.c.job_id == _OF_JOB, is_status(chunks.c.status, ChunkStatus.COMPLETED))
    .order_by(chunks.c.chunk_index.desc())
    .limit(sa.bindparam("limit", type_=sa.Integer))
)


def last_completed_chunks(database: Database, job_id: str, *, limit: int) -> list[ChunkRow]:
    """Completed chunks of a job, the last of the header first."""
    return [ChunkRow.of(row) for row in database.rows(_LAST_COMPLETED, of_job=job_id, limit=limit)]


def abandoned_chunk(database: Database, chunk_id: str, *, dead_attempt: int) -> ChunkRow | None:
    """A chunk, if nobody alive works on it and it is not finished.

    :param dead_attempt: an attempt that is known to be dead although its lease still runs.
    """
    row = database.row(_ABANDONED, of_chunk=chunk_id, dead_attempt=dead_attempt)
    return None if row is None else ChunkRow.of(row)


def unfinished_tasks(database: Database, job_id: str) -> list[str]:
    """The task ids of a job's unfinished chunks, in the order of the header."""
    return [row.task_id for row in database.rows(_UNFINISHED_TASKS, of_job=job_id)]


_TASK_IDS = sa.select(chunks.c.task_id).where(chunks.c.job_id == _OF_JOB).order_by(chunks.c.chunk_index)


def task_ids(database: Database, job_id: str) -> list[str]:
    """The id of each chunk's newest task, in the order of the header."""
    return [row.task_id for row in database.rows(_TASK_IDS, of_job=job_id)]


_KEPT_RESULT = sa.select(chunks.c.result).where(_ONE)


def kept_result(database: Database, chunk_id: str) -> list[object] | None:
    """What a chunk returned, in a list of one; None where that is not kept in its row."""
    row = database.row(_KEPT_RESULT, of_chunk=chunk_id)
    return None if row is None else row.result


_BODY = sa.select(jobs.c.body_signature).where(jobs.c.id == _OF_JOB)


def body_signature(database: Database, job_id: str) -> Mapping[str, Any]:
    """The signature of a job's body."""
    [row] = database.rows(_BODY, of_job=job_id)
    signature: Mapping[str, Any] = row.body_signature
    return signature


_RESULTS = (
    sa.select(chunks.c.chunk_index, chunks.c.task_id, chunks.c.result)
    .where(chunks.c.job_id == _OF_JOB, is_status(chunks.c.status, ChunkStatus.COMPLETED))
    .order_by(chunks.c.chunk_index)
)


def results(database: Database, job_id: str) -> list[tuple[int, str, list[object] | None]]:
    """Index, task id and kept result, in a list of one, of each completed chunk; None where it was too large."""
    return [(row.chunk_index, row.task_id, row.result) for row in database.rows(_RESULTS, of_job=job_id)]


_FIRST_FAILED = (
    sa.select(chunks.c.task_id)
    .where(chunks.c.job_id == _OF_JOB, is_status(chunks.c.status, ChunkStatus.FAILED))
    .order_by(chunks.c.chunk_index)
    .limit(1)
)


def first_failed_task(database: Database, job_id: str) -> str | None:
    """The task id of a job's first failed chunk; None where none failed."""
    row = database.row(_FIRST_FAILED, of_job=job_id)
    return None if row is None else str(row.task_id)


def job_ids(database: Database, text: str, *, limit: int) -> list[str]:
    """The job of this id; where there is none, the ids that begin so, at most ``limit``."""
    exact = database.row(sa.select(jobs.c.id).where(jobs.c.id == text))
    if exact is not None:
        return [exact.id]
    beginnings = [jobs.c.id.startswith(prefix, autoescape=True) for prefix in ids.prefixes(text)]
    if not beginnings:
        return []
    query = sa.select(jobs.c.id).where(sa.or_(*beginnings)).order_by(jobs.c.id).limit(limit)
    return [row.id for row in database.rows(query)]


_BY_STATUS = sa.select(
    jobs.c.status,
    sa.func.count().label("jobs"),
    *(sa.func.sum(column).label(status.value) for status, column in COUNTERS.items()),
    sa.func.sum(jobs.c.pages_done).label("pages"),
).group_by(jobs.c.status)


def counts_by_status(database: Database) -> dict[str, dict[str, int]]:
    """By a job's status: how many ``jobs``, their ``pages`` done, and their chunks by status."""
    return {
        row.status: {name: int(value) for name, value in row._mapping.items() if name != "status"}
        for row in database.rows(_BY_STATUS)
    }


_OF_DOCUMENT = (
    sa.select(*JOB_COLUMNS)
    .where(jobs.c.document_id == sa.bindparam("of_document", type_=sa.String))
    .order_by(jobs.c.created_at.desc())
)
_NEWEST_OF_DOCUMENT = _OF_DOCUMENT.limit(1)


def newest_of_document(database: Database, document_id: str) -> JobRow | None:
    """The newest job over a document; None where there is none."""
    row = database.row(_NEWEST_OF_DOCUMENT, of_document=document_id)
    return None if row is None else JobRow.of(row)


def jobs_of_document(database: Database, document_id: str) -> list[JobRow]:
    """The jobs over a document, the newest first."""
    return [JobRow.of(row) for row in database.rows(_OF_DOCUMENT, of_document=document_id)]


_TIMES = ("started_at", "progressed_at", "finished_at", "leased_until")
_CHUNK_LIST = (
    sa.select(
        chunks.c.id,
        chunks.c.chunk_index,
        chunks.c.page_start,
        chunks.c.page_end,
        chunk_size.label("pages"),
        chunks.c.status,
        chunks.c.attempt,
        chunks.c.dispatches,
        chunks.c.task_id,
        chunks.c.pages_done,
        *(chunks.c[name] for name in _TIMES),
        chunks.c.error,
        chunks.c.worker,
    )
    .where(chunks.c.job_id == _OF_JOB)
    .order_by(chunks.c.chunk_index)
)


def chunk_list(database: Database, job_id: str) -> list[dict[str, Any]]:
    """A job's chunks in order, as a program reads them: times are ISO 8601 texts."""
    return [
        {name: iso(value) if name in _TIMES else value for name, value in row._mapping.items()}
        for row in database.rows(_CHUNK_LIST, of_job=job_id)
    ]
