"""The merge, once: a body is claimed with a lease and an attempt, and only its claimer may finish the job."""

from __future__ import annotations

from celery_progress_ext.history import EventType
from celery_progress_ext.jobs import JobStatus
from celery_progress_ext.stages import StageName, stage
from celery_progress_ext.storage import events as history
from celery_progress_ext.storage.connection import Connection
from celery_progress_ext.storage.database import Row, execute, execute_one

_CLAIM = f"""
UPDATE processing_jobs SET status = 'PROCESSING', stage_name = '{StageName.MERGE}', stage = :stage,
    body_attempt = body_attempt + 1, body_tries = body_tries + 1, body_task_id = :task_id,
    body_leased_until = {{now}} + :lease, body_due_at = NULL, merge_started_at = {{now}}, merge_pages_done = 0,
    updated_at = {{now}}, version = version + 1
WHERE id = :id AND status IN ('PENDING', 'PROCESSING') AND completed_chunks + failed_chunks = total_chunks
  AND (body_leased_until IS NULL OR body_leased_until < {{now}}) AND body_tries < :max_tries
RETURNING *, {{now}} AS now
"""


def claim(conn: Connection, job_id: str, *, task_id: str, lease: float, max_tries: int) -> Row | None:
    """Take the merge for this delivery; None where it is done, taken, not due yet, or was tried too often."""
    text = stage(StageName.MERGE).format()
    job = execute_one(conn, _CLAIM, id=job_id, task_id=task_id, lease=lease, stage=text, max_tries=max_tries)
    if job is not None:
        history.record(conn, job, EventType.MERGE_STARTED, attempt=job["body_attempt"])
    return job


_BEAT = """
UPDATE processing_jobs SET body_leased_until = {now} + :lease
WHERE id = :id AND body_attempt = :attempt AND status = 'PROCESSING'
RETURNING id
"""
_PROGRESS = """
UPDATE processing_jobs SET body_leased_until = {now} + :lease, merge_pages_done = :done, updated_at = {now},
    version = version + 1
WHERE id = :id AND body_attempt = :attempt AND status = 'PROCESSING'
RETURNING *, {now} AS now
"""


def beat(conn: Connection, job_id: str, *, attempt: int, lease: float) -> bool:
    """Renew the body's lease; False where another attempt has it or the job ended."""
    return bool(execute(conn, _BEAT, id=job_id, attempt=attempt, lease=lease))


def progress(conn: Connection, job_id: str, *, attempt: int, done: int, lease: float) -> Row | None:
    """Record how far the merge is and renew its lease; None where another attempt has it or the job ended."""
    return execute_one(conn, _PROGRESS, id=job_id, attempt=attempt, done=done, lease=lease)


_FINISH = """
UPDATE processing_jobs SET status = CASE WHEN failed_chunks > 0 THEN 'PARTIAL' ELSE 'COMPLETED' END,
    error = CASE WHEN failed_chunks > 0 THEN CAST(failed_chunks AS TEXT) || ' of ' || CAST(total_chunks AS TEXT)
                 || ' chunks failed' ELSE NULL END,
    body_leased_until = NULL, body_due_at = NULL, finished_at = {now}, updated_at = {now}, version = version + 1
WHERE id = :id AND status = 'PROCESSING' AND body_attempt = :attempt AND merge_started_at IS NOT NULL
RETURNING *, {now} AS now
"""
_FINISHED = {JobStatus.COMPLETED: EventType.JOB_COMPLETED, JobStatus.PARTIAL: EventType.JOB_PARTIAL}


def finish(conn: Connection, job_id: str, *, attempt: int) -> Row | None:
    """The merge of this attempt took effect: COMPLETED, or PARTIAL where chunks failed. None where out of date."""
    job = execute_one(conn, _FINISH, id=job_id, attempt=attempt)
    if job is not None:
        history.record(conn, job, _FINISHED[JobStatus(job["status"])], attempt=attempt)
    return job


# A body that was sent may wait in a long queue, so the patience with each message is twice that with the one before.
_DISPATCHED = """
UPDATE processing_jobs SET body_dispatches = body_dispatches + 1,
    body_due_at = {now} + :grace * (1 << CASE WHEN body_dispatches < 6 THEN body_dispatches ELSE 6 END),
    chord_intact = (1 = 0), body_leased_until = NULL, updated_at = {now}, version = version + 1
WHERE id = :id AND status IN ('PENDING', 'PROCESSING') AND completed_chunks + failed_chunks = total_chunks
  AND completed_chunks > 0 AND body_due_at_or_now
  AND (body_leased_until IS NULL OR body_leased_until < {now})
RETURNING *, {now} AS now
"""
_WHEN_DUE = _DISPATCHED.replace("body_due_at_or_now", "(body_due_at IS NULL OR body_due_at <= {now})")
_AT_ONCE = _DISPATCHED.replace("body_due_at_or_now", "chord_intact = (1 = 0) AND body_dispatches = :dispatches")


def take_dispatch(conn: Connection, job_id: str, *, grace: float, seen_dispatches: int | None = None) -> Row | None:
    """Take it on oneself to publish the body; None where it is not due, alive, or just published by another.

    :param grace: seconds until the next one may take it; twice that after the second, and so on to 64 times.
    :param seen_dispatches: given by who saw the last chunk end: publish now, unless somebody did since.
    """
    if seen_dispatches is None:
        job = execute_one(conn, _WHEN_DUE, id=job_id, grace=grace)
    else:
        job = execute_one(conn, _AT_ONCE, id=job_id, grace=grace, dispatches=seen_dispatches)
    if job is not None:
        history.record(conn, job, EventType.BODY_DISPATCHED)
    return job


_RELEASE = """
UPDATE processing_jobs SET body_leased_until = NULL, body_tries = body_tries - 1, body_due_at = {now} + :due,
    updated_at = {now}, version = version + 1
WHERE id = :id AND body_attempt = :attempt AND status = 'PROCESSING'
RETURNING *, {now} AS now
"""


def release(conn: Connection, job_id: str, *, attempt: int, due: float) -> Row | None:
    """The body's task retries itself: it is expected again within ``due`` seconds, and the try does not count."""
    return execute_one(conn, _RELEASE, id=job_id, attempt=attempt, due=due)
