"""Tracked chords on a real server and a real prefork worker."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from celery import chain

from celery_progress_ext import JobStatus
from celery_progress_ext.exceptions import IllegalTransition
from tests.support.chords import Bench, follow
from tests.support.processes import WorkerProcess
from tests.support.waiting import wait_for

Workers = Callable[..., WorkerProcess]


def test_a_chord_is_followed_from_the_first_row_to_the_merged_result(chords: Bench, worker: Workers) -> None:
    """Stages in order, every chunk counted once, the body's result under the job's id."""
    job = chords.chord([chords.work(number, pages=5, seconds=0.4) for number in range(4)]).apply_async()
    assert job.snapshot().status is JobStatus.PENDING
    chords.start_worker(worker)
    seen = follow(job)
    stages = list(dict.fromkeys(snapshot.stage_name for snapshot in seen))
    assert stages == ["queued", "chunk_processing", "merge"]
    last = seen[-1]
    assert (last.status, last.progress_pct, last.pages_done) == (JobStatus.COMPLETED, 100, 20)
    assert job.get(timeout=10) == 0 + 1 + 2 + 3
    assert len(chords.effects()) == 1
    assert chords.progress.audit() == []


def test_a_running_chunk_shows_its_pages(sqlite_chords: Bench, worker: Workers) -> None:
    """Long before it is done: pages grow, and Celery's own state is PROGRESS with the counts."""
    job = sqlite_chords.chord([sqlite_chords.work(0, pages=5, seconds=4)]).apply_async()
    sqlite_chords.start_worker(worker)
    result = sqlite_chords.app.AsyncResult(f"{job.id}.c0.1")
    wait_for(lambda: result.state == "PROGRESS", 20)
    assert result.info["total"] == 5
    pages = sorted({snapshot.pages_done for snapshot in follow(job)})
    assert len(pages) > 2
    assert pages[-1] == 5


def test_an_estimate_is_given_from_the_first_page_on(sqlite_chords: Bench, worker: Workers) -> None:
    """Null only before it, and an interval around the best guess."""
    job = sqlite_chords.chord([sqlite_chords.work(n, pages=5, seconds=2) for n in range(4)]).apply_async()
    sqlite_chords.start_worker(worker)
    seen = follow(job)
    running = [s for s in seen if s.pages_done and not s.status.terminal]
    assert running
    for snapshot in running:
        assert snapshot.eta is not None
        assert snapshot.eta.earliest <= snapshot.eta.finish_at <= snapshot.eta.latest


def test_a_failed_chunk_is_named_and_the_rest_is_merged(chords: Bench, worker: Workers) -> None:
    """`partial`, the default: the body gets what there is, in order."""
    header = [chords.work(0), chords.work(1, do="fail"), chords.work(2)]
    job = chords.chord(header).apply_async()
    chords.start_worker(worker)
    last = follow(job)[-1]
    assert last.status is JobStatus.PARTIAL
    assert [failure.message for failure in last.failures] == ["Chunk 2 (pages 6-10) failed: boom"]
    [effect] = chords.effects()
    assert effect.endswith("[0, 2]")


def test_retry_runs_only_what_failed_and_merges_all(chords: Bench, worker: Workers) -> None:
    """P4: the finished chunks keep their one attempt."""
    header = [chords.work(0), chords.work(1, do="fail", once=chords.once()), chords.work(2)]
    job = chords.chord(header).apply_async()
    chords.start_worker(worker)
    assert follow(job)[-1].status is JobStatus.PARTIAL
    job.retry_failed()
    assert follow(job)[-1].status is JobStatus.COMPLETED
    assert [chunk["dispatches"] for chunk in chords.progress.jobs.chunks(job.id)] == [1, 2, 1]
    assert chords.effects()[-1].endswith("[0, 1, 2]")
    with pytest.raises(IllegalTransition, match="COMPLETED"):
        job.retry_failed()


def test_the_policy_fail_ends_the_job_and_keeps_what_is_done(sqlite_chords: Bench, worker: Workers) -> None:
    """No merge; a retry continues."""
    once = sqlite_chords.once()
    header = [sqlite_chords.work(0), sqlite_chords.work(1, do="fail", once=once), sqlite_chords.work(2, seconds=1)]
    job = sqlite_chords.chord(header, on_chunk_failure="fail").apply_async()
    sqlite_chords.start_worker(worker)
    last = follow(job)[-1]
    assert last.status is JobStatus.FAILED
    assert last.error == "Chunk 2 (pages 6-10) failed: boom"
    assert sqlite_chords.effects() == []
    job.retry_failed()
    assert follow(job)[-1].status is JobStatus.COMPLETED


def test_a_job_whose_every_chunk_failed_is_failed(sqlite_chords: Bench, worker: Workers) -> None:
    """There is nothing to merge."""
    job = sqlite_chords.chord([sqlite_chords.work(n, do="fail") for n in range(2)]).apply_async()
    sqlite_chords.start_worker(worker)
    assert follow(job)[-1].status is JobStatus.FAILED
    assert sqlite_chords.effects() == []


def test_a_cancelled_job_stops_what_runs(chords: Bench, worker: Workers) -> None:
    """Queued and running chunks end, finished ones are kept, and a retry runs the rest."""
    header = [chords.work(0), *(chords.work(n, pages=50, seconds=20) for n in range(1, 4))]
    job = chords.chord(header).apply_async()
    chords.start_worker(worker)
    wait_for(lambda: job.snapshot().chunks.completed == 1 and job.snapshot().chunks.processing == 2, 20)
    snapshot = job.cancel()
    assert (snapshot.status, snapshot.chunks.completed, snapshot.chunks.processing) == (JobStatus.CANCELLED, 1, 0)
    inspect = chords.app.control.inspect(timeout=1)
    wait_for(lambda: not any((inspect.active() or {"": [1]}).values()), 15, what="the pool to be free")
    assert job.snapshot().status is JobStatus.CANCELLED
    with pytest.raises(IllegalTransition, match="CANCELLED"):
        job.cancel()
    assert chords.progress.audit() == []


def test_celerys_own_retry_of_a_chunk_is_not_a_failure(sqlite_chords: Bench, worker: Workers) -> None:
    """A transient error: the same task comes again, and the job completes."""
    header = [sqlite_chords.work(0, do="retry", once=sqlite_chords.once()), sqlite_chords.work(1)]
    job = sqlite_chords.chord(header).apply_async()
    sqlite_chords.start_worker(worker)
    assert follow(job)[-1].status is JobStatus.COMPLETED
    types = [event["type"] for event in sqlite_chords.progress.jobs.history(job.id)]
    assert "chunk_retrying" in types
    assert "chunk_failed" not in types


def test_celerys_own_retry_of_the_body_merges_once(sqlite_chords: Bench, worker: Workers) -> None:
    """Released, claimed again, finished."""
    body = sqlite_chords.merge(do="retry", once=sqlite_chords.once())
    job = sqlite_chords.chord([sqlite_chords.work(1)], body).apply_async()
    sqlite_chords.start_worker(worker)
    assert follow(job)[-1].status is JobStatus.COMPLETED
    assert len(sqlite_chords.effects()) == 1


def test_a_body_that_fails_fails_the_job_and_can_be_retried(sqlite_chords: Bench, worker: Workers) -> None:
    """No chunk runs again."""
    body = sqlite_chords.merge(do="fail", once=sqlite_chords.once())
    job = sqlite_chords.chord([sqlite_chords.work(n) for n in range(2)], body).apply_async()
    sqlite_chords.start_worker(worker)
    last = follow(job)[-1]
    assert (last.status, last.error) == (JobStatus.FAILED, "Merging failed: boom")
    job.retry_failed()
    assert follow(job)[-1].status is JobStatus.COMPLETED
    assert [chunk["attempt"] for chunk in sqlite_chords.progress.jobs.chunks(job.id)] == [1, 1]
    assert len(sqlite_chords.effects()) == 1


def test_it_stands_in_a_chain(sqlite_chords: Bench, worker: Workers) -> None:
    """Before it a task, after its body more tasks."""
    app = sqlite_chords.app
    tracked = sqlite_chords.chord([sqlite_chords.work(n).set(immutable=True) for n in (1, 2)])
    sqlite_chords.start_worker(worker)
    result = chain(app.signature("add", args=(5,)), tracked, app.signature("add", args=(100,)), app=app).apply_async()
    assert result.get(timeout=20) == 103
    [snapshot] = wait_for(lambda: [s for s in sqlite_chords.progress.jobs.list() if s.status.terminal], 10)
    assert snapshot.status is JobStatus.COMPLETED


def test_its_body_can_be_followed_by_more_tasks(sqlite_chords: Bench, worker: Workers) -> None:
    """`tracked_chord(…) | a | b`: the job is the chord, the chain goes on after it."""
    add = sqlite_chords.app.signature("add", args=(100,))
    sqlite_chords.start_worker(worker)
    job = (sqlite_chords.chord([sqlite_chords.work(n) for n in (1, 2)]) | add | add).apply_async()
    last = follow(job)[-1]
    assert last.status is JobStatus.COMPLETED
    assert job.get(timeout=10) == 203
    assert job.parent.get(timeout=10) == 3


def test_a_header_of_one_is_a_chord_too(sqlite_chords: Bench, worker: Workers) -> None:
    """The smallest document."""
    job = sqlite_chords.chord([sqlite_chords.work(7)]).apply_async()
    sqlite_chords.start_worker(worker)
    assert follow(job)[-1].status is JobStatus.COMPLETED
    assert job.get(timeout=10) == 7


def test_untracked_tasks_leave_no_trace(sqlite_chords: Bench, worker: Workers) -> None:
    """They cost a prefix test of their id."""
    sqlite_chords.start_worker(worker)
    assert sqlite_chords.app.signature("add", args=(1, 2)).apply_async().get(timeout=20) == 3
    assert sqlite_chords.progress.jobs.list() == []


def test_no_redis_key_of_ours_lives_for_ever(sqlite_chords: Bench, worker: Workers, redis_url: str) -> None:
    """Every key has a TTL, but for the broker's own."""
    import redis

    job = sqlite_chords.chord([sqlite_chords.work(n) for n in range(3)]).apply_async()
    sqlite_chords.start_worker(worker)
    follow(job)
    with redis.Redis.from_url(redis_url) as client:
        ours = [key for key in client.scan_iter("progress:*") if client.ttl(key) < 0]
    assert ours == []
