"""Async readers of a job: no thread, task or subscription of their own, and none that they leave behind."""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
import threading
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import redis
from celery.exceptions import ChordError, TaskRevokedError
from celery.exceptions import TimeoutError as CeleryTimeoutError

from celery_progress_ext import JobNotFound, JobSnapshot, JobStatus
from celery_progress_ext.tracked_job import TrackedJob
from tasks.embedded.servers import RedisServer
from tests.support.chords import MODULE, Bench, environment
from tests.support.processes import WorkerProcess

Workers = Callable[..., WorkerProcess]


async def seen(job: TrackedJob, timeout: float = 30.0) -> list[JobSnapshot]:
    """All snapshots; neither a version nor a percent goes back."""
    found = [snapshot async for snapshot in job.awatch(timeout)]
    for values in ([each.version for each in found], [each.progress_pct for each in found]):
        assert values == sorted(values)
    return found


def subscribers(url: str, *jobs: TrackedJob) -> list[int]:
    """How many connections are subscribed to each job's channel."""
    with redis.Redis.from_url(url) as client:
        return [number for _, number in client.pubsub_numsub(*(f"progress:job:{job.id}" for job in jobs))]


async def until(true: Callable[[], Any], seconds: float = 10.0) -> None:
    """Wait until it is so, beside other tasks."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.02)


def reading_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("progress-read")]


def test_a_job_is_followed_to_its_end(sqlite_chords: Bench, worker: Workers) -> None:
    """As with `watch`, and its result is there then."""
    sqlite_chords.start_worker(worker)
    job = sqlite_chords.chord([sqlite_chords.work(number, seconds=0.2) for number in range(4)]).apply_async()

    async def follow() -> tuple[list[JobSnapshot], Any]:
        return await seen(job), await job.aget(timeout=10)

    snapshots, result = asyncio.run(follow())
    assert snapshots[-1].status is JobStatus.COMPLETED
    assert result == job.get(timeout=5)


def test_readers_share_one_subscription_and_leave_nothing(sqlite_chords: Bench, redis_url: str) -> None:
    """However many there are, whether they are cancelled, closed or just forgotten."""
    jobs = [sqlite_chords.chord([sqlite_chords.work(0)]).apply_async() for _ in range(3)]
    context = sqlite_chords.progress.context

    async def read(job: TrackedJob) -> None:
        async for _ in job.awatch():
            pass

    async def forgotten(job: TrackedJob) -> None:
        async for _ in job.awatch():
            break

    async def closed(job: TrackedJob) -> None:
        async with aclosing(job.awatch()) as watching:
            await anext(watching)

    async def come_and_go() -> None:
        before = len(asyncio.all_tasks())
        readers = [asyncio.create_task(read(jobs[number % 3])) for number in range(300)]
        await until(lambda: context.loop_readers.count >= 300)
        await until(lambda: subscribers(redis_url, *jobs) == [1, 1, 1])
        assert len(asyncio.all_tasks()) <= before + 300 + 1 + 3  # the subscription's, and a read a job
        assert len(reading_threads()) <= 4
        await asyncio.gather(*(closed(job) for job in jobs), *(forgotten(job) for job in jobs))
        for reader in readers[::2]:
            reader.cancel()
        await until(lambda: context.loop_readers.count == 150)
        assert subscribers(redis_url, *jobs) == [1, 1, 1]
        for reader in readers[1::2]:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        await until(lambda: len(asyncio.all_tasks()) == before)
        await until(lambda: subscribers(redis_url, *jobs) == [0, 0, 0])
        await until(lambda: not reading_threads())

    asyncio.run(come_and_go())
    with redis.Redis.from_url(redis_url) as client:
        assert not [each for each in client.client_list() if each["cmd"] == "subscribe"]


def test_what_nobody_broadcasts_is_read(sqlite_url: str, redis_url: str, tmp_path: Path, worker: Workers) -> None:
    """Without Redis for snapshots, as with RabbitMQ and a database for results."""
    conf = {"progress_redis_url": None, "result_backend": f"db+sqlite:///{tmp_path / 'results.db'}"}
    bench = Bench({**environment(redis_url, sqlite_url), "CHORD_APP_CONF": json.dumps(conf)}, tmp_path)
    try:
        assert bench.progress.settings.redis_url is None
        worker(MODULE, env=bench.env)
        job = bench.chord([bench.work(number) for number in range(2)]).apply_async()
        assert asyncio.run(seen(job))[-1].status is JobStatus.COMPLETED
    finally:
        bench.close()


def test_a_reader_survives_a_restart_of_redis(
    own_redis: RedisServer, sqlite_url: str, redis_url: str, tmp_path: Path
) -> None:
    """It reads by itself meanwhile, and is subscribed again afterwards."""
    conf = {"progress_redis_url": own_redis.url}
    bench = Bench({**environment(redis_url, sqlite_url), "CHORD_APP_CONF": json.dumps(conf)}, tmp_path)
    job = bench.chord([bench.work(0)]).apply_async()

    async def read() -> None:
        subscription = bench.progress.context.loop_readers.subscription
        watching = job.awatch()
        try:
            await anext(watching)
            assert subscription.connected
            own_redis.kill()
            following = asyncio.ensure_future(anext(watching))
            await until(lambda: not subscription.connected)
            job.cancel()
            assert (await following).status is JobStatus.CANCELLED
            own_redis.restart()
            await until(lambda: subscription.connected)
        finally:
            await watching.aclose()

    try:
        asyncio.run(read())
    finally:
        bench.close()


def test_a_missed_broadcast_is_made_up_for(sqlite_chords: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end is seen though nothing was published of it."""
    job = sqlite_chords.chord([sqlite_chords.work(0)]).apply_async()

    async def read() -> list[JobSnapshot]:
        watching = asyncio.create_task(seen(job, 20))
        await until(lambda: sqlite_chords.progress.context.loop_readers.subscription.connected)
        monkeypatch.setattr(sqlite_chords.progress.broadcaster, "publish", lambda *_, **__: False)
        await asyncio.to_thread(job.cancel)
        return await watching

    assert asyncio.run(read())[-1].status is JobStatus.CANCELLED


def test_each_event_loop_has_readers_of_its_own(sqlite_chords: Bench) -> None:
    """One after another, and at the same time in two threads; a process that was forked begins anew."""
    job = sqlite_chords.chord([sqlite_chords.work(0)]).apply_async()

    async def first() -> int:
        async for snapshot in job.awatch(5):
            return snapshot.version
        raise AssertionError("nothing came")

    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(asyncio.run(first()))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found += [asyncio.run(first()), asyncio.run(first())]

    async def fork_while_reading() -> int | None:
        async for _ in job.awatch(5):
            child = multiprocessing.get_context("fork").Process(target=lambda: asyncio.run(first()))
            child.start()
            await asyncio.to_thread(child.join, 20)
            return child.exitcode
        return None

    assert asyncio.run(fork_while_reading()) == 0
    assert len(set(found)) == 1 and len(found) == 4


def test_an_unknown_job_is_not_waited_for(sqlite_chords: Bench) -> None:
    """Unless one is expected."""
    job = sqlite_chords.progress.job("job_unknown")

    async def read() -> None:
        with pytest.raises(JobNotFound):
            await anext(job.awatch())
        with pytest.raises(JobNotFound):
            await job.aget(timeout=5)
        with pytest.raises(JobNotFound):
            await job.asnapshot()

    asyncio.run(read())


def test_a_result_is_what_get_would_give(sqlite_chords: Bench, worker: Workers) -> None:
    """The value, the error, the time-out; of the last task where a chain goes on."""
    sqlite_chords.start_worker(worker)
    failing = sqlite_chords.chord([sqlite_chords.work(0, do="fail")], on_chunk_failure="fail").apply_async()
    slow = sqlite_chords.chord([sqlite_chords.work(0, seconds=60.0)]).apply_async()

    async def read() -> None:
        with pytest.raises(ChordError):
            await failing.aget(timeout=20)
        assert isinstance(await failing.aget(timeout=5, propagate=False), ChordError)
        with pytest.raises(CeleryTimeoutError):
            await slow.aget(timeout=0.3)
        waiting = asyncio.create_task(slow.aget(timeout=20))
        await asyncio.to_thread(slow.cancel)
        with pytest.raises(TaskRevokedError):
            await waiting

    asyncio.run(read())
    gc.collect()
