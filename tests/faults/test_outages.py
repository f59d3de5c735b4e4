"""Processes and servers that die, hang or go away while jobs run, on Redis and on RabbitMQ.

What goes wrong inside Celery itself is in `test_celery_cases.py`. Each ends with a job that is over, a body that took
effect once, and counters that equal the rows.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from celery_progress_ext import JobStatus
from celery_progress_ext.storage import Database
from tasks.embedded.servers import PostgresServer, RedisServer, ServerFailed
from tests.support import sql
from tests.support.chord_app import LEASE, TICK
from tests.support.chords import Bench, environment, follow
from tests.support.faultproxy import FaultProxy
from tests.support.processes import WorkerProcess
from tests.support.rabbit import RabbitServer
from tests.support.services import rabbit_or_skip
from tests.support.sql import execute
from tests.support.waiting import wait_for

Workers = Callable[..., WorkerProcess]
Beats = Callable[..., object]

#: A group's AsyncResults ask Redis to forget them when they are collected, and that Redis is gone.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def own_rabbit(redis_url: str, sqlite_url: str, tmp_path: Path) -> Iterator[tuple[RabbitServer, Bench]]:
    """A RabbitMQ of the test's own, to be killed."""
    with rabbit_or_skip(tmp_path / "rabbit") as server:
        bench = Bench(dict(environment(redis_url, sqlite_url, broker_url=server.url)), tmp_path)
        yield server, bench
        bench.close()


@pytest.fixture
def own_chords(own_redis: RedisServer, sqlite_url: str, tmp_path: Path) -> Iterator[Bench]:
    """On a Redis of the test's own, to be stopped and flushed."""
    bench = Bench(dict(environment(own_redis.database_url(0), sqlite_url)), tmp_path)
    yield bench
    bench.close()


def test_a_killed_child_is_replaced_and_its_chunk_alone_runs_again(any_broker: Bench, worker: Workers) -> None:
    """SIGKILL of the process that works on chunk 1, as the kernel does when memory is short."""
    dying = any_broker.work(1, pages=5, seconds=1, do="die", once=any_broker.once())
    job = any_broker.chord([any_broker.work(0), dying, any_broker.work(2)]).apply_async()
    any_broker.start_worker(worker)
    any_broker.assert_healed(job, total=3, story=["chunk_started", "chunk_started", "job_completed"])
    assert [chunk["attempt"] for chunk in any_broker.progress.jobs.chunks(job.id)] == [1, 2, 1]


def test_a_whole_worker_killed_at_work_is_replaced(any_broker: Bench, worker: Workers) -> None:
    """Redis would deliver its messages again after an hour, RabbitMQ does at once: what is finished stays finished."""
    header = [any_broker.work(n, pages=10, seconds=1.5) for n in range(4)]
    job = any_broker.chord(header).apply_async()
    running = any_broker.start_worker(worker)

    def the_second_two_have_just_begun() -> bool:
        counts = job.snapshot().chunks
        return counts.completed == counts.processing == 2

    wait_for(the_second_two_have_just_begun, 20)
    rows = any_broker.progress.jobs.chunks(job.id)
    finished = {row["chunk_index"]: row["attempt"] for row in rows if row["status"] == "completed"}
    running.kill()
    running.start()
    any_broker.assert_healed(job, total=4)
    rows = any_broker.progress.jobs.chunks(job.id)
    assert finished.items() <= {row["chunk_index"]: row["attempt"] for row in rows}.items()


def test_rabbitmq_restarted_while_chunks_run(own_rabbit: tuple[RabbitServer, Bench], worker: Workers) -> None:
    """Killed and started again: durable queues come back, and what was not acknowledged is delivered again."""
    server, chords = own_rabbit
    job = chords.chord([chords.work(n, pages=5, seconds=1.5) for n in range(4)]).apply_async()
    chords.start_worker(worker)
    wait_for(lambda: job.snapshot().chunks.processing == 2, 20)
    server.kill()
    server.start()
    chords.assert_healed(job, total=4)


def test_a_purged_queue_loses_nothing(rabbit_chords: Bench, worker: Workers) -> None:
    """An operator empties RabbitMQ's queue: the chunks that waited in it are sent again."""
    job = rabbit_chords.chord([rabbit_chords.work(n, pages=2, seconds=1) for n in range(5)]).apply_async()
    rabbit_chords.start_worker(worker)
    wait_for(lambda: job.snapshot().chunks.processing == 2, 20)
    assert rabbit_chords.app.control.purge() > 0
    rabbit_chords.assert_healed(job, total=5, story=["chunk_redispatched", "job_completed"])


def test_rabbitmq_keeps_a_long_queue_waiting_in_peace(rabbit_chords: Bench, worker: Workers) -> None:
    """Chunks that wait longer than a lease behind others are not sent twice while the queue holds them."""
    job = rabbit_chords.chord([rabbit_chords.work(n, pages=2, seconds=2) for n in range(6)]).apply_async()
    rabbit_chords.start_worker(worker, args=["-c", "1"])
    rabbit_chords.assert_healed(job, total=6)
    assert "chunk_redispatched" not in rabbit_chords.events(job)


def test_a_chunk_that_kills_every_worker_is_given_up_and_named(sqlite_chords: Bench, worker: Workers) -> None:
    """A poisonous page must not take the pool down for ever (P9)."""
    header = [sqlite_chords.work(0), sqlite_chords.work(1, seconds=0.3, do="die")]
    job = sqlite_chords.chord(header).apply_async()
    sqlite_chords.start_worker(worker)
    last = follow(job, timeout=60)[-1]
    assert last.status is JobStatus.PARTIAL
    assert "lost 3 times" in last.failures[0].message or "tried 3 times" in last.failures[0].message


def test_flushall_of_the_broker_loses_nothing(own_chords: Bench, own_redis: RedisServer, worker: Workers) -> None:
    """Messages, results and the chord's counter are gone; the rows are not."""
    header = [own_chords.work(n, pages=5, seconds=1) for n in range(5)]
    job = own_chords.chord(header).apply_async()
    own_chords.start_worker(worker)
    wait_for(lambda: job.snapshot().chunks.completed >= 1, 20)
    with redis.Redis.from_url(own_redis.url) as client:
        client.flushall()
    own_chords.assert_healed(job, total=5)


def test_cancel_and_retry_hold_while_redis_is_away(own_chords: Bench, own_redis: RedisServer, worker: Workers) -> None:
    """Both are changes of the rows; what could not be sent is sent when Redis is back."""
    job = own_chords.chord([own_chords.work(n) for n in range(2)]).apply_async()
    own_redis.kill()
    assert job.cancel().status is JobStatus.CANCELLED
    assert job.retry_failed().status is JobStatus.PROCESSING
    own_redis.start()
    own_chords.start_worker(worker)
    own_chords.assert_healed(job, total=2)


def test_redis_away_while_a_chunk_finishes(own_chords: Bench, own_redis: RedisServer, worker: Workers) -> None:
    """Killed and started again with what it had on disk: nothing is lost."""
    header = [own_chords.work(n, pages=5, seconds=1.5) for n in range(4)]
    job = own_chords.chord(header).apply_async()
    own_chords.start_worker(worker)
    wait_for(lambda: job.snapshot().chunks.processing == 2, 20)
    own_redis.kill()
    own_redis.start()
    own_chords.assert_healed(job, total=4)


def test_the_database_away_while_a_chunk_finishes(
    redis_url: str, postgres_url: str, tmp_path: Path, worker: Workers, fault_proxy: Callable[[str], FaultProxy]
) -> None:
    """The success is in the result backend; when the database returns, it is recorded."""
    proxy = fault_proxy(postgres_url)
    direct = Bench(dict(environment(redis_url, postgres_url)), tmp_path)
    job = direct.chord([direct.work(n, pages=5, seconds=1) for n in range(3)]).apply_async()
    through = {**direct.env, "PROGRESS_DATABASE_URL": proxy.url(postgres_url)}
    worker("tests.support.chord_app", env=through, args=["-B", "--schedule", str(tmp_path / "beat")])
    wait_for(lambda: job.snapshot().chunks.processing == 2, 20)
    proxy.down()
    result = direct.app.AsyncResult(f"{job.id}.c0.1")
    wait_for(lambda: result.state == "SUCCESS", 20)
    proxy.up()
    direct.assert_healed(job, total=3)
    direct.close()


def test_a_result_that_cannot_be_stored_is_not_the_chunks_failure(
    redis_url: str, sqlite_url: str, tmp_path: Path, worker: Workers, fault_proxy: Callable[[str], FaultProxy]
) -> None:
    """Celery calls it a failure of the task; the chunk did its work, and runs again rather than be missing."""
    proxy = fault_proxy(redis_url)
    direct = Bench(dict(environment(redis_url, sqlite_url)), tmp_path)
    job = direct.chord([direct.work(n, pages=5, seconds=1.5) for n in range(2)]).apply_async()
    through = environment(proxy.url(redis_url), sqlite_url)
    running = worker("tests.support.chord_app", env=through, args=["-B", "--schedule", str(tmp_path / "beat")])
    wait_for(lambda: job.snapshot().chunks.processing == 2, 20)
    proxy.down()
    running.wait_for_log("Exception raised outside body")
    proxy.up()
    # A supervisor's part: kombu at times takes the whole worker down with a connection that broke while it rejected.
    running.restart()
    direct.assert_healed(job, total=2)
    direct.close()


def test_a_retry_that_cannot_be_published_is_not_the_chunks_failure(
    redis_url: str, sqlite_url: str, tmp_path: Path, worker: Workers, fault_proxy: Callable[[str], FaultProxy]
) -> None:
    """`Task.retry` rejects its message when the broker is away; the chunk is sent again."""
    proxy = fault_proxy(redis_url)
    direct = Bench(dict(environment(redis_url, sqlite_url)), tmp_path)
    chunk = direct.work(1, pages=5, seconds=1.5, do="retry", once=direct.once())
    job = direct.chord([direct.work(0), chunk]).apply_async()
    through = environment(proxy.url(redis_url), sqlite_url)
    running = worker("tests.support.chord_app", env=through, args=["-B", "--schedule", str(tmp_path / "beat")])
    wait_for(lambda: job.snapshot().pages_done >= 2, 20)
    proxy.down()
    running.wait_for_log("reject requeue=False")
    proxy.up()
    # A supervisor's part: kombu at times takes the whole worker down with a connection that broke while it rejected.
    running.restart()
    direct.assert_healed(job, total=2)
    direct.close()


def test_what_was_told_survives_kill_9_of_postgresql() -> None:
    """A version that readers have seen is not taken back; a job that was given an id is there."""
    with PostgresServer() as server:
        database = Database(server.url)
        with database.engine.begin() as conn:
            conn.exec_driver_sql("CREATE TABLE told (version INTEGER)")
        for version in range(5):
            database.write(lambda conn, version=version: execute(conn, "INSERT INTO told VALUES (:v)", v=version))
        server.kill()
        wait_for(lambda: _starts(server), 20)
        assert [row["version"] for row in sql.rows(database, "SELECT version FROM told ORDER BY version")] == [
            0,
            1,
            2,
            3,
            4,
        ]
        database.dispose()


def _starts(server: PostgresServer) -> bool:
    with contextlib.suppress(ServerFailed):  # the killed one's processes may still be ending
        server.start()
    return server.answers()


def test_the_database_away_when_the_merge_would_begin(
    redis_url: str, postgres_url: str, tmp_path: Path, worker: Workers, fault_proxy: Callable[[str], FaultProxy]
) -> None:
    """A body that cannot be claimed now has not failed; it is sent again."""
    proxy = fault_proxy(postgres_url)
    direct = Bench(dict(environment(redis_url, postgres_url)), tmp_path)
    job = direct.chord([direct.work(0, pages=5, seconds=1)]).apply_async()
    through = {**direct.env, "PROGRESS_DATABASE_URL": proxy.url(postgres_url)}
    running = worker("tests.support.chord_app", env=through, args=["-B", "--schedule", str(tmp_path / "beat")])
    wait_for(lambda: job.snapshot().chunks.processing == 1, 20)
    proxy.down()
    running.wait_for_log("body_not_claimed")
    proxy.up()
    direct.assert_healed(job, total=1)
    direct.close()


def test_nothing_waits_for_a_free_worker_to_be_told_or_healed(sqlite_chords: Bench, worker: Workers) -> None:
    """The tick runs in beat: behind a queue full of long chunks it would come when there is nothing left to heal."""
    header = [sqlite_chords.work(n, pages=2, seconds=6) for n in range(4)]
    job = sqlite_chords.chord(header).apply_async()
    sqlite_chords.start_worker(worker, args=["-c", "1"])
    wait_for(lambda: job.snapshot().chunks.processing == 1, 20)
    lost = f"{job.id}.c3"
    with sqlite_chords.progress.database.engine.begin() as conn:
        conn.exec_driver_sql(
            "UPDATE document_ocr_chunks SET status = 'processing', attempt = 1, leased_until = 1 WHERE id = ?", (lost,)
        )
        conn.exec_driver_sql("UPDATE processing_jobs SET processing_chunks = 2, pending_chunks = pending_chunks - 1")
    healed = wait_for(lambda: "chunk_redispatched" in sqlite_chords.events(job), LEASE + 2 * TICK + 2)
    assert healed
    assert job.snapshot().chunks.completed == 0
    job.cancel()


def test_a_job_without_any_worker_is_told_to_be_stalled(sqlite_chords: Bench, worker: Workers, beat: Beats) -> None:
    """Every worker is dead, beat alone is left: the stream does not fall silent."""
    job = sqlite_chords.chord([sqlite_chords.work(1, pages=10, seconds=20)]).apply_async()
    running = worker("tests.support.chord_app", env=sqlite_chords.env)
    wait_for(lambda: job.snapshot().chunks.processing == 1, 20)
    running.kill()
    beat("tests.support.chord_app", env=sqlite_chords.env)

    def told() -> bool:
        kept = sqlite_chords.progress.broadcaster.kept(job.id)
        return kept is not None and kept.payload["chunks"]["pending"] == 1

    wait_for(told, LEASE + 4 * TICK + 5, what="the lost chunk to be told")


def test_a_warm_shutdown_finishes_its_chunks_and_leaves_the_rest(sqlite_chords: Bench, worker: Workers) -> None:
    """A deploy: the next worker takes the rest, nothing runs twice."""
    job = sqlite_chords.chord([sqlite_chords.work(n, pages=2, seconds=1) for n in range(4)]).apply_async()
    running = sqlite_chords.start_worker(worker)
    wait_for(lambda: job.snapshot().chunks.processing == 2, 20)
    running.stop()
    counts = job.snapshot().chunks
    assert (counts.processing, counts.failed) == (0, 0)
    running.start()
    sqlite_chords.assert_healed(job, total=4)
    assert {chunk["attempt"] for chunk in sqlite_chords.progress.jobs.chunks(job.id)} == {1}


def test_a_worker_that_hangs_is_called_stalled_then_replaced(sqlite_chords: Bench, worker: Workers) -> None:
    """SIGSTOP of the whole group: no beat, so its lease lapses; when it wakes up, what it says is out of date."""
    job = sqlite_chords.chord([sqlite_chords.work(0, pages=10, seconds=2)]).apply_async()
    frozen = sqlite_chords.start_worker(worker)
    wait_for(lambda: job.snapshot().pages_done >= 1, 20)
    os.killpg(frozen.pid, signal.SIGSTOP)
    try:
        wait_for(lambda: job.snapshot().stalled, LEASE + 4 * TICK + 5, what="the chunk to be called stalled")
        sqlite_chords.folder = sqlite_chords.folder / "second"
        sqlite_chords.folder.mkdir()
        sqlite_chords.start_worker(worker)
        wait_for(lambda: job.snapshot().status.terminal, 30)
    finally:
        os.killpg(frozen.pid, signal.SIGCONT)
    sqlite_chords.assert_healed(job, total=1)
