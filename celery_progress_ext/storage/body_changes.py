"""The merge, once: a body is claimed with a lease and an attempt, and only its claimer may finish the job. A job that
has none ends with its last chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from celery_progress_ext.calibration import Promise
from celery_progress_ext.history import EventType
from celery_progress_ext.jobs import JobStatus
from celery_progress_ext.stages import StageName, stage
from celery_progress_ext.storage import events
from celery_progress_ext.storage.expressions import now, share_of
from celery_progress_ext.storage.rows import JOB_COLUMNS, JobRow, active, has_body, is_status, settled
from celery_progress_ext.storage.schema import processing_jobs as jobs
from celery_progress_ext.storage.shortfalls import restate_error
from celery_progress_ext.waiting import MERGE_SHARE

_OF_JOB = jobs.c.id == sa.bindparam("of_job", type_=sa.String)
_LEASE = sa.bindparam("new_lease", type_=sa.Double)
_NOT_LEASED = sa.or_(jobs.c.body_leased_until.is_(None), jobs.c.body_leased_until < now())
_CHANGED = {jobs.c.updated_at: now(), jobs.c.version: jobs.c.version + 1}


def _changed(
    conn: Connection, statement: sa.sql.dml.ReturningUpdate[*tuple[Any, ...]], job_id: str, **values: Any
) -> JobRow | None:
    row = conn.execute(statement, {"of_job": job_id, **values}).first()
    return None if row is None else JobRow.of(row)


#: What the bar of work has shown of a merge that is begun again (`waiting.work_pct`).
_MERGE_LEFT = 1.0 - jobs.c.merge_pages_done * 1.0 / jobs.c.pages_done
_WORK_SHOWN = sa.case(
    (
        sa.and_(jobs.c.merge_pages_done > 0, jobs.c.pages_done > 0),
        100.0 * (1.0 - sa.func.coalesce(jobs.c.merge_share, MERGE_SHARE) * _MERGE_LEFT) - 0.1,
    ),
    else_=jobs.c.work_floor,
)
_CLAIM = (
    sa.update(jobs)
    .where(
        _OF_JOB, active, settled, has_body, _NOT_LEASED, jobs.c.body_tries < sa.bindparam("max_tries", type_=sa.Integer)
    )
    .values(
        {
            jobs.c.status: JobStatus.PROCESSING.value,
            jobs.c.stage_name: StageName.MERGE.value,
            jobs.c.stage: sa.func.coalesce(jobs.c.merge_message, stage(StageName.MERGE).format()),
            jobs.c.body_attempt: jobs.c.body_attempt + 1,
            jobs.c.body_tries: jobs.c.body_tries + 1,
            jobs.c.body_task_id: sa.bindparam("new_task_id", type_=sa.String),
            jobs.c.body_leased_until: now() + _LEASE,
            jobs.c.body_due_at: None,
            jobs.c.merge_started_at: now(),
            jobs.c.merge_pages_done: 0,
            jobs.c.work_floor: _WORK_SHOWN,
            **_CHANGED,
        }
    )
    .returning(*JOB_COLUMNS)
)


def claim(
    conn: Connection,
    job_id: str,
    *,
    task_id: str,
    lease: float,
    max_tries: int,
    worker: str | None = None,
    promise: Promise | None = None,
) -> JobRow | None:
    """Take the merge for this delivery; None where it is done, taken, not due yet, or was tried too often.

    :param worker: the process that merges.
    :param promise: the finish time that was given last, for the history.
    """
    job = _changed(conn, _CLAIM, job_id, new_task_id=task_id, new_lease=lease, max_tries=max_tries)
    if job is not None:
        events.record(conn, job, EventType.MERGE_STARTED, attempt=job.body_attempt, worker=worker, promise=promise)
    return job


_MINE = sa.and_(
    _OF_JOB,
    jobs.c.body_attempt == sa.bindparam("of_attempt", type_=sa.Integer),
    is_status(jobs.c.status, JobStatus.PROCESSING),
)
_BEAT = sa.update(jobs).where(_MINE).values(body_leased_until=now() + _LEASE).returning(jobs.c.id)
_DONE = sa.bindparam("new_done", type_=sa.BigInteger)
_TOTAL = sa.bindparam("new_total", type_=sa.BigInteger)
_PROGRESS = (
    sa.update(jobs)
    .where(_MINE)
    .values(
        {
            jobs.c.body_leased_until: now() + _LEASE,
            jobs.c.merge_pages_done: sa.case(
                (_TOTAL > 0, share_of(jobs.c.pages_done, _DONE, _TOTAL)),
                else_=_DONE,
            ),
            **_CHANGED,
        }
    )
    .returning(*JOB_COLUMNS)
)


def beat(conn: Connection, job_id: str, *, attempt: int, lease: float) -> bool:
    """Renew the body's lease; False where another attempt has it or the job ended."""
    found = conn.execute(_BEAT, {"of_job": job_id, "of_attempt": attempt, "new_lease": lease})
    return found.first() is not None


def progress(
    conn: Connection, job_id: str, *, attempt: int, done: int, lease: float, total: int | None = None
) -> JobRow | None:
    """Record how far the merge is and renew its lease; None where another attempt has it or the job ended.

    :param total: of how many steps; the pages that are done unless given.
    """
    return _changed(
        conn, _PROGRESS, job_id, of_attempt=attempt, new_done=max(0, done), new_total=total or 0, new_lease=lease
    )


_NOT_WHOLE = sa.or_(jobs.c.failed_chunks > 0, jobs.c.reservations > 0)
_FINISH = (
    sa.update(jobs)
    .where(_MINE, jobs.c.merge_started_at.is_not(None))
    .values(
        {
            jobs.c.status: sa.case((_NOT_WHOLE, JobStatus.PARTIAL.value), else_=JobStatus.COMPLETED.value),
            jobs.c.error: sa.case((_NOT_WHOLE, jobs.c.error), else_=None),
            jobs.c.result: sa.bindparam("new_result", type_=jobs.c.result.type),
            jobs.c.body_leased_until: None,
            jobs.c.body_due_at: None,
            jobs.c.finished_at: now(),
            **_CHANGED,
        }
    )
    .returning(*JOB_COLUMNS)
)
_FINISHED = {JobStatus.COMPLETED: EventType.JOB_COMPLETED, JobStatus.PARTIAL: EventType.JOB_PARTIAL}


def finish(conn: Connection, job_id: str, *, attempt: int, result: list[Any] | None = None) -> JobRow | None:
    """The merge of this attempt took effect: COMPLETED, or PARTIAL where chunks failed or pages were not wholly read.
    None where it is out of date.

    :param result: what the body returned, in a list of one; None where that is too large to keep.
    """
    job = _changed(conn, _FINISH, job_id, of_attempt=attempt, new_result=result)
    if job is not None:
        events.record(conn, job, _FINISHED[job.status], attempt=attempt)
        if job.status is JobStatus.PARTIAL:
            job = restate_error(conn, job)
    return job


_FAILS = sa.or_(jobs.c.completed_chunks == 0, sa.and_(jobs.c.on_chunk_failure == "fail", jobs.c.failed_chunks > 0))
_END_WITHOUT_BODY = (
    sa.update(jobs)
    .where(_OF_JOB, active, settled, ~has_body, jobs.c.total_chunks > 0)
    .values(
        {
            jobs.c.status: sa.case(
                (_FAILS, JobStatus.FAILED.value),
                (_NOT_WHOLE, JobStatus.PARTIAL.value),
                else_=JobStatus.COMPLETED.value,
            ),
            jobs.c.error: sa.case((_NOT_WHOLE, jobs.c.error), else_=None),
            jobs.c.body_due_at: None,
            jobs.c.finished_at: now(),
            **_CHANGED,
        }
    )
    .returning(*JOB_COLUMNS)
)
_ENDED = {**_FINISHED, JobStatus.FAILED: EventType.JOB_FAILED}


def end_without_body(conn: Connection, job: JobRow) -> JobRow:
    """End a job without a body whose chunks are all terminal, in the transaction that made them so; any other job is
    given back as it is.
    """
    if job.has_body or not job.chunks.settled:
        return job
    ended = _changed(conn, _END_WITHOUT_BODY, job.id)
    if ended is None:
        return job
    events.record(conn, ended, _ENDED[ended.status], message=ended.error)
    return ended


@dataclass(frozen=True, kw_only=True, slots=True)
class BodyDispatch:
    """The body is to be published, by the caller alone: the job, and the signature that it is sent with."""

    job: JobRow
    signature: Mapping[str, Any]


_UNSENT = jobs.c.body_sent_at == 0.0
_TAKE_DISPATCH = (
    sa.update(jobs)
    .where(_OF_JOB, active, settled, has_body, jobs.c.completed_chunks > 0, _NOT_LEASED)
    .values(
        {
            # One that the broker did not take is sent under the same number.
            jobs.c.body_dispatches: jobs.c.body_dispatches + sa.case((_UNSENT, 0), else_=1),
            jobs.c.body_sent_at: 0.0,
            jobs.c.body_due_at: now() + sa.bindparam("new_grace", type_=sa.Double),
            jobs.c.chord_intact: False,
            jobs.c.body_leased_until: None,
            **_CHANGED,
        }
    )
    .returning(*JOB_COLUMNS, jobs.c.body_signature)
)
_WHEN_DUE = _TAKE_DISPATCH.where(sa.or_(jobs.c.body_due_at.is_(None), jobs.c.body_due_at <= now()))
_AT_ONCE = _TAKE_DISPATCH.where(
    sa.not_(jobs.c.chord_intact), jobs.c.body_dispatches == sa.bindparam("of_dispatches", type_=sa.Integer)
)


_NOT_HELD = sa.select(jobs.c.id).where(_OF_JOB).with_for_update(skip_locked=True)


def take_dispatch(
    conn: Connection, job_id: str, *, grace: float, seen_dispatches: int | None = None
) -> BodyDispatch | None:
    """Claim the publishing of the body; None where it is not due, is alive, or was just published by another process.

    :param grace: seconds until the next one may take it.
    :param seen_dispatches: given by the process that recorded the last chunk's end: publish now, unless another has.
    """
    values = {"of_job": job_id, "new_grace": grace}
    if conn.execute(_NOT_HELD, {"of_job": job_id}).first() is None:
        return None  # a body may be about to end the job in the user's own transaction
    if seen_dispatches is None:
        row = conn.execute(_WHEN_DUE, values).first()
    else:
        row = conn.execute(_AT_ONCE, {**values, "of_dispatches": seen_dispatches}).first()
    if row is None:
        return None
    job = JobRow.of(row)
    events.record(conn, job, EventType.BODY_DISPATCHED)
    return BodyDispatch(job=job, signature=row.body_signature)


_OF_DISPATCH = sa.and_(
    _OF_JOB, active, jobs.c.body_dispatches == sa.bindparam("of_dispatches", type_=sa.Integer), _UNSENT
)
_SENT = (
    sa.update(jobs)
    .where(_OF_DISPATCH)
    .values(
        {
            jobs.c.body_sent_at: now(),
            # Not where it was claimed meanwhile.
            jobs.c.body_due_at: sa.case(
                (jobs.c.body_due_at.is_(None), None), else_=now() + sa.bindparam("new_grace", type_=sa.Double)
            ),
        }
    )
)
_NOT_SENT = sa.update(jobs).where(_OF_DISPATCH, jobs.c.body_due_at.is_not(None)).values(body_due_at=now())


def sent(conn: Connection, job_id: str, *, dispatches: int, grace: float) -> None:
    """The broker took the body's message; it should be claimed within ``grace`` seconds."""
    conn.execute(_SENT, {"of_job": job_id, "of_dispatches": dispatches, "new_grace": grace})


def not_sent(conn: Connection, job_id: str, *, dispatches: int) -> None:
    """The broker did not take it: it is due at the next tick."""
    conn.execute(_NOT_SENT, {"of_job": job_id, "of_dispatches": dispatches})


_POSTPONE = (
    sa.update(jobs)
    .where(_OF_JOB, active, settled, _NOT_LEASED, jobs.c.body_due_at <= now())
    .values(body_due_at=now() + sa.bindparam("new_grace", type_=sa.Double))
)


def postpone(conn: Connection, job_id: str, *, grace: float) -> None:
    """The body's message is known to wait, or may be held by a busy worker: look again in ``grace`` seconds."""
    conn.execute(_POSTPONE, {"of_job": job_id, "new_grace": grace})


_RELEASE = (
    sa.update(jobs)
    .where(_MINE)
    .values(
        {
            jobs.c.body_leased_until: None,
            jobs.c.body_tries: jobs.c.body_tries - 1,
            jobs.c.body_due_at: now() + sa.bindparam("new_due", type_=sa.Double),
            **_CHANGED,
        }
    )
    .returning(*JOB_COLUMNS)
)


def release(conn: Connection, job_id: str, *, attempt: int, due: float) -> JobRow | None:
    """The body's task retries itself: it is expected again within ``due`` seconds, and the try does not count."""
    return _changed(conn, _RELEASE, job_id, of_attempt=attempt, new_due=due)
