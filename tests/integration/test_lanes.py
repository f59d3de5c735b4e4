"""Lanes on real brokers: Redis, and RabbitMQ with quorum queues, which prefetch for each consumer."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa

from celery_progress_ext.storage import lookups
from celery_progress_ext.storage.schema import document_ocr_chunks
from celery_progress_ext.storage.workers import roster
from celery_progress_ext.tracked_job import TrackedJob
from tests.support.chords import MODULE, Bench, environment, follow
from tests.support.processes import WorkerProcess
from tests.support.waiting import wait_for

Workers = Callable[..., WorkerProcess]


@dataclass
class Lanes:
    """An app with a queue for bodies, and names of queues that no other test has."""

    bench: Bench
    main: str
    merges: str
    short: str

    def start(self, worker: Workers, *queues: str, beat: bool = False, **options: Any) -> WorkerProcess:
        """A worker of one process that listens to these; returns once the roster has it."""
        args = ["-Q", ",".join(queues)]
        args += ["-B", "--schedule", str(self.bench.folder / f"beat-{uuid4().hex}")] if beat else []
        started = worker(MODULE, env=self.bench.env, args=args, concurrency=1, name=f"w{uuid4().hex[:8]}", **options)
        wait_for(lambda: all(roster(self.bench.progress.database).listens(queue) for queue in queues), what="its row")
        return started

    def queues(self, job: TrackedJob) -> dict[str, Any]:
        """Where the job's row says that its messages go."""
        row = lookups.job(self.bench.progress.database, job.id)
        assert row is not None
        return dict(row.queues or {})


@pytest.fixture(params=["redis", "rabbitmq"])
def lanes(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> Iterator[Lanes]:
    """On SQLite with Redis, on PostgreSQL with RabbitMQ."""
    rabbit = request.param == "rabbitmq"
    database_url = request.getfixturevalue("postgres_url" if rabbit else "sqlite_url")
    broker_url = request.getfixturevalue("rabbit_url") if rabbit else None
    own = uuid4().hex[:8]
    names = {name: f"{name}-{own}" for name in ("main", "merges", "short")}
    conf = {
        "progress_body_queue": names["merges"],
        "task_default_queue": names["main"],
        "task_default_exchange": names["main"],
        "task_default_routing_key": names["main"],
        **({"task_default_queue_type": "quorum"} if rabbit else {}),
    }
    env = {**environment(redis_url, database_url, broker_url=broker_url), "CHORD_APP_CONF": json.dumps(conf)}
    bench = Bench(env, tmp_path)
    yield Lanes(bench, **names)
    with bench.app.connection_for_write() as connection:
        for name in names.values():
            connection.default_channel.queue_delete(name)
    bench.close()


def test_a_merge_and_a_short_job_wait_for_no_header(lanes: Lanes, worker: Workers) -> None:
    """A giant's chunks are in the queue before them, and most of them are still there when they are done."""
    lanes.start(worker, lanes.main, beat=True)
    lanes.start(worker, lanes.merges, lanes.short)
    bench = lanes.bench
    first = bench.chord([bench.work(0, seconds=0.2)]).apply_async()
    giant = bench.chord([bench.work(number, seconds=0.5) for number in range(40)]).apply_async()
    short = bench.chord([bench.work(1)], lane=lanes.short).apply_async()
    for job in (first, short):
        assert follow(job)[-1].status == "COMPLETED"
    assert giant.snapshot().chunks.pending > 20
    assert lanes.queues(first) == {
        "chunks": lanes.main,
        "body": lanes.merges,
        "chunk_lane": None,
        "body_lane": lanes.merges,
    }
    assert lanes.queues(short)["chunks"] == lanes.short
    giant.cancel()


def test_one_process_for_every_queue_begins_a_short_job_within_two_chunks(lanes: Lanes, worker: Workers) -> None:
    """The one at work, and on quorum queues, which prefetch for each consumer, the one that the worker holds."""
    lanes.start(worker, lanes.merges, lanes.short, lanes.main)
    bench = lanes.bench
    giant = bench.chord([bench.work(number, seconds=0.4) for number in range(30)]).apply_async()
    wait_for(lambda: giant.snapshot().chunks.completed > 1, what="the giant at work")
    short = bench.chord([bench.work(1, seconds=0.2)], lane=lanes.short).apply_async()
    assert follow(short)[-1].status == "COMPLETED"
    query = sa.select(document_ocr_chunks.c.started_at).where(
        document_ocr_chunks.c.started_at > short.snapshot().created_at.timestamp()
    )
    database = bench.progress.database
    [begun] = (row.started_at for row in database.rows(query.where(document_ocr_chunks.c.job_id == short.id)))
    starts = [row.started_at for row in database.rows(query.where(document_ocr_chunks.c.job_id == giant.id))]
    assert sum(start < begun for start in starts) <= 2
    assert giant.snapshot().chunks.pending > 10
    giant.cancel()


def test_a_worker_of_one_queue_leaves_nothing_hanging(lanes: Lanes, worker: Workers) -> None:
    """It was started as it always was; the lanes have no listener, so nothing is sent there."""
    lanes.start(worker, lanes.main, beat=True)
    bench = lanes.bench
    job = bench.chord([bench.work(number) for number in range(3)], lane=lanes.short).apply_async()
    bench.assert_healed(job, total=3)
    assert "chunk_redispatched" not in bench.events(job)
    assert (lanes.queues(job)["chunks"], lanes.queues(job)["body"]) == (lanes.main, lanes.main)


def test_lanes_whose_worker_is_gone_are_left(lanes: Lanes, worker: Workers) -> None:
    """It was there when the job was published, and was killed: chunks and merge go where there is a worker."""
    gone = lanes.start(worker, lanes.merges, lanes.short)
    gone.signal(signal.SIGSTOP)
    bench = lanes.bench
    job = bench.chord([bench.work(number) for number in range(4)], lane=lanes.short).apply_async()
    assert (lanes.queues(job)["chunks"], lanes.queues(job)["body"]) == (lanes.short, lanes.merges)
    gone.kill()
    lanes.start(worker, lanes.main, beat=True)
    bench.assert_healed(job, total=4)
    assert (lanes.queues(job)["chunks"], lanes.queues(job)["body"]) == (lanes.main, lanes.main)


def test_what_was_published_before_its_lane_had_a_worker_finds_it(lanes: Lanes, worker: Workers) -> None:
    """Nobody listens to the queue of the routes."""
    bench = lanes.bench
    job = bench.chord([bench.work(number) for number in range(3)], lane=lanes.short).apply_async()
    assert lanes.queues(job)["chunks"] == lanes.main
    lanes.start(worker, lanes.merges, lanes.short, beat=True)
    bench.assert_healed(job, total=3)


def test_a_waiting_job_says_that_nobody_listens_or_that_nobody_is_there(lanes: Lanes, worker: Workers) -> None:
    """In the words of every face, and no finish is foretold."""
    bench = lanes.bench
    other = lanes.start(worker, lanes.short)
    job = bench.chord([bench.work(1)]).apply_async()

    def reason() -> str | None:
        snapshot = job.snapshot()
        assert snapshot.waiting is None or snapshot.eta is None
        return snapshot.waiting and snapshot.waiting.reason

    wait_for(lambda: reason() == f"No worker listens to queue {lanes.main}.", what="the queue that nobody listens to")
    other.kill()
    wait_for(lambda: (reason() or "").startswith("No worker has answered for "), what="that no worker answers")
    before = bench.chord([bench.work(1)]).apply_async()
    lanes.start(worker, lanes.main)
    for each in (job, before):
        assert follow(each)[-1].waiting is None
