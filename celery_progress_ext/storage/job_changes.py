"""Guarded changes of a job as a whole: created, cancelled, failed, retried, or told its stage by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celery_progress_ext.chunks import Chunk
from celery_progress_ext.history import EventType
from celery_progress_ext.jobs import BY_HAND, JOB_TRANSITIONS, RETRYABLE, JobStatus
from celery_progress_ext.stages import PIPELINE_STAGES, Stage, StageName, earlier
from celery_progress_ext.stages import stage as stage_row
from celery_progress_ext.storage import events as history
from celery_progress_ext.storage.connection import Connection
from celery_progress_ext.storage.counters import message_sql
from celery_progress_ext.storage.database import Database, Row, Stale, execute, execute_one
from celery_progress_ext.storage.json_rows import json_rows


@dataclass(frozen=True, kw_only=True, slots=True)
class NewChunk:
    """A chunk before it is published: its range, its task id and the signature it is sent with, as JSON."""

    id: str
    chunk: Chunk
    task_id: str
    signature: str


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """A job before anything of it is published."""

    id: str
    matter_id: str
    document_id: str
    unit: str
    on_chunk_failure: str
    metadata: Mapping[str, Any]
    body_task_id: str
    body_signature: Mapping[str, Any]
    chunks: Sequence[NewChunk]


_INSERT_JOB = """
INSERT INTO processing_jobs (id, matter_id, document_id, status, stage_name, stage, metadata, unit, on_chunk_failure,
    total_chunks, pending_chunks, pages_total, body_signature, body_task_id, created_at, updated_at)
VALUES (:id, :matter_id, :document_id, 'PENDING', :stage_name, :stage, :metadata, :unit, :on_chunk_failure,
    :total, :total, :pages, :body_signature, :body_task_id, {now}, {now})
ON CONFLICT (id) DO NOTHING
RETURNING *, {now} AS now
"""
_INSERT_CHUNKS = {
    dialect: f"""
    INSERT INTO document_ocr_chunks (id, job_id, document_id, chunk_index, page_start, page_end, status, task_id,
        signature, leased_until)
    SELECT chunk_id, :job_id, :document_id, place, first, last, 'pending', sent_as, {sent}, {{now}} + :due
    FROM {json_rows(dialect, chunk_id="text", place="int", first="int", last="int", sent_as="text", sent="text")} AS new
    """
    for dialect, sent in (("sqlite", "sent"), ("postgresql", "CAST(sent AS jsonb)"))
}
#: Rows whose JSON is in memory at once.
_BATCH = 200


def create(conn: Connection, new: NewJob, *, due: float) -> Row | None:
    """Insert the job and its chunks; each chunk should be started within ``due`` seconds.

    None where the job exists already: a chain's step that a redelivery runs again.
    """
    queued = stage_row(StageName.QUEUED)
    job = execute_one(
        conn,
        _INSERT_JOB,
        id=new.id,
        matter_id=new.matter_id,
        document_id=new.document_id,
        stage_name=queued.name.value,
        stage=queued.format(total=len(new.chunks)),
        metadata=json.dumps(dict(new.metadata)),
        unit=new.unit,
        on_chunk_failure=new.on_chunk_failure,
        total=len(new.chunks),
        pages=sum(row.chunk.pages for row in new.chunks),
        body_signature=json.dumps(new.body_signature),
        body_task_id=new.body_task_id,
    )
    if job is None:
        return None
    for first in range(0, len(new.chunks), _BATCH):
        rows = [
            {
                "chunk_id": row.id,
                "place": row.chunk.index,
                "first": row.chunk.page_start,
                "last": row.chunk.page_end,
                "sent_as": row.task_id,
                "sent": row.signature,
            }
            for row in new.chunks[first : first + _BATCH]
        ]
        execute(
            conn,
            _INSERT_CHUNKS[conn.dialect],
            job_id=new.id,
            document_id=new.document_id,
            due=due,
            rows=json.dumps(rows),
        )
    history.record(conn, job, EventType.JOB_CREATED)
    return job


def _statuses(statuses: frozenset[JobStatus]) -> str:
    return ", ".join(f"'{status}'" for status in sorted(statuses))


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A run that was ended: the job's row, and the tasks of it that may still be queued or running.

    Read in the same transaction: a retry that comes right after it sends tasks of its own, which are not to be stopped.
    """

    job: Row
    task_ids: list[str]


_STILL_SENT = "SELECT task_id FROM document_ocr_chunks WHERE job_id = :id AND status = 'pending'"
_UNFINISHED = """
UPDATE document_ocr_chunks SET status = 'pending', leased_until = NULL, started_at = NULL, progressed_at = NULL
WHERE job_id = :id AND status = 'processing'
"""
_END = """
UPDATE processing_jobs SET status = :status, error = :error, pending_chunks = pending_chunks + processing_chunks,
    processing_chunks = 0, body_leased_until = NULL, body_due_at = NULL, chord_intact = FALSE_,
    finished_at = {now}, updated_at = {now}, version = version + 1
WHERE id = :id AND status IN (LEGAL) AND body_attempt = COALESCE(:body_attempt, body_attempt)
RETURNING *, {now} AS now
"""
_END_SQL = {
    status: _END.replace("LEGAL", _statuses(JOB_TRANSITIONS[status])).replace("FALSE_", "(1 = 0)")
    for status in (JobStatus.FAILED, JobStatus.CANCELLED)
}
_END_EVENTS = {JobStatus.FAILED: EventType.JOB_FAILED, JobStatus.CANCELLED: EventType.JOB_CANCELLED}


def end(
    conn: Connection, job_id: str, status: JobStatus, *, error: str | None, body_attempt: int | None = None
) -> Ended:
    """End a run before its merge is done: FAILED or CANCELLED. What was finished is kept.

    Chunks are locked before the job, here and everywhere, so that two changes do not wait for each other.

    :raises Stale: where the job is not active, or ``body_attempt`` is out of date.
    """
    execute(conn, _UNFINISHED, id=job_id)
    job = execute_one(conn, _END_SQL[status], id=job_id, status=status.value, error=error, body_attempt=body_attempt)
    if job is None:
        raise Stale
    history.record(conn, job, _END_EVENTS[status], message=error)
    chunks = execute(conn, _STILL_SENT, id=job_id)
    return Ended(job=job, task_ids=[*(row["task_id"] for row in chunks), job["body_task_id"]])


#: A worker keeps 50,000 (``CELERY_WORKER_REVOKES_MAX``), of every application.
_CALLED_OFF_LIMIT = 10_000
_CALLED_OFF = f"""
SELECT c.task_id FROM processing_jobs j JOIN document_ocr_chunks c ON c.job_id = j.id AND c.status = 'pending'
WHERE j.status IN ({_statuses(frozenset(_END_SQL))}) AND j.finished_at > {{now}} - :seconds
ORDER BY j.finished_at DESC LIMIT {_CALLED_OFF_LIMIT}
"""


def called_off(database: Database, *, seconds: float) -> list[str]:
    """Chunks' tasks of runs that were ended within the last ``seconds``; their messages may still be in the queue."""
    return [row["task_id"] for row in database.rows(_CALLED_OFF, seconds=seconds)]


_REOPEN_CHUNKS = """
UPDATE document_ocr_chunks SET status = 'pending', dispatches = dispatches + 1, tries = 0, error = NULL,
    leased_until = {now} + :due, task_id = id || '.' || CAST(dispatches + 1 AS TEXT),
    started_at = NULL, progressed_at = NULL, finished_at = NULL
WHERE job_id = :id AND status IN ('failed', 'pending')
"""
_REOPEN = f"""
UPDATE processing_jobs SET status = 'PROCESSING', stage_name = '{StageName.CHUNK_PROCESSING}',
    stage = {message_sql(stage_row(StageName.CHUNK_PROCESSING), completed="completed_chunks", total="total_chunks")},
    error = NULL, finished_at = NULL, merge_started_at = NULL, merge_pages_done = 0,
    pending_chunks = pending_chunks + failed_chunks, failed_chunks = 0,
    body_attempt = body_attempt + 1, body_tries = 0, body_leased_until = NULL,
    body_due_at = CASE WHEN completed_chunks = total_chunks THEN {{now}} ELSE NULL END,
    run = run + 1, updated_at = {{now}}, version = version + 1
WHERE id = :id AND status IN ({_statuses(RETRYABLE)})
RETURNING *, {{now}} AS now
"""


def reopen(conn: Connection, job_id: str, *, due: float) -> Row:
    """Begin a new run of what did not finish. The caller sends its chunks; each should be started in ``due`` seconds.

    It takes a body attempt of its own, so that what a merge of the run before still says is out of date.

    :raises Stale: where the job may not be retried, as for the second of two people who press retry.
    """
    execute(conn, _REOPEN_CHUNKS, id=job_id, due=due)
    job = execute_one(conn, _REOPEN, id=job_id)
    if job is None:
        raise Stale
    history.record(conn, job, EventType.JOB_RETRIED)
    return job


_STATUS = """
UPDATE processing_jobs SET status = :status, stage = :stage, stage_name = :stage_name,
    progress_pct = CASE WHEN :pct > progress_pct THEN :pct ELSE progress_pct END,
    metadata = :metadata, error = COALESCE(:error, error),
    finished_at = CASE WHEN :terminal = 1 THEN {now} ELSE finished_at END,
    updated_at = {now}, version = version + 1
WHERE id = :id AND version = :version
RETURNING *, {now} AS now
"""
_BY_ID = "SELECT * FROM processing_jobs WHERE id = :id"
_UPDATE_TRIES = 20


def update_status(
    conn: Connection,
    job_id: str,
    *,
    status: JobStatus,
    stage: str | None,
    progress_pct: int | None,
    metadata: Mapping[str, Any] | None,
    error: str | None,
) -> Row | None:
    """What a caller says of a job it tracks by hand; None where the transition is not legal or the job unknown.

    The percent never goes down, a stage never goes back to an earlier one, and metadata is merged.
    """
    for _ in range(_UPDATE_TRIES):
        row = execute_one(conn, _BY_ID, id=job_id)
        if row is None or JobStatus(row["status"]) not in BY_HAND[status]:
            return None
        merged = {**as_json(row["metadata"]), **(metadata or {})}
        name = _stage_name(stage, row["stage_name"])
        if stage is None or earlier(name, row["stage_name"]):
            stage, name = row["stage"], row["stage_name"]
        updated = execute_one(
            conn,
            _STATUS,
            id=job_id,
            version=row["version"],
            status=status.value,
            stage=stage,
            stage_name=name,
            pct=progress_pct if progress_pct is not None else row["progress_pct"],
            metadata=json.dumps(merged),
            error=error,
            terminal=int(status.terminal),
        )
        if updated is not None:
            history.record(conn, updated, EventType.STATUS_UPDATED, message=updated["stage"])
            return updated
    return None


def _stage_name(message: str | None, current: str) -> str:
    """The stage whose message this is; an own message leaves the stage where it is."""
    if message is None:
        return current
    for row in PIPELINE_STAGES:
        if _matches(row, message):
            return row.name.value
    return current


def _matches(row: Stage, message: str) -> bool:
    return message.startswith(row.message.split("{", 1)[0])


def as_json(value: Any) -> Any:
    """A JSON column of a textual query: PostgreSQL's driver has parsed it, SQLite's has not."""
    return json.loads(value) if isinstance(value, str) else value
