"""The contract of every broadcaster, over memory and Redis; and what is Redis' own."""

from __future__ import annotations

import json
import multiprocessing
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from celery_progress_ext.broadcast import Broadcaster, BroadcastLost, Message, Subscription, job_channel, matter_channel
from celery_progress_ext.broadcast.memory import MemoryBroadcaster
from celery_progress_ext.broadcast.redis import RedisBroadcaster, redis_py_url
from celery_progress_ext.jobs import JobSnapshot, JobStatus
from tasks.embedded.servers import RedisServer
from tests.support.faultproxy import FaultProxy
from tests.support.live import make_snapshot


@pytest.fixture(params=["memory", "redis"])
def make(request: pytest.FixtureRequest) -> Callable[..., Broadcaster]:
    """Makes broadcasters of one kind."""
    if request.param == "memory":
        return MemoryBroadcaster
    url = request.getfixturevalue("redis_url")
    return lambda **options: RedisBroadcaster(url, **options)


@pytest.fixture
def broadcaster(make: Callable[..., Broadcaster]) -> Broadcaster:
    return make()


def listen(broadcaster: Broadcaster, snapshot: JobSnapshot) -> Subscription:
    subscription = broadcaster.subscribe()
    subscription.add(job_channel(snapshot.job_id))
    return subscription


def received(subscription: Subscription) -> list[tuple[str, int | None]]:
    """Events and ids of all that has come."""
    messages = []
    while got := subscription.get(0.3):
        messages.append((got[1].event, got[1].version))
    return messages


def test_a_snapshot_is_kept_and_published_to_its_job_and_its_matter(broadcaster: Broadcaster) -> None:
    """As it is, with its version as id."""
    snapshot = make_snapshot(3, stage="Größe — 大きさ")
    with broadcaster.subscribe() as subscription:
        subscription.add(job_channel(snapshot.job_id))
        subscription.add(matter_channel(snapshot.matter_id))
        assert broadcaster.publish(snapshot) is True
        arrived = dict(filter(None, (subscription.get(5) for _ in range(2))))
    message = Message("progress", 3, snapshot.to_dict())
    assert arrived == {job_channel(snapshot.job_id): message, matter_channel(snapshot.matter_id): message}
    assert broadcaster.kept(snapshot.job_id) == message
    assert broadcaster.kept_versions([snapshot.job_id, "job_unknown"]) == {snapshot.job_id: 3}


@pytest.mark.parametrize("version", [1, 2])
def test_only_a_newer_version_is_published(broadcaster: Broadcaster, version: int) -> None:
    """So publishers need no order among themselves."""
    kept = make_snapshot(2)
    with listen(broadcaster, kept) as subscription:
        broadcaster.publish(kept)
        assert broadcaster.publish(replace(kept, version=version, stage="late")) is False
        assert received(subscription) == [("progress", 2)]
    message = broadcaster.kept(kept.job_id)
    assert message is not None
    assert message.payload["stage"] == kept.stage


def test_a_heartbeat_of_the_kept_version_is_published_without_id(broadcaster: Broadcaster) -> None:
    """And what it says of the same version is kept, as the durable event that it belongs to."""
    snapshot = make_snapshot(2)
    with listen(broadcaster, snapshot) as subscription:
        broadcaster.publish(snapshot)
        assert broadcaster.publish(replace(snapshot, pages_done=26), event="heartbeat") is False
        assert received(subscription) == [("progress", 2), ("heartbeat", None)]
    message = broadcaster.kept(snapshot.job_id)
    assert message is not None
    assert (message.event, message.version, message.payload["pages"]["done"]) == ("progress", 2, 26)


def test_an_old_heartbeat_is_not_published(broadcaster: Broadcaster) -> None:
    """A beat that read its row before the last change must not undo it."""
    snapshot = make_snapshot(2)
    with listen(broadcaster, snapshot) as subscription:
        broadcaster.publish(snapshot)
        assert broadcaster.publish(replace(snapshot, version=1), event="heartbeat") is False
        assert received(subscription) == [("progress", 2)]


def test_a_heartbeat_that_brings_a_new_version_is_durable(broadcaster: Broadcaster) -> None:
    """It heals a broadcast that was lost; the end of a job goes out as what it is."""
    snapshot = make_snapshot(2)
    done = replace(snapshot, version=3, status=JobStatus.PARTIAL)
    with listen(broadcaster, snapshot) as subscription:
        assert broadcaster.publish(snapshot, event="heartbeat") is True
        assert broadcaster.publish(done, event="heartbeat") is True
        assert received(subscription) == [("heartbeat", 2), ("partial", 3)]


def test_many_are_published_under_the_same_rules(broadcaster: Broadcaster) -> None:
    """More than fit into one batch."""
    jobs = [make_snapshot(2, matter_id="many") for _ in range(230)]
    broadcaster.publish(jobs[0])
    with broadcaster.subscribe() as subscription:
        subscription.add(matter_channel("many"))
        broadcaster.publish_many((job, "heartbeat" if job is jobs[0] else None) for job in jobs)
        broadcaster.publish_many([(replace(job, version=1), None) for job in jobs])
        assert received(subscription) == [("heartbeat", None)] + [("progress", 2)] * 229
    assert set(broadcaster.kept_versions(job.job_id for job in jobs).values()) == {2}


def test_a_kept_snapshot_expires(make: Callable[..., Broadcaster], wait_for: Callable[..., Any]) -> None:
    """Redis does not fill up with jobs that nobody asks for any more."""
    broadcaster = make(ttl_seconds=0.2)
    snapshot = make_snapshot()
    broadcaster.publish(snapshot)
    wait_for(lambda: broadcaster.kept(snapshot.job_id) is None, 5)


def test_publishers_at_once_never_publish_backwards(broadcaster: Broadcaster) -> None:
    """Many threads commit and then publish, each in its own time: readers see versions that only grow."""
    snapshot = make_snapshot(0)
    versions = iter(range(1, 201))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                version = next(versions, None)
            if version is None:
                return
            broadcaster.publish(replace(snapshot, version=version))

    with listen(broadcaster, snapshot) as subscription:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seen = [version for _, version in received(subscription)]
    assert seen == sorted(set(seen))
    assert seen[-1] == 200


def test_an_added_channel_is_subscribed_when_add_returns(broadcaster: Broadcaster) -> None:
    """From many threads at once, while another reads: no channel is lost, and no message after the add."""
    jobs = [make_snapshot() for _ in range(60)]
    arrived: set[str] = set()
    with broadcaster.subscribe() as subscription:

        def add(mine: list[JobSnapshot]) -> None:
            for job in mine:
                subscription.add(job_channel(job.job_id))
                broadcaster.publish(job)

        threads = [threading.Thread(target=add, args=(jobs[start::6],)) for start in range(6)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 20
        while len(arrived) < len(jobs) and time.monotonic() < deadline:
            if got := subscription.get(0.1):
                arrived.add(got[0])
        for thread in threads:
            thread.join()
    assert arrived == {job_channel(job.job_id) for job in jobs}


def test_a_removed_channel_is_silent(broadcaster: Broadcaster, wait_for: Callable[..., Any]) -> None:
    """And can be added again."""
    snapshot = make_snapshot()
    with listen(broadcaster, snapshot) as subscription:
        subscription.remove(job_channel(snapshot.job_id))
        assert subscription.get(0.2) is None
        broadcaster.publish(snapshot)
        assert subscription.get(0.2) is None
        subscription.add(job_channel(snapshot.job_id))
        broadcaster.publish(replace(snapshot, version=2))
        assert received(subscription) == [("progress", 2)]


def test_a_closed_subscription_says_so(broadcaster: Broadcaster) -> None:
    """With the exception by which a reader knows that it must open another."""
    subscription = broadcaster.subscribe()
    subscription.close()
    subscription.close()
    for use in (lambda: subscription.get(0), lambda: subscription.add("x"), lambda: subscription.remove("x")):
        with pytest.raises(BroadcastLost):
            use()


def test_text_that_is_not_unicode_is_published(broadcaster: Broadcaster) -> None:
    """A file name with a byte that is not UTF-8 must not silence its job."""
    snapshot = make_snapshot(error="cannot read caf\udce9.pdf")
    with listen(broadcaster, snapshot) as subscription:
        assert broadcaster.publish(snapshot) is True
        got = subscription.get(5)
    assert got is not None
    assert got[1].payload["error"] == "cannot read caf\udce9.pdf"


# What is Redis' own


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as made:
        yield made


def test_the_wire_form_is_flask_sse_s(redis_url: str, client: redis.Redis) -> None:
    """Whoever reads flask-sse's channels can read these; and every key expires."""
    snapshot = make_snapshot(42)
    with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(job_channel(snapshot.job_id))
        pubsub.get_message(timeout=5)
        RedisBroadcaster(redis_url).publish(snapshot)
        message = pubsub.get_message(timeout=5)
    assert json.loads(message["data"]) == {"data": snapshot.to_dict(), "type": "progress", "id": 42}
    assert client.keys("*") == [f"progress:snapshot:{snapshot.job_id}"]
    assert all(client.ttl(key) > 0 for key in client.keys("*"))


def test_the_script_is_sent_again_to_a_server_that_lost_it(redis_url: str, client: redis.Redis) -> None:
    """As after a restart or a failover."""
    broadcaster = RedisBroadcaster(redis_url)
    assert broadcaster.publish(make_snapshot())
    client.script_flush()
    assert broadcaster.publish(make_snapshot())
    client.script_flush()
    jobs = [make_snapshot(), make_snapshot()]
    broadcaster.publish_many((job, None) for job in jobs)
    assert len(broadcaster.kept_versions(job.job_id for job in jobs)) == 2


def test_what_is_no_snapshot_is_left_out(redis_url: str, client: redis.Redis) -> None:
    """Anyone can publish to a channel of a shared Redis."""
    snapshot = make_snapshot()
    broadcaster = RedisBroadcaster(redis_url)
    with listen(broadcaster, snapshot) as subscription:
        for raw in ("not JSON", "[]", "null", '{"data": 1}', '{"data": {}, "id": "x"}', b"\xff"):
            client.publish(job_channel(snapshot.job_id), raw)
        broadcaster.publish(snapshot)
        assert received(subscription) == [("progress", 1)]


def test_publishing_reuses_its_connections(redis_url: str, client: redis.Redis) -> None:
    """A TCP connection per publish costs ten times the publish."""
    broadcaster = RedisBroadcaster(redis_url)
    broadcaster.publish(make_snapshot())
    before = int(client.info("stats")["total_connections_received"])
    for _ in range(50):
        broadcaster.publish(make_snapshot())
    assert int(client.info("stats")["total_connections_received"]) == before


def _publish_in_child(broadcaster: RedisBroadcaster, snapshot: JobSnapshot, answer: Any) -> None:
    answer.send(broadcaster.publish(snapshot))


def test_a_broadcaster_survives_a_fork(redis_url: str) -> None:
    """Celery's pool children inherit it; a connection shared with the parent would mix up answers."""
    broadcaster = RedisBroadcaster(redis_url)
    broadcaster.publish(make_snapshot())
    ours, theirs = multiprocessing.Pipe()
    fork = multiprocessing.get_context("fork")
    child = fork.Process(target=_publish_in_child, args=(broadcaster, make_snapshot(), theirs))
    child.start()
    assert [broadcaster.publish(make_snapshot()) for _ in range(20)] == [True] * 20
    assert ours.poll(10)
    assert ours.recv() is True
    child.join(10)
    assert child.exitcode == 0
    ours.close()
    theirs.close()
    child.close()


def test_a_redis_that_is_down_costs_little_and_raises_nothing() -> None:
    """A completion must not wait for it: one attempt a second, and a log line without the password."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    broadcaster = RedisBroadcaster(f"redis://user:s3cret@127.0.0.1:{port}/0")
    begun = time.monotonic()
    with capture_logs() as logs:
        assert [broadcaster.publish(make_snapshot()) for _ in range(1000)] == [False] * 1000
        broadcaster.publish_many([(make_snapshot(), None)])
        assert broadcaster.kept("job_x") is None
        assert broadcaster.kept_versions(["job_x"]) == {}
    assert time.monotonic() - begun < 1.0
    assert [log["event"] for log in logs] == ["broadcast_failed"]
    assert "s3cret" not in str(logs)
    with pytest.raises(BroadcastLost):
        broadcaster.subscribe()


def test_a_redis_that_does_not_answer_is_given_up_soon(
    redis_url: str, fault_proxy: Callable[[str], FaultProxy]
) -> None:
    """A server behind a network that drops packets would else hold every completion."""
    proxy = fault_proxy(redis_url)
    broadcaster = RedisBroadcaster(proxy.url(redis_url))
    assert broadcaster.publish(make_snapshot())
    proxy.stall()
    begun = time.monotonic()
    assert not any(broadcaster.publish(make_snapshot()) for _ in range(20))
    assert time.monotonic() - begun < 2.0


def test_the_end_of_a_job_is_tried_even_in_the_pause(redis_url: str, fault_proxy: Callable[[str], FaultProxy]) -> None:
    """No heartbeat would heal its loss."""
    proxy = fault_proxy(redis_url)
    broadcaster = RedisBroadcaster(proxy.url(redis_url))
    proxy.down()
    assert not broadcaster.publish(make_snapshot())
    proxy.up()
    assert not broadcaster.publish(make_snapshot())
    assert broadcaster.publish(make_snapshot(status=JobStatus.COMPLETED))


def test_a_broken_connection_ends_the_subscription(redis_url: str, client: redis.Redis) -> None:
    """It is not mended silently: what was published meanwhile is lost, and the reader has to know."""
    broadcaster = RedisBroadcaster(redis_url)
    with broadcaster.subscribe() as subscription:
        client.client_kill_filter(_type="pubsub")
        with pytest.raises(BroadcastLost):
            subscription.get(5)
        with pytest.raises(BroadcastLost):
            subscription.add("x")


def test_an_idle_subscription_lives(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is no timeout (redis-py 8 reads for 5 s by default), and a sign of life is asked for and seen."""
    monkeypatch.setattr("celery_progress_ext.broadcast.redis.QUIET_SECONDS", 0.1)
    monkeypatch.setattr("celery_progress_ext.broadcast.redis.ACKNOWLEDGE_SECONDS", 1.0)
    broadcaster = RedisBroadcaster(redis_url)
    snapshot = make_snapshot()
    with listen(broadcaster, snapshot) as subscription:
        assert subscription.get(3.0) is None
        broadcaster.publish(snapshot)
        assert received(subscription) == [("progress", 1)]


def test_a_connection_that_died_without_a_word_is_found(
    redis_url: str, fault_proxy: Callable[[str], FaultProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks idle for ever, so its server is asked for a sign of life."""
    monkeypatch.setattr("celery_progress_ext.broadcast.redis.QUIET_SECONDS", 0.2)
    monkeypatch.setattr("celery_progress_ext.broadcast.redis.ACKNOWLEDGE_SECONDS", 0.5)
    proxy = fault_proxy(redis_url)
    with RedisBroadcaster(proxy.url(redis_url)).subscribe() as subscription:
        proxy.stall()
        with pytest.raises(BroadcastLost):
            subscription.get(10)


def test_a_restarted_redis_takes_snapshots_again(own_redis: RedisServer, wait_for: Callable[..., Any]) -> None:
    """Through the same broadcaster, whose pooled connections are dead."""
    broadcaster = RedisBroadcaster(own_redis.url)
    assert broadcaster.publish(make_snapshot())
    own_redis.kill()
    assert not broadcaster.publish(make_snapshot())
    own_redis.restart()
    wait_for(lambda: broadcaster.publish(make_snapshot()), 10)


@pytest.mark.parametrize(
    ("url", "read_as"),
    [
        ("redis://:p%40ss@host:6380/2", "redis://:p%40ss@host:6380/2"),
        ("rediss://host?ssl_cert_reqs=CERT_NONE", "rediss://host?ssl_cert_reqs=none"),
        ("redis+socket:///run/redis.sock?virtual_host=3", "unix:///run/redis.sock?db=3"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
    ],
)
def test_the_result_backend_s_urls_can_be_used(url: str, read_as: str) -> None:
    """Celery spells some of them in its own way."""
    assert redis_py_url(url) == read_as
