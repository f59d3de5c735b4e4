"""Messages that the broker lost while other jobs keep their queue full, on Redis and on RabbitMQ."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

import kombu
import pytest
import redis

from celery_progress_ext.tracked_job import TrackedJob
from tests.support import sql
from tests.support.chord_app import LEASE, TICK
from tests.support.chords import Bench
from tests.support.faultproxy import FaultProxy
from tests.support.processes import WorkerProcess
from tests.support.waiting import wait_for

Workers = Callable[..., WorkerProcess]

#: Beyond a lease and two ticks, for a loaded machine.
SLACK = 1.0
OVERTAKEN = "no worker started it, but one that was sent after it"

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class SteadyLoad:
    """Small jobs, so many that their queue never runs empty."""

    def __init__(self, chords: Bench) -> None:
        self._chords = chords
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.jobs: list[TrackedJob] = []
        #: Messages in the queue whenever it was looked at.
        self.waiting: list[int] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        merge = self._chords.app.signature("merge", args=(str(self._chords.folder / "load.out"),))
        while not self._over.wait(0.05):
            if waiting(self._chords) < 20:
                header = [self._chords.work(number, seconds=0.1) for number in range(10)]
                self.jobs.append(self._chords.chord(header, merge.clone(), document_id="load").apply_async())
            self.waiting.append(waiting(self._chords))


def waiting(chords: Bench) -> int:
    """How many messages are in the queue."""
    count = chords.progress.publisher.waiting({"task": "work"})
    assert count is not None
    return count


def lose(chords: Bench, task_id: str) -> None:
    """Take one message out of the queue, so that nobody knows of it; the others stay in their order."""
    url = chords.env["CELERY_BROKER_URL"]
    if url.startswith("redis"):
        with redis.Redis.from_url(url) as client:
            [message] = [
                text for text in client.lrange("celery", 0, -1) if json.loads(text)["headers"]["id"] == task_id
            ]
            assert client.lrem("celery", 1, message) == 1
        return
    with kombu.Connection(url) as connection, connection.channel() as channel:
        taken: list[Any] = []
        while (message := channel.basic_get("celery")) is not None:
            taken.append(message)
        for message in taken:
            if message.headers["id"] == task_id:
                channel.basic_ack(message.delivery_tag)
            else:
                channel.basic_reject(message.delivery_tag, requeue=True)
        assert task_id in [message.headers["id"] for message in taken]


def sent_again(chords: Bench, job: TrackedJob) -> list[tuple[int, str]]:
    """(chunk index, reason) of each message that was sent again."""
    history = chords.progress.jobs.history(job.id)
    return [(event["chunk_index"], event["message"]) for event in history if event["type"] == "chunk_redispatched"]


def sent_again_after(chords: Bench, job: TrackedJob, chunk: int, *, sent_by: float) -> float:
    """How long after the first start of what was sent later, in the job or in later ones. Seconds."""
    row = sql.row(
        chords.progress.database,
        """SELECT (SELECT at FROM job_events WHERE job_id = :id AND type = 'chunk_redispatched') - MIN(c.started_at)
             AS seconds
           FROM document_ocr_chunks c JOIN processing_jobs j ON j.id = c.job_id
           WHERE c.job_id = :id AND c.chunk_index > :chunk
             OR j.created_at > (SELECT created_at FROM processing_jobs WHERE id = :id) + :sent_by""",
        id=job.id,
        chunk=chunk,
        sent_by=sent_by,
    )
    assert row is not None
    return float(row["seconds"])


@pytest.mark.parametrize("chunk", [1, 3], ids=["before_others_of_its_job", "last_of_its_job"])
def test_a_lost_message_is_sent_again_while_other_jobs_keep_the_queue_full(
    any_broker: Bench, worker: Workers, chunk: int
) -> None:
    """Its queue will not be empty for hours: it was overtaken, by the rest of its job or by later ones."""
    header = [any_broker.work(number, seconds=0.1) for number in range(4)]
    job = any_broker.chord(header).apply_async()
    lose(any_broker, f"{job.id}.c{chunk}.1")
    with SteadyLoad(any_broker) as load:
        wait_for(lambda: load.jobs and waiting(any_broker) >= 10)
        any_broker.start_worker(worker)
        any_broker.assert_healed(job, total=4, story=["chunk_redispatched", "chunk_completed", "job_completed"])
        seen = len(load.waiting)
        assert min(load.waiting[:seen]) > 0
    assert sent_again(any_broker, job) == [(chunk, OVERTAKEN)]
    assert [row["attempt"] for row in any_broker.progress.jobs.chunks(job.id)] == [1] * 4
    took = sent_again_after(any_broker, job, chunk, sent_by=0.0)
    assert LEASE <= took <= LEASE + 2 * TICK + SLACK
    for other in load.jobs:
        assert sent_again(any_broker, other) == []


def test_a_merely_long_queue_is_waited_for(any_broker: Bench, worker: Workers) -> None:
    """Several jobs, each waiting for longer than a lease behind the others: nothing is sent twice."""
    merge = any_broker.app.signature("merge", args=(str(any_broker.folder / "others.out"),))
    jobs = [
        any_broker.chord([any_broker.work(n, seconds=0.4) for n in range(8)], merge.clone()).apply_async()
        for _ in range(3)
    ]
    last = any_broker.chord([any_broker.work(0)]).apply_async()
    any_broker.start_worker(worker, args=["-c", "1"])
    any_broker.assert_healed(last, total=1)
    for job in (*jobs, last):
        assert sent_again(any_broker, job) == []
        assert {row["attempt"] for row in any_broker.progress.jobs.chunks(job.id)} == {1}


def test_a_message_that_was_delivered_again_is_claimed_on_a_slow_database(
    rabbit_chords: Bench, worker: Workers, fault_proxy: Callable[[str], FaultProxy]
) -> None:
    """Its claim takes longer than a heartbeat waits before it records a start: it must not meet that one."""
    job = rabbit_chords.chord([rabbit_chords.work(number, seconds=0.3) for number in range(3)]).apply_async()
    lose(rabbit_chords, f"{job.id}.c2.1")  # the others are put back, and so delivered again
    url = rabbit_chords.env["PROGRESS_DATABASE_URL"]
    proxy = fault_proxy(url)
    proxy.slow(0.05)
    slow = {**rabbit_chords.env, "PROGRESS_DATABASE_URL": proxy.url(url)}
    worker("tests.support.chord_app", env=slow, args=["-B", "--schedule", str(rabbit_chords.folder / "beat")])
    rabbit_chords.assert_healed(job, total=3, story=["chunk_started", "chunk_redispatched", "job_completed"])
    assert [index for index, _ in sent_again(rabbit_chords, job)] == [2]
    assert [row["attempt"] for row in rabbit_chords.progress.jobs.chunks(job.id)] == [1, 1, 1]


@pytest.mark.parametrize("delay", ["countdown", "eta", "naive_eta"])
def test_messages_that_wait_for_their_time_are_not_lost(sqlite_chords: Bench, worker: Workers, delay: str) -> None:
    """A worker takes them from the queue and keeps them, while other jobs go past."""
    seconds = 2 * LEASE
    at = datetime.now(tz=UTC) + timedelta(seconds=seconds)
    when = {"countdown": {"countdown": seconds}, "eta": {"eta": at}, "naive_eta": {"eta": at.replace(tzinfo=None)}}
    job = sqlite_chords.chord([sqlite_chords.work(n) for n in range(2)]).apply_async(**when[delay])
    with SteadyLoad(sqlite_chords):
        sqlite_chords.start_worker(worker)
        sqlite_chords.assert_healed(job, total=2)
    assert sent_again(sqlite_chords, job) == []
    row = sql.row(
        sqlite_chords.progress.database,
        """SELECT MIN(c.started_at) - MIN(j.created_at) AS seconds
           FROM document_ocr_chunks c JOIN processing_jobs j ON j.id = c.job_id WHERE j.id = :id""",
        id=job.id,
    )
    assert row is not None
    assert row["seconds"] > seconds - 0.5


def test_messages_that_a_busy_worker_holds_are_sent_again_once(sqlite_chords: Bench, worker: Workers) -> None:
    """With a prefetch multiplier they are overtaken and not lost: a message too many, and each chunk counts once."""
    busy = worker(
        "tests.support.chord_app",
        env={**sqlite_chords.env, "CHORD_APP_CONF": json.dumps({"worker_prefetch_multiplier": 4})},
        args=["-c", "1"],
    )
    header = [sqlite_chords.work(0, pages=10, seconds=6)]
    header += [sqlite_chords.work(number, seconds=0.1) for number in (1, 2, 3)]
    header += [sqlite_chords.work(number, seconds=1) for number in range(4, 9)]
    job = sqlite_chords.chord(header).apply_async()
    wait_for(lambda: job.snapshot().chunks.processing == 1 and waiting(sqlite_chords) == 5)
    sqlite_chords.start_worker(worker, args=["-c", "1"])
    sqlite_chords.assert_healed(job, total=9, story=["chunk_redispatched", "chunk_completed", "job_completed"])
    assert sorted(sent_again(sqlite_chords, job)) == [(chunk, OVERTAKEN) for chunk in (1, 2, 3)]
    assert busy.alive
