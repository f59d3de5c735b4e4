"""What a person, a limit or an unusual task may do to a running job, and what the rows say then."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from celery_progress_ext import JobStatus
from celery_progress_ext.exceptions import IllegalTransition
from celery_progress_ext.ids import TaskId
from tests.support.chords import MODULE, Bench, follow
from tests.support.fault_points import WAITING
from tests.support.processes import ROOT, WorkerProcess
from tests.support.waiting import wait_for

Workers = Callable[..., WorkerProcess]


def _command(chords: Bench, *args: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "celery", "-A", MODULE, "progress", *args]
    env = {**chords.env, "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    return subprocess.run(argv, env=env, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_cancelled_merge_leaves_no_effect_and_can_be_run_again(chords: Bench, worker: Workers) -> None:
    """The body's process is stopped; a retry runs the body alone."""
    job = chords.chord([chords.work(0), chords.work(1)], chords.merge(seconds=4)).apply_async()
    chords.start_worker(worker)
    wait_for(lambda: job.snapshot().stage_name == "merge", 20)
    assert job.cancel().status is JobStatus.CANCELLED
    inspect = chords.app.control.inspect(timeout=1)
    wait_for(lambda: not any((inspect.active() or {"": [1]}).values()), 15, what="the pool to be free")
    assert job.snapshot().status is JobStatus.CANCELLED
    assert chords.effects() == []
    job.retry_failed()
    chords.assert_healed(job, total=2, story=["merge_started", "job_cancelled", "job_retried", "merge_started"])
    assert [chunk["attempt"] for chunk in chords.progress.jobs.chunks(job.id)] == [1, 1]


def test_a_job_cancelled_in_the_queue_does_no_work(sqlite_chords: Bench, worker: Workers) -> None:
    """Its messages outlive the cancel, and the worker that takes them was not there to be told. Its chunks have one
    page, so that nothing they report would end them.
    """
    job = sqlite_chords.chord([sqlite_chords.work(n, pages=1, seconds=40) for n in range(3)]).apply_async()
    job.cancel()
    sqlite_chords.start_worker(worker)
    late = sqlite_chords.app.signature("add", args=(1,)).apply_async()
    assert late.get(timeout=20) == 1
    counts = job.snapshot().chunks
    assert (job.snapshot().status, counts.pending, counts.completed) == (JobStatus.CANCELLED, 3, 0)
    assert sqlite_chords.effects() == []


def test_the_merge_of_a_retry_runs_however_long_it_waits(sqlite_chords: Bench, worker: Workers) -> None:
    """The result backend still knows that the merge of the run before succeeded; it has nothing of this run."""
    job = sqlite_chords.chord(
        [sqlite_chords.work(0), sqlite_chords.work(1, do="fail", once=sqlite_chords.once())]
    ).apply_async()
    running = sqlite_chords.start_worker(worker)
    assert follow(job)[-1].status is JobStatus.PARTIAL
    running.kill()
    job.retry_failed()
    sqlite_chords.progress.recording.chunks.succeeded(TaskId(job.id, 1, 2), result=1)
    with sqlite_chords.progress.database.engine.begin() as conn:
        conn.exec_driver_sql("UPDATE processing_jobs SET body_due_at = 1")  # the merge waited for more than a lease
    sqlite_chords.progress.reconciler.tick()
    assert job.snapshot().status is JobStatus.PROCESSING
    running.start()
    assert follow(job)[-1].status is JobStatus.COMPLETED
    assert [line.split(" ", 1)[1] for line in sqlite_chords.effects()] == ["[0]", "[0, 1]"]
    assert sqlite_chords.progress.audit() == []


def test_what_had_finished_when_the_run_ended_is_not_done_again(chords: Bench, worker: Workers) -> None:
    """Its completion waited to be committed with others when the cancel came; its result is stored."""
    hanging = chords.work(2, do="hang", once=chords.once())
    job = chords.chord([chords.work(0), chords.work(1), hanging]).apply_async()
    waiting = chords.point(WAITING, "pass", chunk=1)
    chords.start_worker(worker, waiting, args=["-c", "1"], beat=False)
    wait_for(lambda: chords.struck(waiting) and job.snapshot().chunks.processing == 1, 20)
    assert job.cancel().chunks.completed == 1
    job.retry_failed()
    assert job.snapshot().chunks.completed == 2
    chords.assert_healed(job, total=3, story=["job_cancelled", "job_retried", "chunk_completed", "merge_started"])
    assert [chunk["attempt"] for chunk in chords.progress.jobs.chunks(job.id)] == [1, 1, 2]


def test_two_people_press_retry(chords: Bench, worker: Workers) -> None:
    """One of them retries, the others are told that there is nothing to retry; nothing is sent twice."""
    header = [chords.work(0), chords.work(1, do="fail", once=chords.once())]
    # First: a chunk that waits for a worker to start counts as lost after a lease, and a second message of it succeeds.
    chords.start_worker(worker)
    job = chords.chord(header).apply_async()
    assert follow(job)[-1].status is JobStatus.PARTIAL

    def press(_: int) -> bool:
        try:
            chords.progress.retry_failed(job.id)
        except IllegalTransition:
            return False
        finally:
            # Celery makes a backend, with connections, for each thread.
            chords.app.backend.client.connection_pool.disconnect()
        return True

    with ThreadPoolExecutor(4) as people:
        assert sorted(people.map(press, range(4))) == [False, False, False, True]
    assert follow(job)[-1].status is JobStatus.COMPLETED
    assert [chunk["dispatches"] for chunk in chords.progress.jobs.chunks(job.id)] == [1, 2]
    assert chords.events(job).count("job_retried") == 1


def test_the_command_line_cancels_retries_and_says_what_it_may_not(sqlite_chords: Bench, worker: Workers) -> None:
    """Each legal only where the transition table says so, with a sentence where it is not."""
    job = sqlite_chords.chord([sqlite_chords.work(0), sqlite_chords.work(1)]).apply_async()
    short = job.id.removeprefix("job_")[:8]
    assert _command(sqlite_chords, "cancel", short).returncode == 0
    assert "CANCELLED" in _command(sqlite_chords, "list").stdout
    watched = _command(sqlite_chords, "watch", short, "--json")
    assert (watched.returncode, json.loads(watched.stdout)["job_id"]) == (1, job.id)
    again = _command(sqlite_chords, "cancel", job.id)
    assert (again.returncode, "it is CANCELLED" in again.stderr) == (1, True)
    assert "PROCESSING" in _command(sqlite_chords, "retry", job.id).stdout
    sqlite_chords.start_worker(worker)
    sqlite_chords.assert_healed(job, total=2)
    done = _command(sqlite_chords, "retry", job.id)
    assert (done.returncode, "it is COMPLETED" in done.stderr) == (1, True)
    watched = _command(sqlite_chords, "watch", job.id, "--exit-status")
    assert (watched.returncode, "COMPLETED" in watched.stdout) == (0, True)
    assert _command(sqlite_chords, "audit", short, "--json").returncode == 0
    nothing = _command(sqlite_chords, "show", "job_0")
    assert (nothing.returncode, "no job 'job_0'" in nothing.stderr) == (1, True)


def test_a_chunk_that_lives_but_makes_no_progress_is_stalled_then_limited(
    sqlite_chords: Bench, worker: Workers
) -> None:
    """Shown with how long and what will happen; the hard limit ends it."""
    stuck = sqlite_chords.work(1, pages=1, seconds=60).set(time_limit=6)
    job = sqlite_chords.chord([sqlite_chords.work(0), stuck]).apply_async()
    sqlite_chords.start_worker(worker, progress_stall_seconds=1.0)

    def told() -> list[dict[str, Any]]:
        """What readers of the stream have."""
        kept = sqlite_chords.progress.broadcaster.kept(job.id)
        return [] if kept is None else list(kept.payload["stalled"])

    [stalled] = wait_for(told, 20, what="the chunk to be called stalled")
    assert (stalled["chunk_index"], stalled["page_start"]) == (1, 6)
    assert stalled["seconds"] >= 1.0
    assert "the time limit will end it" in stalled["reason"]
    assert job.snapshot().chunks.processing == 1
    last = sqlite_chords.assert_healed(job, total=2, failed=[1], story=["chunk_started", "chunk_failed"])
    assert last.stalled == ()


def test_a_soft_limit_is_a_failure_that_is_named(sqlite_chords: Bench, worker: Workers) -> None:
    """Celery raises it in the task."""
    slow = sqlite_chords.work(1, pages=1, seconds=60).set(soft_time_limit=1)
    job = sqlite_chords.chord([sqlite_chords.work(0), slow]).apply_async()
    sqlite_chords.start_worker(worker)
    last = sqlite_chords.assert_healed(job, total=2, failed=[1], story=["chunk_failed", "job_partial"])
    assert "failed: it ran longer than its soft time limit" in last.failures[0].message


def test_a_revoked_chunk_is_a_failure_that_is_named(sqlite_chords: Bench, worker: Workers) -> None:
    """An operator stops one task with Celery's own means."""
    job = sqlite_chords.chord([sqlite_chords.work(0), sqlite_chords.work(1, pages=50, seconds=60)]).apply_async()
    sqlite_chords.start_worker(worker)
    wait_for(lambda: job.snapshot().chunks.processing == 1, 20)
    sqlite_chords.app.control.revoke(f"{job.id}.c1.1", terminate=True)
    last = sqlite_chords.assert_healed(job, total=2, failed=[1], story=["chunk_failed", "job_partial"])
    assert "revoked" in last.failures[0].message


def test_a_chunk_that_replaces_itself_is_counted_once(sqlite_chords: Bench, worker: Workers) -> None:
    """`self.replace`: the replacement has the task id, and what it returns is the chunk's result."""
    job = sqlite_chords.chord([sqlite_chords.work(0), sqlite_chords.work(1, do="replace")]).apply_async()
    sqlite_chords.start_worker(worker)
    sqlite_chords.assert_healed(job, total=2, story=["chunk_completed", "chunk_completed", "merge_started"])


def test_two_jobs_for_one_document_do_not_mix(sqlite_chords: Bench, worker: Workers) -> None:
    """Each has its own chunks; what is asked by document is told of the newest."""
    first = sqlite_chords.chord([sqlite_chords.work(n) for n in range(3)]).apply_async()
    second = sqlite_chords.chord([sqlite_chords.work(n) for n in range(2)]).apply_async()
    sqlite_chords.start_worker(worker)
    assert [follow(job)[-1].chunks.completed for job in (first, second)] == [3, 2]
    assert sqlite_chords.progress.chunks.progress("d").total == 2
    assert len(sqlite_chords.effects()) == 2


@pytest.mark.timeout(180)
def test_a_header_of_ten_thousand(sqlite_chords: Bench) -> None:
    """Published, shown in a snapshot that does not grow with it, and cancelled whole."""
    job = sqlite_chords.chord([sqlite_chords.work(number) for number in range(10_000)]).apply_async()
    snapshot = job.snapshot()
    assert (snapshot.chunks.total, snapshot.chunks.pending, snapshot.pages_total) == (10_000, 10_000, 50_000)
    assert len(str(snapshot.to_dict())) < 2_000
    assert job.cancel().status is JobStatus.CANCELLED
    assert sqlite_chords.progress.audit() == []


def test_a_late_word_of_the_merge_before_does_not_end_a_retry(sqlite_chords: Bench) -> None:
    """Its failure, told by MainProcess without an attempt, is not the failure of a merge that has yet to be sent."""
    job = sqlite_chords.chord([sqlite_chords.work(0), sqlite_chords.work(1)]).apply_async()
    recording = sqlite_chords.progress.recording
    recording.chunks.succeeded(TaskId(job.id, 0, 1), result=0)
    recording.chunks.failed(TaskId(job.id, 1, 1), error="boom")
    sent = f"{job.id}.b2"
    assert recording.bodies.claimed(TaskId(job.id, None, 2), sent) is not None
    assert recording.bodies.failed(job.id, sent, error="time limit") is not None
    job.retry_failed()
    assert recording.bodies.failed(job.id, sent, error="time limit") is None
    recording.chunks.succeeded(TaskId(job.id, 1, 2), result=1)
    assert recording.bodies.failed(job.id, sent, error="time limit") is None
    assert job.snapshot().status is JobStatus.PROCESSING
