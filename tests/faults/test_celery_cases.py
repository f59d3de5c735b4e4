"""The 26 ways in which Celery hangs a chord, runs its body twice or loses a signal, each forced at its window.

F1 to F26 as `docs/chords.md` lists them. Every job ends, its body takes effect once, every chunk is counted once.
Where a test says so, Celery's own chord would wait for ever.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kombu.transport.redis import Channel

from celery_progress_ext import JobStatus
from celery_progress_ext.tracked_job import TrackedJob
from tests.support import fault_points, sql
from tests.support.chord_app import LEASE, TICK
from tests.support.chords import Bench, environment, follow
from tests.support.fault_points import CLAIMED, KILLED, PUBLISHED, PUBLISHING, STORED, TOLD, WAITING
from tests.support.processes import ROOT, WorkerProcess
from tests.support.sql import execute
from tests.support.waiting import wait_for

Workers = Callable[..., WorkerProcess]
Beats = Callable[..., object]

#: A broker that delivers again what was not acknowledged for three seconds.
IMPATIENT = {
    "visibility_timeout": 3,
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
}
EARLY_ACK = {"task_acks_late": False, "task_reject_on_worker_lost": False}
#: How a job goes whose body the reconciler had to publish.
BODY_SENT_AGAIN = ["job_created", "chunk_completed", "body_dispatched", "merge_started", "job_completed"]


def _chunks(chords: Bench, count: int = 3) -> TrackedJob:
    return chords.chord([chords.work(number) for number in range(count)]).apply_async()


def _attempts(chords: Bench, job: TrackedJob) -> list[int]:
    return [chunk["attempt"] for chunk in chords.progress.jobs.chunks(job.id)]


def _body_store(redis_url: str, sqlite_url: str, tmp_path: Path) -> Iterator[Bench]:
    """Results in a database of Celery's, which polls for the end of a chord."""
    env = {**environment(redis_url, sqlite_url), "CELERY_RESULT_BACKEND": f"db+sqlite:///{tmp_path}/results.db"}
    bench = Bench({**env, "PROGRESS_REDIS_URL": redis_url}, tmp_path)
    yield bench
    bench.close()


database_results = pytest.fixture(_body_store, name="database_results")


def test_f01_the_body_begins_before_the_last_receiver(chords: Bench, worker: Workers) -> None:
    """The last chunk's task_success waits for the body: the body finds that chunk's result and counts it itself."""
    began = chords.once("began")
    job = chords.chord([chords.work(0), chords.work(1)], chords.merge(began=began)).apply_async()
    points = [chords.point(TOLD, "wait", chunk=number, until=began) for number in range(2)]
    chords.start_worker(worker, *points, args=["-c", "3"])  # two wait, one merges
    chords.assert_healed(job, total=2, story=["chunk_completed", "chunk_completed", "merge_started", "job_completed"])
    assert all(chords.struck(point) for point in points)


def test_f02_child_killed_inside_the_task_success_receiver(chords: Bench, worker: Workers) -> None:
    """The part is counted, the chunk has no signal: what is stored is recorded, not run again."""
    job = _chunks(chords)
    killed = chords.point(TOLD, "die", chunk=1)
    chords.start_worker(worker, killed)
    chords.assert_healed(job, total=3, story=["chunk_completed", "merge_started", "job_completed"])
    assert chords.struck(killed)
    assert _attempts(chords, job) == [1, 1, 1]


@pytest.mark.parametrize("last", [1, 3], ids=["half_way", "at_the_end"])
def test_f02_child_killed_while_completions_wait_for_their_commit(chords: Bench, worker: Workers, last: int) -> None:
    """Several chunks are counted and have no row: the body finds them in the result backend, nothing runs again."""
    job = _chunks(chords, 4)
    killed = chords.point(WAITING, "die", chunk=last)
    chords.start_worker(worker, killed, args=["-c", "1"])
    chords.assert_healed(job, total=4, story=[*["chunk_completed"] * 4, "merge_started", "job_completed"])
    assert chords.struck(killed)
    assert _attempts(chords, job) == [1, 1, 1, 1]


def test_completions_that_wait_are_committed_when_their_process_ends(sqlite_chords: Bench, worker: Workers) -> None:
    """A warm shutdown: the chunks done so far are in the rows, though the window is not over."""
    job = sqlite_chords.chord([sqlite_chords.work(0), sqlite_chords.work(1), sqlite_chords.work(2, seconds=3)])
    job = job.apply_async()
    waiting = sqlite_chords.point(WAITING, "pass", chunk=1)
    running = sqlite_chords.start_worker(worker, waiting, args=["-c", "1"])
    wait_for(lambda: sqlite_chords.struck(waiting) and job.snapshot().chunks.processing, 20)
    assert job.snapshot().chunks.completed == 1
    running.stop()
    assert job.snapshot().chunks.completed == 3


@pytest.mark.parametrize("settings", [{}, EARLY_ACK], ids=["late_ack", "early_ack"])
def test_f03_child_killed_between_result_and_chord_part(
    sqlite_chords: Bench, worker: Workers, settings: dict[str, bool]
) -> None:
    """Celery's chord hangs with every header task SUCCESS. No chunk runs again."""
    job = _chunks(sqlite_chords)
    killed = sqlite_chords.point(STORED, "die", chunk=1)
    sqlite_chords.start_worker(worker, killed, **settings)
    sqlite_chords.assert_healed(job, total=3, story=BODY_SENT_AGAIN)
    assert sqlite_chords.struck(killed)
    assert _attempts(sqlite_chords, job) == [1, 1, 1]


def test_f04_child_killed_between_claim_and_publish_of_the_body(chords: Bench, worker: Workers) -> None:
    """Celery's chord hangs: counted, claimed, and nobody publishes."""
    job = _chunks(chords)
    killed = chords.point(CLAIMED, "die")
    chords.start_worker(worker, killed)
    chords.assert_healed(job, total=3, story=BODY_SENT_AGAIN)
    assert chords.struck(killed)
    assert _attempts(chords, job) == [1, 1, 1]


def test_f05_rabbitmq_worker_killed_between_claim_and_publish(rabbit_chords: Bench, worker: Workers) -> None:
    """RabbitMQ delivers the last chunk again at once, and Celery's chord hangs: the rerun meets the live claim."""
    job = _chunks(rabbit_chords)
    killed = rabbit_chords.point(CLAIMED, "die_all")
    running = rabbit_chords.start_worker(worker, killed)
    running.wait()
    running.start()
    rabbit_chords.assert_healed(job, total=3, story=BODY_SENT_AGAIN)
    assert _attempts(rabbit_chords, job) == [1, 1, 1]


def test_f06_worker_killed_after_the_publish_and_its_chunk_delivered_again(
    sqlite_chords: Bench, worker: Workers
) -> None:
    """Celery counts the redelivered part once its claim has lapsed, and runs the body a second time."""
    job = _chunks(sqlite_chords)
    killed = sqlite_chords.point(PUBLISHED, "die_all")
    running = sqlite_chords.start_worker(worker, killed, broker_transport_options=IMPATIENT)
    running.wait()
    running.start()
    sqlite_chords.assert_healed(job, total=3, story=["chunk_completed", "merge_started", "job_completed"])
    wait_for(lambda: "Restoring" in running.log or _nothing_unacked(sqlite_chords), 20)
    assert len(sqlite_chords.effects()) == 1


def test_f06_a_body_delivered_twice_takes_effect_once(sqlite_chords: Bench, worker: Workers) -> None:
    """While the first runs, and after it: the second delivery ends before the user's code."""
    job = sqlite_chords.chord([sqlite_chords.work(0)], sqlite_chords.merge(seconds=1)).apply_async()
    sqlite_chords.start_worker(worker)
    wait_for(lambda: job.snapshot().stage_name == "merge", 20)
    sqlite_chords.merge().apply_async(args=([1],), task_id=job.id)
    sqlite_chords.assert_healed(job, total=1)
    sqlite_chords.merge().apply_async(args=([1],), task_id=job.id)
    late = sqlite_chords.app.signature("add", args=(1,)).apply_async()
    assert late.get(timeout=10) == 1
    assert len(sqlite_chords.effects()) == 1


def test_f07_deduplication_skips_the_rerun_that_would_have_counted(sqlite_chords: Bench, worker: Workers) -> None:
    """`worker_deduplicate_successful_tasks` and F3's window: Celery's chord hangs, the rerun is skipped."""
    job = _chunks(sqlite_chords)
    killed = sqlite_chords.point(STORED, "die_all", chunk=1)
    running = sqlite_chords.start_worker(
        worker, killed, worker_deduplicate_successful_tasks=True, broker_transport_options=IMPATIENT
    )
    running.wait()
    running.start()
    sqlite_chords.assert_healed(job, total=3, story=BODY_SENT_AGAIN)
    assert _attempts(sqlite_chords, job) == [1, 1, 1]


def test_f08_redis_lost_while_a_part_is_counted(chords: Bench, worker: Workers) -> None:
    """Celery tells a failure of a task whose SUCCESS it has stored, and fails the chord: here it is a success."""
    job = _chunks(chords)
    lost = chords.point(STORED, "lose_redis", chunk=1)
    chords.start_worker(worker, lost)
    chords.assert_healed(job, total=3, story=["chunk_completed", "body_dispatched", "merge_started", "job_completed"])
    assert chords.struck(lost)
    assert "chunk_failed" not in chords.events(job)


def test_f09_a_hard_limit_fails_the_chunk_once(chords: Bench, worker: Workers) -> None:
    """Two task_failure, both in MainProcess, one with an empty request; the second changes nothing."""
    slow = chords.work(1, seconds=30).set(time_limit=1)
    job = chords.chord([chords.work(0), slow]).apply_async()
    chords.start_worker(worker)
    last = chords.assert_healed(job, total=2, failed=[1], story=["chunk_failed", "body_dispatched", "job_partial"])
    assert "failed: it ran longer than its time limit of 1 s" in last.failures[0].message
    assert chords.events(job).count("chunk_failed") == 1


def test_f10_hard_limit_inside_a_slow_task_success_receiver(chords: Bench, worker: Workers) -> None:
    """The result is SUCCESS and its part counted; the failure that Celery tells twice is not one."""
    job = chords.chord([chords.work(0), chords.work(1).set(time_limit=2)]).apply_async()
    slow = chords.point(TOLD, "wait", chunk=1)
    chords.start_worker(worker, slow)
    chords.assert_healed(job, total=2, story=["chunk_completed", "chunk_completed", "merge_started", "job_completed"])
    assert chords.struck(slow)
    assert "chunk_failed" not in chords.events(job)


def test_f11_a_hard_limit_whose_message_is_not_acknowledged(sqlite_chords: Bench, worker: Workers) -> None:
    """Celery runs the chunk again after it has failed the chord; here the failure stands, and nothing runs twice.

    Before 5.7 no signal says so, and the message that comes again finds the failure stored.
    """
    slow = sqlite_chords.work(1, seconds=30).set(time_limit=1)
    job = sqlite_chords.chord([sqlite_chords.work(0), slow]).apply_async()
    sqlite_chords.start_worker(worker, task_acks_on_failure_or_timeout=False)
    sqlite_chords.assert_healed(job, total=2, failed=[1], story=["chunk_failed", "merge_started", "job_partial"])
    assert _attempts(sqlite_chords, job)[1] == 1
    wait_for(lambda: _nothing_unacked(sqlite_chords), 20, what="the message to be gone from the broker")


def test_f12_ignore_in_a_header_task(sqlite_chords: Bench, worker: Workers) -> None:
    """Celery's chord hangs; here the chunk is tried again, then named."""
    job = sqlite_chords.chord([sqlite_chords.work(0), sqlite_chords.work(1, do="ignore")]).apply_async()
    sqlite_chords.start_worker(worker)
    sqlite_chords.assert_healed(job, total=2, failed=[1], story=["chunk_redispatched", "chunk_failed", "job_partial"])


def test_f13_reject_and_requeue_with_early_ack(sqlite_chords: Bench, worker: Workers) -> None:
    """Celery's chord hangs: acknowledged before it was put back, the message is gone. It is sent again."""
    requeue = sqlite_chords.work(1, do="requeue", once=sqlite_chords.once())
    job = sqlite_chords.chord([sqlite_chords.work(0), requeue]).apply_async()
    sqlite_chords.start_worker(worker, **EARLY_ACK)
    sqlite_chords.assert_healed(job, total=2, story=["chunk_redispatched", "chunk_completed", "job_completed"])


def test_f13_reject_without_requeue_is_a_failure(sqlite_chords: Bench, worker: Workers) -> None:
    """MainProcess tells it, with an empty request; the task id is enough."""
    job = sqlite_chords.chord([sqlite_chords.work(0), sqlite_chords.work(1, do="reject")]).apply_async()
    sqlite_chords.start_worker(worker)
    sqlite_chords.assert_healed(job, total=2, failed=[1], story=["chunk_failed", "merge_started", "job_partial"])


def test_f14_an_unregistered_header_task_is_named(sqlite_chords: Bench, worker: Workers) -> None:
    """Celery's chord hangs: the worker throws the message away. The chunk says which module to import."""
    job = sqlite_chords.chord([sqlite_chords.work(0), sqlite_chords.app.signature("not.there")]).apply_async()
    sqlite_chords.start_worker(worker)
    last = sqlite_chords.assert_healed(job, total=2, failed=[1], story=["chunk_failed", "job_partial"])
    assert "no task named 'not.there'" in last.failures[0].message


def test_f14_an_unregistered_body_fails_the_job_and_is_named(sqlite_chords: Bench, worker: Workers) -> None:
    """The chunks' work is kept for a retry."""
    job = sqlite_chords.chord([sqlite_chords.work(0)], sqlite_chords.app.signature("not.there")).apply_async()
    sqlite_chords.start_worker(worker)
    last = follow(job)[-1]
    assert (last.status, last.chunks.completed) == (JobStatus.FAILED, 1)
    assert "no task named 'not.there'" in str(last.error)


_PUBLISH = """
from tests.support.chord_app import app
from tests.support.chords import Bench
import os, pathlib
bench = Bench(dict(os.environ), pathlib.Path({folder!r}))
bench.chord([bench.work(number) for number in range(4)]).apply_async()
"""


@pytest.mark.parametrize("sent", [0, 2], ids=["before_the_first_message", "half_way"])
def test_f15_publisher_killed_while_it_publishes_the_header(
    sqlite_chords: Bench, worker: Workers, sent: int, tmp_path: Path
) -> None:
    """Celery runs what was sent, and then there is no body and no error. Here the rest is sent, and only the rest."""
    killed = sqlite_chords.point(PUBLISHING, "die", chunk=sent)
    env = {**os.environ, **sqlite_chords.env, **fault_points.environment(killed), "PYTHONPATH": str(ROOT)}
    script = _PUBLISH.format(folder=str(tmp_path))
    publisher = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    assert publisher.returncode == -signal.SIGKILL, publisher.stderr
    [snapshot] = sqlite_chords.progress.jobs.list()
    job = sqlite_chords.progress.job(snapshot.job_id)
    sqlite_chords.start_worker(worker)
    sqlite_chords.assert_healed(job, total=4, story=["chunk_redispatched", "chunk_completed", "job_completed"])
    dispatches = [chunk["dispatches"] for chunk in sqlite_chords.progress.jobs.chunks(job.id)]
    assert dispatches == [1] * sent + [2] * (4 - sent)


def test_f16_a_gap_between_parts_longer_than_result_expires(sqlite_chords: Bench, worker: Workers) -> None:
    """Celery's chord hangs: its count has expired, and so have the results. The rows keep both."""
    job = sqlite_chords.chord([sqlite_chords.work(0), sqlite_chords.work(1, pages=5, seconds=3)]).apply_async()
    sqlite_chords.start_worker(worker, result_expires=1)
    sqlite_chords.assert_healed(job, total=2, story=BODY_SENT_AGAIN)


@pytest.mark.parametrize("settings", [{}, EARLY_ACK], ids=["late_ack", "early_ack"])
def test_f17_a_worker_killed_in_the_body(chords: Bench, worker: Workers, settings: dict[str, bool]) -> None:
    """Celery's chord hangs with early ack. The dead body's claim lapses, and the next one takes effect."""
    job = chords.chord([chords.work(0)], chords.merge(seconds=0.5, do="die_all", once=chords.once())).apply_async()
    running = chords.start_worker(worker, **settings)
    running.wait()
    running.start()
    chords.assert_healed(job, total=1, story=["merge_started", "body_dispatched", "merge_started", "job_completed"])


def test_f17_a_child_killed_in_the_body(chords: Bench, worker: Workers) -> None:
    """The rest of the worker lives on, and tells that a process was lost: no failure of the job."""
    job = chords.chord([chords.work(0)], chords.merge(seconds=0.5, do="die", once=chords.once())).apply_async()
    chords.start_worker(worker)
    chords.assert_healed(job, total=1, story=["merge_started", "merge_started", "job_completed"])


@pytest.mark.parametrize("die", ["before", "after"])
def test_f17_a_body_killed_around_the_commit_of_its_own_transaction(chords: Bench, worker: Workers, die: str) -> None:
    """Its effect and the end of the job are one: both are there once, with the result, on whichever side it dies."""
    chords.progress.database.write(lambda conn: execute(conn, "CREATE TABLE effects (number INTEGER)"))
    body = chords.app.signature("merge_in_transaction", args=(die, chords.once()))
    job = chords.chord([chords.work(3), chords.work(4)], body).apply_async()
    chords.start_worker(worker)
    assert follow(job)[-1].status is JobStatus.COMPLETED
    assert job.get(timeout=30) == 7
    assert sql.rows(chords.progress.database, "SELECT number FROM effects") == [{"number": 1}]
    ends = [event for event in chords.events(job) if event in ("merge_started", "job_completed")]
    assert ends == ["merge_started"] * (2 if die == "before" else 1) + ["job_completed"]
    assert chords.progress.audit() == []


@pytest.mark.parametrize("settings", [{}, EARLY_ACK], ids=["late_ack", "early_ack"])
def test_f18_cold_shutdown_in_a_body(sqlite_chords: Bench, worker: Workers, settings: dict[str, bool]) -> None:
    """Celery says RETRY and sends nothing. The next worker merges."""
    job = sqlite_chords.chord([sqlite_chords.work(0)], sqlite_chords.merge(seconds=3)).apply_async()
    running = sqlite_chords.start_worker(worker, **settings)
    wait_for(lambda: job.snapshot().stage_name == "merge", 20)
    running.quit()
    running.start()
    sqlite_chords.assert_healed(job, total=1, story=["merge_started", "merge_started", "job_completed"])


@pytest.mark.parametrize("settings", [{}, EARLY_ACK], ids=["late_ack", "early_ack"])
def test_f18_cold_shutdown_in_a_chunk(sqlite_chords: Bench, worker: Workers, settings: dict[str, bool]) -> None:
    """The rows say that the chunk waits again, not that it failed."""
    job = sqlite_chords.chord([sqlite_chords.work(0, pages=5, seconds=3)]).apply_async()
    running = sqlite_chords.start_worker(worker, **settings)
    wait_for(lambda: job.snapshot().chunks.processing == 1, 20)
    running.quit()
    assert job.snapshot().chunks.failed == 0
    running.start()
    sqlite_chords.assert_healed(job, total=1, story=["chunk_started", "chunk_started", "chunk_completed"])


def test_f19_a_visibility_timeout_shorter_than_the_chunk(sqlite_chords: Bench, worker: Workers) -> None:
    """Celery ran such a chunk three times, overlapping. Here the copies end before the user's code."""
    # kombu before 5.7 looks for such messages every ten seconds.
    seconds = 9 if hasattr(Channel, "unacked_restore_interval") else 18
    job = sqlite_chords.chord([sqlite_chords.work(0, pages=10, seconds=seconds), sqlite_chords.work(1)]).apply_async()
    running = sqlite_chords.start_worker(worker, broker_transport_options=IMPATIENT)
    sqlite_chords.assert_healed(job, total=2, story=["chunk_started", "chunk_completed", "merge_started"])
    assert running.log.count(f"Task work[{job.id}.c0.1] received") > 1, "no copy was delivered"
    assert _attempts(sqlite_chords, job)[0] == 1


def test_f20_a_chunk_that_ended_never_says_progress_again(sqlite_chords: Bench, worker: Workers) -> None:
    """`update_state` after FAILURE or REVOKED would turn the state back; it comes from the task's own thread only."""
    limited = sqlite_chords.work(0, pages=3000, seconds=30).set(time_limit=2)
    job = sqlite_chords.chord([limited, sqlite_chords.work(1)]).apply_async()
    # MainProcess stores the FAILURE, tells it, and only then kills the process that reports on.
    told = sqlite_chords.point(KILLED, "pause", chunk=0)
    sqlite_chords.start_worker(worker, told)
    sqlite_chords.assert_healed(job, total=2, failed=[0], story=["chunk_started", "chunk_failed", "job_partial"])
    assert sqlite_chords.struck(told)
    result = sqlite_chords.app.AsyncResult(f"{job.id}.c0.1")
    late = sqlite_chords.app.signature("add", args=(1,)).apply_async()
    assert late.get(timeout=10) == 1
    assert result.state == "FAILURE"


def test_f21_a_failed_job_does_not_wait_for_its_last_part(sqlite_chords: Bench, worker: Workers) -> None:
    """Celery tells the body's errback when the last part returns; here the job fails with the first failure."""
    header = [sqlite_chords.work(0, do="fail"), sqlite_chords.work(1, pages=50, seconds=60)]
    job = sqlite_chords.chord(header, on_chunk_failure="fail").apply_async()
    sqlite_chords.start_worker(worker)
    last = follow(job, timeout=20)[-1]
    assert (last.status, last.error) == (JobStatus.FAILED, "Chunk 1 (pages 1-5) failed: boom")
    assert last.chunks.completed == 0
    assert sqlite_chords.effects() == []


def test_f22_a_failed_header_task_does_not_take_the_body_with_it(chords: Bench, worker: Workers) -> None:
    """Celery never runs the body, and sends no signal for it. Here it merges what there is."""
    job = chords.chord([chords.work(0), chords.work(1, do="fail"), chords.work(2)]).apply_async()
    chords.start_worker(worker)
    last = chords.assert_healed(job, total=3, failed=[1], story=["chunk_failed", "body_dispatched", "job_partial"])
    assert last.failures[0].message == "Chunk 2 (pages 6-10) failed: boom"


def test_f23_a_result_backend_that_polls(database_results: Bench, worker: Workers) -> None:
    """`celery.chord_unlock` runs and retries by the second: it is no chunk, and not in the way of one."""
    job = _chunks(database_results)
    running = database_results.start_worker(worker)
    database_results.assert_healed(job, total=3, story=["chunk_completed", "merge_started", "job_completed"])
    assert "celery.chord_unlock" in running.log


def test_f24_two_beats_do_no_harm(sqlite_chords: Bench, worker: Workers, beat: Beats) -> None:
    """Every tick comes twice, each step takes effect once."""
    header = [sqlite_chords.work(n, do="die", seconds=0.3, once=sqlite_chords.once(f"once{n}")) for n in range(3)]
    job = sqlite_chords.chord(header).apply_async()
    sqlite_chords.start_worker(worker)
    beat("tests.support.chord_app", env=sqlite_chords.env)
    sqlite_chords.assert_healed(job, total=3)


def test_f25_one_frozen_signature_used_twice(sqlite_chords: Bench, worker: Workers) -> None:
    """One task id would succeed twice; each place in the header is a chunk of its own."""
    twice = sqlite_chords.work(0)
    twice.freeze()
    job = sqlite_chords.chord([twice, twice]).apply_async()
    sqlite_chords.start_worker(worker)
    last = follow(job)[-1]
    assert (last.status, last.chunks.completed) == (JobStatus.COMPLETED, 2)
    [effect] = sqlite_chords.effects()
    assert effect.endswith("[0, 0]")


@pytest.mark.parametrize("backend", ["sqlite_chords", "database_results"], ids=["redis", "database"])
def test_f26_ignore_result_in_the_header(backend: str, request: pytest.FixtureRequest, worker: Workers) -> None:
    """Celery polls for ever on a database backend: a chunk's result is stored whatever its task says."""
    chords: Bench = request.getfixturevalue(backend)
    job = chords.chord([chords.work(n).set(ignore_result=True) for n in range(2)]).apply_async()
    running = chords.start_worker(worker)
    chords.assert_healed(job, total=2, story=["chunk_completed", "merge_started", "job_completed"])
    wait_for(lambda: _nothing_unacked(chords), LEASE + 4 * TICK + 10, what="nothing to poll any more")
    assert running.alive


def _nothing_unacked(chords: Bench) -> bool:
    """Whether the broker has handed over everything and got it acknowledged."""
    import redis

    with redis.Redis.from_url(chords.env["CELERY_BROKER_URL"]) as client:
        return client.hlen("unacked") == 0 and client.llen("celery") == 0
