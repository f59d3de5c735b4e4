"""Servers that are away while a job is published: from its rows on it exists, once, and runs when they are back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import structlog
from celery import signals

from celery_progress_ext import JobStatus
from celery_progress_ext.exceptions import DatabaseAway, NotPublished
from celery_progress_ext.tracked_job import TrackedJob
from tasks.embedded.servers import RedisServer
from tasks.sample import make_sample
from tests.support.chords import Bench, environment
from tests.support.faultproxy import FaultProxy
from tests.support.processes import ROOT, WorkerProcess

Workers = Callable[..., WorkerProcess]
Proxies = Callable[[str], FaultProxy]

#: Nobody listens there.
NOWHERE = "127.0.0.1:1"
#: Celery tries a lost result backend twenty times in as many seconds; a test needs to see it give up, not to wait.
IMPATIENT = {"result_backend_transport_options": {"retry_policy": {"max_retries": 2}}}

#: A group's AsyncResults ask Redis to forget them when they are collected, and that Redis is gone.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@dataclass
class Servers:
    """A broker and a result backend of the test's own, and who publishes to them."""

    named: dict[str, RedisServer]
    bench: Bench


@pytest.fixture
def servers(tmp_path: Path, sqlite_url: str) -> Iterator[Servers]:
    with RedisServer(tmp_path / "broker") as broker, RedisServer(tmp_path / "results") as results:
        env = environment(results.database_url(0), sqlite_url, broker_url=broker.database_url(0))
        bench = _impatient(env, tmp_path)
        yield Servers({"broker": broker, "results": results}, bench)
        bench.close()


def _impatient(env: Any, folder: Path) -> Bench:
    return Bench({**env, "CHORD_APP_CONF": json.dumps(IMPATIENT)}, folder)


def _publish(bench: Bench, count: int = 3) -> tuple[TrackedJob, list[str]]:
    """The job, and the warnings that were given with it."""
    with structlog.testing.capture_logs() as logs:
        job = bench.chord([bench.work(number) for number in range(count)]).apply_async()
    return job, [log["event"] for log in logs if log["log_level"] == "warning" and log.get("job_id") == job.id]


@pytest.mark.parametrize("away", [("broker",), ("results",), ("broker", "results")], ids="+".join)
@pytest.mark.parametrize("warm", [False, True], ids=["never_connected", "connected_before"])
def test_servers_that_are_away_when_a_job_is_published(
    servers: Servers, worker: Workers, away: tuple[str, ...], warm: bool
) -> None:
    """`apply_async` returns the job, and warns: who published again would have two. It runs when they are back."""
    bench = servers.bench
    if warm:
        before, warnings = _publish(bench)
        assert warnings == []
        before.cancel()
    for name in away:
        servers.named[name].kill()
    job, warnings = _publish(bench)
    assert "job_not_sent" in warnings
    assert job.snapshot().status is JobStatus.PENDING
    assert [found.job_id for found in bench.progress.jobs.list(active_only=True)] == [job.id]
    for name in away:
        servers.named[name].start()
    bench.start_worker(worker)
    bench.assert_healed(job, total=3, story=["job_created", "chunk_redispatched", "job_completed"])
    assert len(bench.progress.jobs.list()) == 1 + warm


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_an_outage_in_the_middle_of_the_header(
    request: pytest.FixtureRequest,
    redis_url: str,
    sqlite_url: str,
    tmp_path: Path,
    worker: Workers,
    fault_proxy: Proxies,
    broker: str,
) -> None:
    """The chunks that were sent run once; the rest, and the body that Celery would never send, come later."""
    broker_url = redis_url if broker == "redis" else request.getfixturevalue("rabbit_url")
    proxy = fault_proxy(broker_url)
    through = proxy.url(broker_url)
    results_url = through if broker == "redis" else redis_url
    bench = _impatient(environment(results_url, sqlite_url, broker_url=through), tmp_path)
    sent: list[str] = []

    def cut(headers: Any = None, **_: Any) -> None:
        sent.append(headers["id"])
        if len(sent) == 2:
            proxy.down()

    signals.after_task_publish.connect(cut, weak=False)
    try:
        job, warnings = _publish(bench, count=5)
    finally:
        signals.after_task_publish.disconnect(cut)
    assert "job_not_sent" in warnings
    assert sent == [f"{job.id}.c0.1", f"{job.id}.c1.1"]
    assert [found.job_id for found in bench.progress.jobs.list()] == [job.id]
    proxy.up()
    bench.start_worker(worker)
    bench.assert_healed(job, total=5, story=["chunk_redispatched", "body_dispatched", "job_completed"])
    dispatches = [chunk["dispatches"] for chunk in bench.progress.jobs.chunks(job.id)]
    assert dispatches[2:] == [2, 2, 2]
    # RabbitMQ confirms nothing unless asked to: what was just written may go down with the connection.
    assert broker == "rabbitmq" or dispatches[:2] == [1, 1]
    bench.close()


def test_without_the_database_there_is_no_job(
    redis_url: str, postgres_url: str, tmp_path: Path, fault_proxy: Proxies
) -> None:
    """The database's own error, nothing stored, nothing sent: to publish again is right."""
    proxy = fault_proxy(postgres_url)
    direct = Bench(dict(environment(redis_url, postgres_url)), tmp_path)
    through = Bench(dict(environment(redis_url, proxy.url(postgres_url))), tmp_path)
    through.progress.database.dispose()
    proxy.down()
    with pytest.raises(DatabaseAway, match=r"connection to server|server closed"):
        through.chord([through.work(0)]).apply_async()
    assert direct.progress.jobs.list() == []
    assert direct.progress.publisher.waiting(dict(direct.work(0))) == 0
    proxy.up()
    job = through.chord([through.work(0)]).apply_async()
    assert [found.job_id for found in direct.progress.jobs.list()] == [job.id]
    through.close()
    direct.close()


def test_a_job_that_can_never_be_sent_fails_at_once(sqlite_chords: Bench) -> None:
    """A queue that is not configured is no outage. The error names the job, which is over and can be retried."""
    sqlite_chords.app.conf.task_create_missing_queues = False
    chunks = [sqlite_chords.work(0), sqlite_chords.work(1).set(queue="nowhere")]
    with pytest.raises(NotPublished, match="nowhere") as raised:
        sqlite_chords.chord(chunks).apply_async()
    [snapshot] = sqlite_chords.progress.jobs.list()
    assert (snapshot.job_id, snapshot.status) == (raised.value.job_id, JobStatus.FAILED)
    assert "nowhere" in str(snapshot.error)
    sqlite_chords.app.conf.task_create_missing_queues = True
    assert sqlite_chords.progress.job(snapshot.job_id).retry_failed().status is JobStatus.PROCESSING


def _assert_nothing_awaited(bench: Bench, url: str) -> None:
    """No part of the header: not here, and not at the server."""
    backend = bench.app.backend
    assert [dict(results) for results in backend._pending_results] == [{}, {}]
    consumer = backend.result_consumer
    assert consumer.subscribed_to == set()
    assert consumer._pubsub is None or not consumer._pubsub.channels
    with redis.Redis.from_url(url, socket_timeout=5) as client:
        assert client.pubsub_channels("celery-task-meta-*") == []


def test_a_job_that_was_sent_leaves_no_subscription(sqlite_chords: Bench) -> None:
    """Celery's group subscribes to each part; a web process that publishes for weeks would keep them all."""
    sqlite_chords.chord([sqlite_chords.work(number) for number in range(5)]).apply_async()
    _assert_nothing_awaited(sqlite_chords, sqlite_chords.env["CELERY_RESULT_BACKEND"])


def test_what_is_sent_again_leaves_no_subscription(sqlite_chords: Bench) -> None:
    """By a web process whose user presses retry."""
    job = sqlite_chords.chord([sqlite_chords.work(0), sqlite_chords.work(1)]).apply_async()
    job.cancel()
    job.retry_failed()
    _assert_nothing_awaited(sqlite_chords, sqlite_chords.env["CELERY_RESULT_BACKEND"])


def test_other_tasks_of_the_app_are_awaited_as_ever(sqlite_chords: Bench, worker: Callable[..., WorkerProcess]) -> None:
    """And so is the job, once somebody asks for its result: before it is there."""
    job = sqlite_chords.chord([sqlite_chords.work(0)]).apply_async()
    other = sqlite_chords.app.signature("add", args=(1,)).apply_async()
    backend = sqlite_chords.app.backend
    assert backend.result_consumer.subscribed_to == {backend.get_key_for_task(other.id)}
    sqlite_chords.start_worker(worker)
    assert other.get(timeout=20) == 1
    assert job.get(timeout=20) == 0  # the sum


def test_a_job_that_can_not_be_sent_leaves_no_subscription(sqlite_chords: Bench) -> None:
    """The first two parts were sent before the third raised."""
    sqlite_chords.app.conf.task_create_missing_queues = False
    chunks = [*(sqlite_chords.work(number) for number in range(2)), sqlite_chords.work(2).set(queue="nowhere")]
    with pytest.raises(NotPublished):
        sqlite_chords.chord(chunks).apply_async()
    _assert_nothing_awaited(sqlite_chords, sqlite_chords.env["CELERY_RESULT_BACKEND"])


def test_an_outage_leaves_no_subscription(servers: Servers) -> None:
    """Redis goes away behind the last part: that is no error of the caller's, for nobody needs it any more."""
    results = servers.named["results"]
    sent: list[str] = []

    def kill(headers: Any = None, **_: Any) -> None:
        sent.append(headers["id"])
        if len(sent) == 3:
            results.kill()

    signals.after_task_publish.connect(kill, weak=False)
    try:
        _publish(servers.bench)
    finally:
        signals.after_task_publish.disconnect(kill)
    assert len(sent) == 3
    results.start()
    _assert_nothing_awaited(servers.bench, results.url)
    _, warnings = _publish(servers.bench)
    assert warnings == []
    _assert_nothing_awaited(servers.bench, results.url)


def _submit(tmp_path: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """``python -m tasks submit`` of one page."""
    scan = tmp_path / "scan.pdf"
    make_sample(scan, pages=1)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "DOCUMENTS_URL": (tmp_path / "documents").as_uri(), **environ}
    command = [sys.executable, "-m", "tasks", "submit", str(scan), "--matter", "m"]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)


def test_submitting_from_the_shell_while_the_broker_is_away(sqlite_chords: Bench, tmp_path: Path) -> None:
    """The job's id as always, and the warning beside it; the original is kept for it."""
    done = _submit(tmp_path, **{**sqlite_chords.env, "CELERY_BROKER_URL": f"redis://{NOWHERE}/0"})
    assert done.returncode == 0, done.stderr
    [snapshot] = sqlite_chords.progress.jobs.list()
    assert done.stdout.split() == [snapshot.job_id]
    assert "do not publish it again" in done.stderr
    assert (tmp_path / "documents" / "documents" / snapshot.document_id / "original.pdf").is_file()


def test_submitting_from_the_shell_while_the_database_is_away(redis_url: str, tmp_path: Path) -> None:
    """A sentence, not a traceback; nothing is left behind."""
    done = _submit(tmp_path, **environment(redis_url, f"postgresql://{NOWHERE}/none"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "so there is no job" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "documents").rglob("*.pdf"))
