"""Guarded changes of a job as a whole: created, cancelled, failed, retried, or given a status by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from celery_progress_ext.chunks import UNFINISHED, Chunk, ChunkStatus
from celery_progress_ext.history import EventType
from celery_progress_ext.jobs import JOB_TRANSITIONS, MANUAL_TRANSITIONS, RETRYABLE, JobShape, JobStatus
from celery_progress_ext.stages import PIPELINE_STAGES, Stage, StageName, earlier
from celery_progress_ext.stages import stage as stage_row
from celery_progress_ext.storage import events
from celery_progress_ext.storage.counters import COUNTERS, stage_message
from celery_progress_ext.storage.database import Database, Stale
from celery_progress_ext.storage.expressions import now
from celery_progress_ext.storage.rows import JOB_COLUMNS, JobRow, has_status, is_status, unfinished
from celery_progress_ext.storage.schema import document_ocr_chunks as chunks
from celery_progress_ext.storage.schema import processing_jobs as jobs
from celery_progress_ext.titles import search_key


@dataclass(frozen=True, kw_only=True, slots=True)
class NewChunk:
    """A chunk before it is published: its range, its task id and the signature that it is sent with."""

    id: str
    chunk: Chunk
    task_id: str
    signature: Mapping[str, Any]
    #: What it is expected to cost; its pages unless given.
    cost: float | None = None
    #: Whether its size is what its task reports as the total.
    grows: bool = False


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """A job before anything of it is published."""

    id: str
    matter_id: str | None
    document_id: str | None
    unit: str
    on_chunk_failure: str
    metadata: Mapping[str, Any]
    body_task_id: str
    body_signature: Mapping[str, Any]
    chunks: Sequence[NewChunk]
    #: What runs after the job: see :class:`Followers`.
    followers: Mapping[str, Any]
    kind: str | None = None
    #: Where its messages go, as the column says.
    queues: Mapping[str, Any] | None = None
    #: What people call it; a job without a title is found by its document's id.
    title: str | None = None
    #: What it is published as, where it has no body.
    shape: JobShape | None = None
    #: The merge's stage, where it is not the one of `stages`.
    merge_message: str | None = None
    #: Whether its chunks have ranges that a message can name.
    ranged: bool = True


_OF_JOB = sa.bindparam("of_job", type_=sa.String)
_INSERT_JOB: dict[str, Any] = {
    "sqlite": sqlite.insert(jobs),
    "postgresql": postgresql.insert(jobs),
}
_CREATE = {
    dialect: insert.values(
        created_at=now(), updated_at=now(), publishing_until=now() + sa.bindparam("new_lease", type_=sa.Double)
    )
    .on_conflict_do_nothing(index_elements=[jobs.c.id])
    .returning(*JOB_COLUMNS)
    for dialect, insert in _INSERT_JOB.items()
}
_INSERT_CHUNK = sa.insert(chunks).values(leased_until=now() + sa.bindparam("new_due", type_=sa.Double))
#: Rows whose JSON is in memory at once.
_BATCH = 200


def create(
    conn: Connection, new: NewJob, *, due: float, lease: float | None = None, merge_share: float | None = None
) -> JobRow | None:
    """Insert the job and its chunks, none of them sent; each should be started within ``due`` seconds.

    :param lease: for how many seconds the caller is taken to be at work on sending them; ``due`` unless given.
    :param merge_share: which part of its whole work the merge is taken to be.

    None where the job exists already: a chain's step that a redelivery runs again.
    """
    queued = stage_row(StageName.QUEUED)
    row = conn.execute(
        _CREATE[conn.dialect.name],
        {
            "id": new.id,
            "matter_id": new.matter_id,
            "document_id": new.document_id,
            "status": JobStatus.PENDING.value,
            "stage_name": queued.name.value,
            "stage": queued.format(total=len(new.chunks)),
            "metadata": dict(new.metadata),
            "unit": new.unit,
            "on_chunk_failure": new.on_chunk_failure,
            "total_chunks": len(new.chunks),
            "pending_chunks": len(new.chunks),
            "pages_total": sum(row.chunk.pages for row in new.chunks),
            "body_signature": new.body_signature,
            "body_task_id": new.body_task_id,
            "followers": dict(new.followers),
            "kind": new.kind,
            "cost_total": sum(row.chunk.pages if row.cost is None else row.cost for row in new.chunks),
            "cost_done": 0.0,
            "merge_share": merge_share,
            "queues": new.queues,
            "title": new.title,
            "title_key": search_key(new.title or new.document_id or ""),
            "shape": new.shape,
            "merge_message": new.merge_message,
            "ranged": new.ranged,
            "new_lease": due if lease is None else lease,
        },
    ).first()
    if row is None:
        return None
    for first in range(0, len(new.chunks), _BATCH):
        conn.execute(
            _INSERT_CHUNK,
            [
                {
                    "id": row.id,
                    "job_id": new.id,
                    "document_id": new.document_id,
                    "chunk_index": row.chunk.index,
                    "page_start": row.chunk.page_start,
                    "page_end": row.chunk.page_end,
                    "status": ChunkStatus.PENDING.value,
                    "task_id": row.task_id,
                    "signature": row.signature,
                    "sent_at": 0.0,
                    "cost": row.cost,
                    "size": row.chunk.size,
                    "grows": row.grows or None,
                    "new_due": due,
                }
                for row in new.chunks[first : first + _BATCH]
            ],
        )
    job = JobRow.of(row)
    events.record(conn, job, EventType.JOB_CREATED)
    return job


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A run that was ended: the job's row, and the tasks of it that may still be queued or running.

    Read in the same transaction: a retry that comes right after it sends tasks of its own, which are not to be stopped.
    """

    job: JobRow
    task_ids: list[str]


_LOCK_UNFINISHED = (
    sa.select(chunks.c.task_id).where(chunks.c.job_id == _OF_JOB, unfinished).order_by(chunks.c.id).with_for_update()
)
_LOCK_JOB = sa.select(jobs.c.id).where(jobs.c.id == _OF_JOB).with_for_update()


def lock_run(conn: Connection, job_id: str) -> list[str]:
    """Lock every chunk of a job that is unfinished, then the job; the tasks of those chunks.

    From here to the end of the transaction no start, completion or failure of the run is half seen: one that began
    before is waited for, and one that comes later finds what this transaction made of the job.
    """
    tasks = list(conn.execute(_LOCK_UNFINISHED, {"of_job": job_id}).scalars())
    conn.execute(_LOCK_JOB, {"of_job": job_id})
    return tasks


_FAILS_WITH_A_CHUNK = sa.select(jobs.c.id).where(jobs.c.id == _OF_JOB, jobs.c.on_chunk_failure == "fail")


def lock_run_that_fails(conn: Connection, job_id: str) -> None:
    """:func:`lock_run` for a job that its first failed chunk ends: chunks cannot be locked after the job any more."""
    if conn.execute(_FAILS_WITH_A_CHUNK, {"of_job": job_id}).first() is not None:
        lock_run(conn, job_id)


def _recounted(status: ChunkStatus) -> sa.ScalarSelect[int]:
    return (
        sa.select(sa.func.count())
        .select_from(chunks)
        .where(chunks.c.job_id == jobs.c.id, is_status(chunks.c.status, status))
        .scalar_subquery()
    )


_RECOUNT = {column: _recounted(status) for status, column in COUNTERS.items() if status in UNFINISHED}
_RECOUNT_ALL = {column: _recounted(status) for status, column in COUNTERS.items()}
_HAND_BACK = (
    sa.update(chunks)
    .where(chunks.c.job_id == _OF_JOB, is_status(chunks.c.status, ChunkStatus.PROCESSING))
    .values(status=ChunkStatus.PENDING.value, leased_until=None, started_at=None, progressed_at=None)
)
_END = {
    status: sa.update(jobs)
    .where(
        jobs.c.id == _OF_JOB,
        has_status(jobs.c.status, JOB_TRANSITIONS[status]),
        jobs.c.body_attempt == sa.func.coalesce(sa.bindparam("of_attempt", type_=sa.Integer), jobs.c.body_attempt),
    )
    .values(
        {
            jobs.c.status: status.value,
            jobs.c.error: sa.bindparam("new_error", type_=sa.Text),
            **_RECOUNT,
            jobs.c.body_leased_until: None,
            jobs.c.body_due_at: None,
            jobs.c.chord_intact: False,
            jobs.c.finished_at: now(),
            jobs.c.updated_at: now(),
            jobs.c.version: jobs.c.version + 1,
        }
    )
    .returning(*JOB_COLUMNS)
    for status in (JobStatus.FAILED, JobStatus.CANCELLED)
}
_END_EVENTS = {JobStatus.FAILED: EventType.JOB_FAILED, JobStatus.CANCELLED: EventType.JOB_CANCELLED}


def end(
    conn: Connection, job_id: str, status: JobStatus, *, error: str | None, body_attempt: int | None = None
) -> Ended:
    """End a run before its merge is done: FAILED or CANCELLED. What was finished is kept.

    :raises Stale: where the job is not active, or ``body_attempt`` is out of date.
    """
    tasks = lock_run(conn, job_id)
    conn.execute(_HAND_BACK, {"of_job": job_id})
    row = conn.execute(_END[status], {"of_job": job_id, "new_error": error, "of_attempt": body_attempt}).first()
    if row is None:
        raise Stale
    job = JobRow.of(row)
    events.record(conn, job, _END_EVENTS[status], message=error)
    return Ended(job=job, task_ids=[*tasks, *([job.body_task_id] if job.has_body else [])])


#: A worker keeps 50,000 (``CELERY_WORKER_REVOKES_MAX``), of every application.
_CALLED_OFF_LIMIT = 10_000
_CALLED_OFF = (
    sa.select(chunks.c.task_id)
    .join(jobs, jobs.c.id == chunks.c.job_id)
    .where(
        is_status(chunks.c.status, ChunkStatus.PENDING),
        has_status(jobs.c.status, frozenset(_END)),
        jobs.c.finished_at > now() - sa.bindparam("seconds", type_=sa.Double),
    )
    .order_by(jobs.c.finished_at.desc())
    .limit(_CALLED_OFF_LIMIT)
)


def called_off(database: Database, *, seconds: float) -> list[str]:
    """Chunks' tasks of runs that were ended within the last ``seconds``; their messages may still be in the queue."""
    return [row.task_id for row in database.rows(_CALLED_OFF, seconds=seconds)]


_RESERVED = sa.and_(is_status(chunks.c.status, ChunkStatus.COMPLETED), chunks.c.reservations.is_not(None))
_WITHOUT_ALL = sa.and_(
    chunks.c.job_id == _OF_JOB,
    sa.or_(has_status(chunks.c.status, UNFINISHED | {ChunkStatus.FAILED}), _RESERVED),
)
_LOCK_REOPENED = (
    sa.select(chunks.c.status, chunks.c.chunk_index, chunks.c.attempt)
    .where(_WITHOUT_ALL)
    .order_by(chunks.c.id)
    .with_for_update()
)
_REOPEN_CHUNKS = (
    sa.update(chunks)
    .where(_WITHOUT_ALL)
    .values(
        {
            chunks.c.status: ChunkStatus.PENDING.value,
            chunks.c.dispatches: chunks.c.dispatches + 1,
            chunks.c.tries: 0,
            chunks.c.error: None,
            chunks.c.leased_until: now() + sa.bindparam("new_due", type_=sa.Double),
            # As `ids.chunk_task_id` has it.
            chunks.c.task_id: chunks.c.id.concat(".").concat(sa.cast(chunks.c.dispatches + 1, sa.Text)),
            chunks.c.started_at: None,
            chunks.c.progressed_at: None,
            chunks.c.finished_at: None,
            chunks.c.sent_at: 0.0,
            # An empty list marks a chunk whose pages are to be read again: an earlier message's success does not count.
            chunks.c.reservations: sa.case(
                (chunks.c.reservations.is_(None), None), else_=sa.literal([], chunks.c.reservations.type)
            ),
        }
    )
)
_REOPEN = (
    sa.update(jobs)
    .where(jobs.c.id == _OF_JOB, has_status(jobs.c.status, RETRYABLE))
    .values(
        {
            jobs.c.status: JobStatus.PROCESSING.value,
            jobs.c.stage_name: StageName.CHUNK_PROCESSING.value,
            jobs.c.stage: stage_message(
                stage_row(StageName.CHUNK_PROCESSING),
                completed=_recounted(ChunkStatus.COMPLETED),
                total=jobs.c.total_chunks,
            ),
            jobs.c.error: None,
            jobs.c.finished_at: None,
            jobs.c.merge_started_at: None,
            jobs.c.merge_pages_done: 0,
            jobs.c.work_floor: None,
            **_RECOUNT_ALL,
            jobs.c.progress_pct: _recounted(ChunkStatus.COMPLETED) * 100 // jobs.c.total_chunks,
            jobs.c.reservations: 0,
            jobs.c.body_attempt: jobs.c.body_attempt + 1,
            jobs.c.body_tries: 0,
            jobs.c.body_leased_until: None,
            jobs.c.body_due_at: sa.case((_recounted(ChunkStatus.COMPLETED) == jobs.c.total_chunks, now()), else_=None),
            jobs.c.body_sent_at: None,
            jobs.c.publishing_until: now() + sa.bindparam("new_due", type_=sa.Double),
            jobs.c.followed_at: None,
            jobs.c.result: None,
            jobs.c.run: jobs.c.run + 1,
            jobs.c.updated_at: now(),
            jobs.c.version: jobs.c.version + sa.bindparam("new_changes", type_=sa.Integer),
        }
    )
    .returning(*JOB_COLUMNS)
)


def reopen(conn: Connection, job_id: str, *, due: float) -> JobRow:
    """Begin a new run of what did not finish, or was not wholly read. The caller sends its chunks; each should be
    started within ``due`` seconds.

    It takes a body attempt of its own, so that what a merge of the run before still reports is out of date.

    :raises Stale: where the job may not be retried, as for the second of two people who press retry.
    """
    reopened = conn.execute(_LOCK_REOPENED, {"of_job": job_id}).all()
    conn.execute(_LOCK_JOB, {"of_job": job_id})
    conn.execute(_REOPEN_CHUNKS, {"of_job": job_id, "new_due": due})
    again = [chunk for chunk in reopened if chunk.status == ChunkStatus.COMPLETED]
    row = conn.execute(_REOPEN, {"of_job": job_id, "new_due": due, "new_changes": 1 + len(again)}).first()
    if row is None:
        raise Stale
    job = JobRow.of(row)
    first = job.version - len(again)
    events.record(conn, replace(job, version=first), EventType.JOB_RETRIED)
    for version, chunk in enumerate(again, first + 1):
        events.record(
            conn,
            replace(job, version=version),
            EventType.CHUNK_REOPENED,
            chunk_index=chunk.chunk_index,
            attempt=chunk.attempt,
        )
    return job


_BY_ID = sa.select(*JOB_COLUMNS).where(jobs.c.id == _OF_JOB)
_UPDATE_STATUS = (
    sa.update(jobs)
    .where(jobs.c.id == _OF_JOB, jobs.c.version == sa.bindparam("of_version"))
    .values(
        {
            jobs.c.status: sa.bindparam("new_status"),
            jobs.c.stage: sa.bindparam("new_stage"),
            jobs.c.stage_name: sa.bindparam("new_stage_name"),
            jobs.c.progress_pct: sa.bindparam("new_pct"),
            jobs.c.metadata: sa.bindparam("new_metadata", type_=jobs.c.metadata.type),
            jobs.c.error: sa.func.coalesce(sa.bindparam("new_error", type_=sa.Text), jobs.c.error),
            jobs.c.finished_at: sa.case(
                (sa.bindparam("new_terminal", type_=sa.Boolean), now()), else_=jobs.c.finished_at
            ),
            jobs.c.updated_at: now(),
            jobs.c.version: jobs.c.version + 1,
        }
    )
    .returning(*JOB_COLUMNS)
)
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
) -> JobRow | None:
    """Record the status of a job that is tracked by hand; None where the transition is not legal or the job unknown.

    The percent never goes down, a stage never goes back to an earlier one, and metadata is merged into what is there.
    """
    for _ in range(_UPDATE_TRIES):
        found = conn.execute(_BY_ID, {"of_job": job_id}).first()
        if found is None:
            return None
        row = JobRow.of(found)
        if row.status not in MANUAL_TRANSITIONS[status]:
            return None
        name = _stage_name(stage, row.stage_name)
        if stage is None or earlier(name, row.stage_name):
            stage, name = row.stage, row.stage_name
        updated = conn.execute(
            _UPDATE_STATUS,
            {
                "of_job": job_id,
                "of_version": row.version,
                "new_status": status.value,
                "new_stage": stage,
                "new_stage_name": name,
                "new_pct": max(row.progress_pct, progress_pct or 0),
                "new_metadata": {**row.metadata, **(metadata or {})},
                "new_error": error,
                "new_terminal": status.terminal,
            },
        ).first()
        if updated is not None:
            job = JobRow.of(updated)
            events.record(conn, job, EventType.STATUS_UPDATED, message=job.stage)
            return job
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
