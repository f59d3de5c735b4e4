"""Every write that the storage offers, and the states of a job from which they are tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy.engine import Connection

from celery_progress_ext import JobStatus, ids
from celery_progress_ext.jobs import JobShape
from celery_progress_ext.recovery import queries
from celery_progress_ext.storage import body_changes, chunk_changes, endings, job_changes, retention, sending
from tests.interleavings.explorer import forget
from tests.support.rows import LEASE, Rows
from tests.support.sql import execute

Write = Callable[[Rows, str], Any]


def _task(job_id: str, index: int, dispatch: int = 1) -> tuple[str, str]:
    return ids.chunk_id(job_id, index), ids.chunk_task_id(job_id, index, dispatch)


def _write(rows: Rows, work: Callable[[Any], Any]) -> Any:
    return rows.database.write(work)


def _fail_and_end(rows: Rows, job_id: str) -> Any:
    """The first failure ends the job, or the last chunk's does where there is no body, in one transaction: as
    ``ChunkRecorder.failed`` has it.
    """

    def write(conn: Connection) -> Any:
        job_changes.lock_run_that_fails(conn, job_id)
        change = chunk_changes.fail(conn, ids.chunk_id(job_id, 0), error="boom")
        if change is None:
            return None
        if change.job.on_chunk_failure != "fail":
            return body_changes.end_without_body(conn, change.job)
        return job_changes.end(conn, job_id, JobStatus.FAILED, error="boom")

    return rows.database.write(write)


#: Name → the write, of chunk 0 where it is of a chunk, and of the newest body attempt.
WRITES: Mapping[str, Write] = {
    "create": lambda rows, job: _write(rows, lambda conn: job_changes.create(conn, rows.new_job(job, 2), due=LEASE)),
    "start": lambda rows, job: rows.start(job, 0),
    "start_again": lambda rows, job: rows.start(job, 0, dead_attempt=1),
    "start_another": lambda rows, job: rows.start(job, 1),
    "beat": lambda rows, job: _write(
        rows, lambda conn: chunk_changes.beat(conn, ids.chunk_id(job, 0), attempt=1, lease=LEASE)
    ),
    "progress": lambda rows, job: rows.progress(job, 0, attempt=1, done=3),
    "reserve": lambda rows, job: rows.reserve(job, 0, attempt=1, pages={2: "Page 2 is damaged."}),
    "complete": lambda rows, job: rows.complete(job, 0, seconds=1.0),
    "complete_two": lambda rows, job: rows.complete_all(
        [chunk_changes.Completion(chunk_id=ids.chunk_id(job, index)) for index in (1, 0)]
    ),
    "fail": lambda rows, job: rows.fail(job, 0),
    "fail_another": lambda rows, job: rows.fail(job, 1),
    "fail_and_end": _fail_and_end,
    "resend": lambda rows, job: rows.lose(job, 0),
    "retry_by_celery": lambda rows, job: rows.again(job, 0),
    "cancel": lambda rows, job: rows.end(job),
    "fail_job": lambda rows, job: rows.end(job, JobStatus.FAILED),
    "reopen": lambda rows, job: rows.reopen(job),
    "set_by_hand": lambda rows, job: rows.tell(job, JobStatus.PROCESSING, stage="by hand"),
    "claim": lambda rows, job: rows.claim(job),
    "body_beat": lambda rows, job: _write(rows, lambda conn: body_changes.beat(conn, job, attempt=1, lease=LEASE)),
    "body_progress": lambda rows, job: _write(
        rows, lambda conn: body_changes.progress(conn, job, attempt=1, done=2, lease=LEASE)
    ),
    "finish": lambda rows, job: rows.finish(job, 1),
    "body_release": lambda rows, job: rows.release_body(job, 1),
    "take_body": lambda rows, job: rows.send_body(job),
    "body_sent": lambda rows, job: _write(rows, lambda conn: body_changes.sent(conn, job, dispatches=1, grace=LEASE)),
    "body_not_sent": lambda rows, job: _write(rows, lambda conn: body_changes.not_sent(conn, job, dispatches=1)),
    "body_postpone": lambda rows, job: _write(rows, lambda conn: body_changes.postpone(conn, job, grace=LEASE)),
    "settle": lambda rows, job: rows.settle(job),
    "take_unsent": lambda rows, job: _write(rows, lambda conn: sending.take_unsent(conn, job, lease=LEASE)),
    "mark_sent": lambda rows, job: _write(
        rows,
        lambda conn: sending.mark_sent(conn, job, [_task(job, 1), _task(job, 0)], due=LEASE, lease=LEASE, last=True),
    ),
    "reroute": lambda rows, job: _write(
        rows,
        lambda conn: sending.reroute(
            conn, job, task=_task(job, 0), signature={"options": {"queue": "lane"}}, queues={"chunks": "lane"}
        ),
    ),
    "extend": lambda rows, job: queries.extend(rows.database, job, seconds=LEASE),
    "extend_chunk": lambda rows, job: queries.extend_chunk(rows.database, ids.chunk_id(job, 0), seconds=LEASE),
    "clamp": lambda rows, job: queries.clamp_leases(rows.database, lease=LEASE / 10),
    "audited": lambda rows, job: queries.audited(rows.database, job, version=1),
    "raise_version": lambda rows, job: _write(rows, lambda conn: queries.raise_version(conn, job, above=1_000_000)),
    "followed": lambda rows, job: _write(rows, lambda conn: endings.followed(conn, job, version=1)),
    "expire": lambda rows, job: list(retention.expire(rows.database, days=-1)),
}


def another_job(rows: Rows, _: str) -> None:
    """What happens to another job, and must not wait for this one."""
    other = rows.create(2)
    rows.start(other, 0)
    rows.complete(other, 1)
    rows.end(other)
    forget(rows, other)


State = Callable[[Rows], str]


def _absent(rows: Rows) -> str:
    """The publisher is about to create it, maybe twice."""
    return ids.new_job_id()


def _pending(rows: Rows) -> str:
    return rows.create(3, sent=False)


def _running(rows: Rows) -> str:
    job = rows.create(3)
    rows.start(job, 0)
    return job


def _failing(rows: Rows) -> str:
    """The first failure ends it."""
    job = rows.create(3, policy="fail")
    rows.start(job, 0)
    rows.start(job, 1)
    return job


def _overdue(rows: Rows) -> str:
    job = rows.create(3, due=-LEASE)
    rows.complete(job, 2)
    return job


def _settled(rows: Rows) -> str:
    job = rows.create(2)
    rows.complete(job, 0)
    rows.fail(job, 1)
    rows.send_body(job)
    rows.database.write(lambda conn: execute(conn, "UPDATE processing_jobs SET body_due_at = 0 WHERE id = :id", id=job))
    return job


def _merging(rows: Rows) -> str:
    job = rows.create(2)
    rows.complete(job, 0)
    rows.fail(job, 1)
    rows.claim(job)
    return job


def _cancelled(rows: Rows) -> str:
    job = _running(rows)
    rows.complete(job, 2)
    rows.end(job)
    return job


def _partial(rows: Rows) -> str:
    job = _merging(rows)
    rows.finish(job, 1)
    return job


def _reopened(rows: Rows) -> str:
    job = _partial(rows)
    rows.reopen(job)
    return job


def _last_chunk(rows: Rows) -> str:
    """A group, which has no body: it ends with the chunk that is at work."""
    job = rows.create(2, shape=JobShape.GROUP)
    rows.start(job, 0)
    rows.complete(job, 1)
    return job


def _group_ended(rows: Rows) -> str:
    job = _last_chunk(rows)
    _fail_and_end(rows, job)
    return job


STATES: Mapping[str, State] = {
    "absent": _absent,
    "pending": _pending,
    "running": _running,
    "failing": _failing,
    "overdue": _overdue,
    "settled": _settled,
    "merging": _merging,
    "cancelled": _cancelled,
    "partial": _partial,
    "reopened": _reopened,
    "last_chunk": _last_chunk,
    "group_ended": _group_ended,
}
