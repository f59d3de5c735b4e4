"""Groups and single tasks that are tracked: a job without a body ends with its last chunk, once, through any crash."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from celery_progress_ext import JobSnapshot, JobStatus, ids, tracked_group
from celery_progress_ext.tracked_job import TrackedJob
from tests.support import fault_points, sql
from tests.support.chords import Bench, follow
from tests.support.fault_points import PUBLISHING, TOLD, WAITING
from tests.support.processes import ROOT, WorkerProcess
from tests.support.waiting import wait_for

Workers = Callable[..., WorkerProcess]


def _group(chords: Bench, count: int = 3) -> TrackedJob:
    return tracked_group([chords.work(number) for number in range(count)], app=chords.app).apply_async()


def _assert_ended(chords: Bench, job: TrackedJob, *, total: int = 3) -> JobSnapshot:
    """It ended once: each chunk counted once, no merge, its result stored, and an audit without a finding."""
    last = follow(job, timeout=40)[-1]
    assert (last.status, last.chunks.completed, last.work_pct) == (JobStatus.COMPLETED, total, 100.0)
    events = [event for event in chords.events(job) if event not in ("chunk_started", "chunk_redispatched")]
    assert events == ["job_created", *["chunk_completed"] * total, "job_completed"]
    assert job.get(timeout=20) == list(range(total))
    assert chords.progress.audit() == []
    return last


@pytest.mark.parametrize("at", [TOLD, WAITING], ids=["before_its_receiver", "while_it_waits_to_be_committed"])
def test_a_child_killed_in_the_last_chunk(chords: Bench, worker: Workers, at: str) -> None:
    """Its result is in the backend, and no receiver reported it: it is recorded, not run again, and ends the job."""
    killed = chords.point(at, "die", chunk=2)
    job = _group(chords)
    chords.start_worker(worker, killed)
    _assert_ended(chords, job)
    assert chords.struck(killed)
    assert [chunk["attempt"] for chunk in chords.progress.jobs.chunks(job.id)] == [1, 1, 1]


_PUBLISH = """
import os
from celery_progress_ext import tracked_group
from tests.support.chord_app import make_app
app = make_app(os.environ)
job = tracked_group([app.signature("work", args=(n,)) for n in range(3)], app=app)
job.freeze()
print(job.id, flush=True)
job.apply_async()
"""


def test_a_publisher_killed_between_the_rows_and_its_messages(chords: Bench, worker: Workers) -> None:
    """What it did not send is sent, and only that."""
    killed = chords.point(PUBLISHING, "die", chunk=1)
    env = {**chords.env, **fault_points.environment(killed), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", _PUBLISH]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    job = chords.progress.job(done.stdout.split()[0])
    assert job.snapshot().status is JobStatus.PENDING
    chords.start_worker(worker)
    _assert_ended(chords, job)


def test_a_message_that_the_broker_lost(chords: Bench, worker: Workers) -> None:
    """The queue is purged before a worker comes: the chunks are sent again."""
    job = _group(chords)
    assert chords.app.control.purge() == 3
    chords.start_worker(worker)
    _assert_ended(chords, job)


def test_a_worker_that_is_killed_while_it_works(chords: Bench, worker: Workers) -> None:
    """Nobody reports anything: the lease lapses, and the chunk runs again."""
    once = chords.once()
    header = [chords.work(0), chords.work(1, pages=5, seconds=0.5, do="die_all", once=once), chords.work(2)]
    job = tracked_group(header, app=chords.app).apply_async()
    first = chords.start_worker(worker)
    wait_for(lambda: not first.alive, 30, what="the worker's end")
    chords.start_worker(worker)
    _assert_ended(chords, job)


def test_what_failed_is_named_and_a_retry_completes_it(sqlite_chords: Bench, worker: Workers) -> None:
    """`partial`: the result is that of the others; a retry runs the one, and the result is whole."""
    header = [sqlite_chords.work(0), sqlite_chords.work(1), sqlite_chords.work(2, do="fail", once=sqlite_chords.once())]
    job = tracked_group(header, ranges=[(0, 9), (10, 19), (40, 49)], unit="rows", app=sqlite_chords.app).apply_async()
    sqlite_chords.start_worker(worker)
    last = follow(job)[-1]
    assert (last.status, last.error) == (JobStatus.PARTIAL, "Chunk 3 (rows 40-49) failed: boom")
    assert job.get(timeout=20) == [0, 1]
    job.retry_failed()
    last = follow(job)[-1]
    assert (last.status, last.error, last.pages_done) == (JobStatus.COMPLETED, None, 30)
    assert job.get(timeout=20) == [0, 1, 2]
    assert sqlite_chords.progress.audit() == []


def test_the_policy_fail_raises_the_chunks_own_error(sqlite_chords: Bench, worker: Workers) -> None:
    """As a group's `get()` does."""
    header = [sqlite_chords.work(0), sqlite_chords.work(1, do="fail"), sqlite_chords.work(2, seconds=20)]
    job = tracked_group(header, on_chunk_failure="fail", app=sqlite_chords.app).apply_async()
    sqlite_chords.start_worker(worker)
    assert follow(job)[-1].status is JobStatus.FAILED
    with pytest.raises(ValueError, match="boom"):
        job.get(timeout=20)
    assert sqlite_chords.progress.audit() == []


def test_a_cancelled_group_keeps_what_is_done(sqlite_chords: Bench, worker: Workers) -> None:
    """And a retry runs the rest."""
    once = sqlite_chords.once()
    header = [sqlite_chords.work(0), sqlite_chords.work(1, do="hang", once=once)]
    job = tracked_group(header, app=sqlite_chords.app).apply_async()
    sqlite_chords.start_worker(worker)
    wait_for(lambda: job.snapshot().chunks.processing == 1 and job.snapshot().chunks.completed == 1, 20)
    assert job.cancel().status is JobStatus.CANCELLED
    job.retry_failed()
    _ = follow(job)
    assert job.get(timeout=20) == [0, 1]
    assert sqlite_chords.progress.audit() == []


def test_a_last_chunk_that_an_earlier_version_recorded(chords: Bench) -> None:
    """It did not know that this ends the job: the next tick does."""
    job = _group(chords, count=1)
    chords.app.control.purge()
    _set_shape(chords, job, None)
    chords.progress.recording.chunks.succeeded(ids.TaskId(job.id, 0, 1), result=0)
    _set_shape(chords, job, "group")
    assert job.snapshot().status is JobStatus.PROCESSING

    def ticked() -> bool:
        chords.progress.reconciler.tick()
        return job.snapshot().status.terminal

    wait_for(ticked, 20)
    _assert_ended(chords, job, total=1)


def _set_shape(chords: Bench, job: TrackedJob, shape: str | None) -> None:
    statement = "UPDATE processing_jobs SET shape = :shape WHERE id = :id"
    chords.progress.database.write(lambda conn: sql.execute(conn, statement, id=job.id, shape=shape))


def test_a_single_task_is_a_job(chords: Bench, worker: Workers) -> None:
    """What it reports is its bar and its size, its own retry is no failure, and its result is the job's."""
    task = chords.work(7, pages=40, seconds=1.5, do="retry", once=chords.once())
    job = chords.progress.track(task, subject="import-7", unit="rows").apply_async()
    chords.start_worker(worker)
    seen = follow(job)
    last = seen[-1]
    assert (last.status, last.pages_total, last.pages_done) == (JobStatus.COMPLETED, 40, 40)
    assert (last.owner, last.subject, last.unit) == (None, "import-7", "rows")
    works = [snapshot.work_pct for snapshot in seen]
    assert works == sorted(works) and any(0 < each < 100 for each in works)
    assert job.get(timeout=20) == 7
    assert "chunk_retrying" in chords.events(job)
    assert chords.progress.audit() == []


def test_a_single_task_that_fails_says_so(sqlite_chords: Bench, worker: Workers) -> None:
    """In the job's error, and by its own exception; a retry runs it."""
    job = sqlite_chords.progress.track(sqlite_chords.work(3, do="fail", once=sqlite_chords.once())).apply_async()
    sqlite_chords.start_worker(worker)
    last = follow(job)[-1]
    assert (last.status, last.error) == (JobStatus.FAILED, "The task failed: boom")
    with pytest.raises(ValueError, match="boom"):
        job.get(timeout=20)
    job.retry_failed()
    assert follow(job)[-1].status is JobStatus.COMPLETED
    assert job.get(timeout=20) == 3


def test_what_is_chained_to_them(sqlite_chords: Bench, worker: Workers) -> None:
    """A task chained to a group is its body, as Celery makes a chord of it; one chained to a single task gets that
    one's result. A group may end a chain, too.
    """
    work, app = sqlite_chords.work, sqlite_chords.app
    add = app.signature("add", args=(10,))
    merged = (tracked_group([work(1), work(2)], app=app) | sqlite_chords.merge() | add).apply_async()
    tracked = (sqlite_chords.progress.track(work(5)) | add | add).apply_async()
    begun = (app.signature("add", args=(1, 1)) | tracked_group([add, add], app=app)).apply_async()
    sqlite_chords.start_worker(worker)
    assert merged.get(timeout=30) == 13
    assert [len(sqlite_chords.effects()), "merge_started" in sqlite_chords.events(merged)] == [1, True]
    assert tracked.get(timeout=30) == 25
    assert begun.get(timeout=30) == [12, 12]
    assert follow(begun)[-1].status is JobStatus.COMPLETED
