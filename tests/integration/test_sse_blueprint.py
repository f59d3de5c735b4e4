"""The live streams over real sockets, from a served app to a client that reads events."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from flask import abort

from celery_progress_ext.broadcast.memory import MemoryBroadcaster
from celery_progress_ext.broadcast.redis import RedisBroadcaster
from celery_progress_ext.exceptions import MissingExtra
from celery_progress_ext.jobs import JobSnapshot, JobStatus
from tasks.embedded.servers import RedisServer, free_port
from tests.support.faultproxy import FaultProxy
from tests.support.live import EventReader, Live, live_app, make_snapshot, serve

Wait = Callable[..., Any]


@pytest.fixture
def live(redis_url: str) -> Iterator[Live]:
    with serve(RedisBroadcaster(redis_url)) as served:
        yield served


def step(snapshot: JobSnapshot, **changes: Any) -> JobSnapshot:
    """The job's next version."""
    return replace(snapshot, version=snapshot.version + 1, **changes)


def done(snapshot: JobSnapshot) -> JobSnapshot:
    return step(snapshot, status=JobStatus.COMPLETED, progress_pct=100)


# A job's stream


def test_a_stream_begins_at_once(live: Live) -> None:
    """Headers, a comment and the time to reconnect come before anything happens to the job."""
    job = live.commit(make_snapshot(7))
    with live.follow_job(job) as reader:
        headers = reader.response.headers
        assert reader.response.status == 200
        assert headers.get_content_type() == "text/event-stream"
        assert headers["Cache-Control"] == "no-cache, no-transform"
        assert headers["X-Accel-Buffering"] == "no"
        event = reader.next_event()
        assert reader.lines[:4] == [b": ok\n", b"\n", b"retry:2000\n", b"\n"]
        assert (event.name, event.id, event.payload) == ("progress", "7", job.to_dict())


def test_a_stream_ends_with_the_job(live: Live) -> None:
    """After the terminal event, which has a name of its own."""
    job = live.commit(make_snapshot())
    with live.follow_job(job) as reader:
        events = reader.events()
        assert next(events).id == "1"
        live.commit(step(job))
        live.commit(done(step(job)))
        rest = list(events)
    assert rest[-1].name == "completed"
    assert rest[-1].id == "3"
    assert {event.name for event in rest[:-1]} <= {"progress"}


def test_who_comes_after_the_end_gets_it(live: Live) -> None:
    """The terminal event, and the end of the stream."""
    job = live.commit(done(make_snapshot()))
    with live.follow_job(job) as reader:
        assert [event.name for event in reader.events()] == ["completed"]


@pytest.mark.parametrize(("last_id", "status"), [("2", 204), ("3", 204), ("1", 200), ("garbage", 200), ("9" * 20, 200)])
def test_a_reconnect_that_has_the_end_is_told_to_stop(live: Live, last_id: str, status: int) -> None:
    """EventSource reconnects for ever, unless it gets 204."""
    job = live.commit(done(make_snapshot()))
    with live.follow_job(job, Last_Event_ID=last_id) as reader:
        assert reader.response.status == status


def test_a_reconnect_gets_only_what_it_has_not(live: Live) -> None:
    """The current snapshot when it is newer, in one event however many were missed; else what comes next."""
    job = live.commit(make_snapshot(5))
    with live.follow_job(job, Last_Event_ID="3") as behind, live.follow_job(job, Last_Event_ID="5") as current:
        assert behind.next_event().id == "5"
        current.read_until(b"retry:2000\n")
        job = live.commit(step(job))
        assert behind.next_event().id == current.next_event().id == "6"


def test_an_id_from_another_world_does_no_harm(redis_url: str) -> None:
    """A client that claims to have what is not there yet still gets what comes."""
    with serve(RedisBroadcaster(redis_url), keepalive_seconds=0.2) as live:
        job = live.commit(make_snapshot(5))
        with live.follow_job(job, Last_Event_ID="999") as reader:
            reader.read_until(b":\n")  # the current snapshot is dealt with
            live.commit(step(job))
            assert reader.next_event().id == "6"


def test_heartbeats_carry_no_id(live: Live) -> None:
    """A reconnect after one must not claim a version that it never got."""
    job = live.commit(make_snapshot())
    with live.follow_job(job) as reader:
        reader.next_event()
        live.commit(replace(job, pages_done=30), event="heartbeat")
        event = reader.next_event()
    assert (event.name, event.id, event.payload["pages"]["done"]) == ("heartbeat", None, 30)


def test_a_snapshot_that_redis_lost_is_read_from_the_row(live: Live, redis_url: str) -> None:
    """And one that Redis has is not older than the row."""
    job = live.commit(make_snapshot(4))
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    with live.follow_job(job) as reader:
        assert reader.next_event().id == "4"
    live.commit(job)
    live.jobs.put(step(job))  # committed, but its broadcast was lost
    with live.follow_job(job) as reader:
        assert reader.next_event().id == "5"


def test_the_kept_snapshot_may_be_newer_than_the_row(live: Live) -> None:
    """When the job goes on between the reading of its row and the subscription."""
    job = live.jobs.put(make_snapshot(4))
    live.broadcaster.publish(step(job))
    with live.follow_job(job) as reader:
        assert reader.next_event().id == "5"


def test_an_unknown_job_is_not_found(live: Live) -> None:
    """404, for which EventSource gives up, and rightly."""
    with live.follow("/api/jobs/job_unknown/events") as reader:
        assert reader.response.status == 404


def test_only_who_may_read_the_matter_gets_a_stream(redis_url: str) -> None:
    """Asked before the first byte, for the job's own matter."""
    asked: list[str] = []

    def authorize(matter_id: str) -> None:
        asked.append(matter_id)
        abort(403)

    with serve(RedisBroadcaster(redis_url), authorize=authorize) as live:
        job = live.commit(make_snapshot(matter_id="secret"))
        for path in (f"/api/jobs/{job.job_id}/events", "/api/matters/other/events"):
            with live.follow(path) as reader:
                assert reader.response.status == 403
    assert asked == ["secret", "other"]


def test_the_progress_channels_have_no_side_door(live: Live) -> None:
    """The streams of ordinary channels are not served unless an app adds them."""
    with live.follow("/api/?channel=progress:job:x") as reader:
        assert reader.response.status == 404


def test_other_events_go_through_the_same_redis(redis_url: str) -> None:
    """``publish`` of the progress blueprint needs no configuration of its own."""
    app, _, events = live_app(MemoryBroadcaster(), redis_url=redis_url)
    with app.app_context(), events.redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe("sse")
        pubsub.get_message(timeout=5)
        assert events.publish("hello", type="greeting") == 1


# A matter's stream


def test_a_matter_s_stream_begins_with_its_open_jobs(live: Live) -> None:
    """Oldest first, without ids, and without what has ended."""
    first, second = (live.commit(make_snapshot(matter_id="m1")) for _ in range(2))
    live.commit(done(make_snapshot(matter_id="m1")))
    live.commit(make_snapshot(matter_id="m2"))
    with live.follow("/api/matters/m1/events") as reader:
        events = reader.events()
        assert [next(events).payload["job_id"] for _ in range(2)] == [first.job_id, second.job_id]
        assert not any(line.startswith(b"id:") for line in reader.lines)


def test_a_matter_s_stream_does_not_end_with_a_job(live: Live) -> None:
    """It goes on, and new jobs appear in it."""
    job = live.commit(make_snapshot(matter_id="m1"))
    with live.follow("/api/matters/m1/events") as reader:
        events = reader.events()
        next(events)
        live.commit(done(job))
        assert next(events).name == "completed"
        other = live.commit(make_snapshot(matter_id="m1"))
        event = next(events)
    assert (event.name, event.id, event.payload["job_id"]) == ("progress", None, other.job_id)


def test_a_matter_s_stream_finds_an_end_that_it_missed(redis_url: str) -> None:
    """A job that is open no more is not listed, and its last event may be lost."""
    with serve(RedisBroadcaster(redis_url), keepalive_seconds=0.3) as live:
        job = live.commit(make_snapshot(matter_id="m1"))
        with live.follow("/api/matters/m1/events") as reader:
            events = reader.events()
            next(events)
            live.jobs.put(done(job))
            assert next(events).name == "completed"


# Connections


def test_a_quiet_stream_is_kept_alive(redis_url: str) -> None:
    """With comments, which no browser dispatches and no proxy times out."""
    with serve(RedisBroadcaster(redis_url), keepalive_seconds=0.2) as live:
        job = live.commit(make_snapshot())
        with live.follow_job(job) as reader:
            reader.next_event()
            reader.read_until(b":\n")
            live.commit(step(job))
            assert reader.next_event().id == "2"


def test_a_client_that_is_gone_is_noticed_within_a_keepalive(redis_url: str, wait_for: Wait) -> None:
    """Its mailbox is given back, and its channel unsubscribed."""
    with serve(RedisBroadcaster(redis_url), keepalive_seconds=1.0) as live:
        job = live.commit(make_snapshot())
        readers = [live.follow_job(job) for _ in range(5)]
        for reader in readers:
            reader.next_event()
        assert (sum(live.events.hub.clients.values()), live.events.open_streams) == (5, 5)
        for reader in readers:
            reader.close()
        begun = time.monotonic()
        wait_for(lambda: not live.events.hub.clients and live.events.open_streams == 0, 5)
        assert time.monotonic() - begun < 1.8
        with redis.Redis.from_url(redis_url) as client:
            wait_for(lambda: client.pubsub_channels("progress:job:*") == [], 5)


def test_a_head_request_takes_no_room() -> None:
    """It has the headers of a stream, and no stream."""
    app, jobs, events = live_app(MemoryBroadcaster(), max_streams=1)
    job = jobs.put(make_snapshot())
    for _ in range(3):
        assert app.test_client().head(f"/api/jobs/{job.job_id}/events").status_code == 200
    assert events.open_streams == 0


def test_who_comes_when_it_is_full_is_told_to_come_back(redis_url: str, wait_for: Wait) -> None:
    """With 200: EventSource gives up for good on 429 and 503."""
    with serve(RedisBroadcaster(redis_url), max_streams=1, keepalive_seconds=0.3) as live:
        job = live.commit(make_snapshot())
        with live.follow_job(job) as reader:
            reader.next_event()
            with live.follow_job(job) as refused:
                assert refused.response.status == 200
                assert refused.response.read() == b"retry:10000\n\n"
        wait_for(lambda: live.events.open_streams == 0, 5)
        with live.follow_job(job) as reader:
            assert reader.next_event().id == "1"


def test_closing_ends_the_streams_at_once(live: Live) -> None:
    """So that a deploy drains within seconds, not when the jobs end."""
    job = live.commit(make_snapshot())
    with live.follow_job(job) as reader:
        reader.next_event()
        begun = time.monotonic()
        live.events.close()
        assert list(reader.events()) == []
        assert time.monotonic() - begun < 2


# Faults


def test_a_stream_goes_on_over_a_restart_of_redis(own_redis: RedisServer) -> None:
    """It polls the rows meanwhile, and gets events again when Redis is back."""
    with serve(RedisBroadcaster(own_redis.url), poll_seconds=0.1) as live:
        job = live.commit(make_snapshot())
        with live.follow_job(job) as reader:
            events = reader.events()
            assert next(events).id == "1"
            own_redis.kill()
            job = live.commit(step(job))
            assert durable(events).id == "2"
            assert next(events).name == "heartbeat"  # never silent
            own_redis.restart()
            deadline = time.monotonic() + 10
            while not live.events.hub.connected:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            job = live.commit(done(job))
            assert durable(events).name == "completed"
            assert list(events) == []


def durable(events: Iterator[Any]) -> Any:
    """The next event that is no heartbeat."""
    return next(event for event in events if event.name != "heartbeat")


def test_a_stream_opens_without_redis(redis_url: str, fault_proxy: Callable[[str], FaultProxy]) -> None:
    """And follows the rows to the end of the job."""
    proxy = fault_proxy(redis_url)
    proxy.down()
    with serve(RedisBroadcaster(proxy.url(redis_url)), poll_seconds=0.1) as live:
        job = live.commit(make_snapshot())
        with live.follow_job(job) as reader:
            events = reader.events()
            assert next(events).id == "1"
            live.commit(done(job))
            assert durable(events).name == "completed"


def test_a_lost_broadcast_is_found_by_the_next_keepalive(redis_url: str) -> None:
    """The end of a job whose publisher could not reach Redis."""
    with serve(RedisBroadcaster(redis_url), keepalive_seconds=0.3) as live:
        job = live.commit(make_snapshot())
        with live.follow_job(job) as reader:
            events = reader.events()
            next(events)
            live.jobs.put(done(job))
            assert [event.name for event in events] == ["completed"]


def test_without_redis_configured_the_rows_are_followed() -> None:
    """The workers' broadcasts stay in their processes then."""
    with serve(MemoryBroadcaster(), redis_url=None, poll_seconds=0.1) as live:
        job = live.jobs.put(make_snapshot())
        with live.follow_job(job) as reader:
            events = reader.events()
            next(events)
            live.jobs.put(done(job))
            assert durable(events).name == "completed"


def test_streams_outlive_a_database_that_is_away(redis_url: str) -> None:
    """Broadcasts still come; who connects gets the kept snapshot, or is told to come back, not sent away for good."""
    with serve(RedisBroadcaster(redis_url), keepalive_seconds=0.2) as live:
        job = live.commit(make_snapshot())
        with live.follow_job(job) as reader:
            reader.next_event()
            live.jobs.away = True
            reader.read_until(b":\n")
            live.broadcaster.publish(step(job))
            assert reader.next_event().id == "2"
            with live.follow_job(job) as late:
                assert late.next_event().id == "2"
            unknown = make_snapshot()
            with live.follow_job(unknown) as refused:
                assert (refused.response.status, refused.response.read()) == (200, b"retry:10000\n\n")


def test_a_database_that_is_polled_is_read_once_for_all(redis_url: str, fault_proxy: Callable[..., FaultProxy]) -> None:
    """Else a lost Redis would send every reader's query to the database at once."""
    proxy = fault_proxy(redis_url)
    with serve(RedisBroadcaster(proxy.url(redis_url)), poll_seconds=0.5) as live:
        job = live.commit(make_snapshot())
        readers = [live.follow_job(job) for _ in range(20)]
        for reader in readers:
            reader.next_event()
        before = live.jobs.reads
        proxy.down()
        for reader in readers:
            assert reader.next_event().name == "heartbeat"
        assert live.jobs.reads - before < 15
        for reader in readers:
            reader.close()


# A real server

_GUNICORN_APP = """
import os
from tests.support.live import live_app, make_snapshot
from celery_progress_ext.broadcast.redis import RedisBroadcaster

broadcaster = RedisBroadcaster(os.environ["TEST_REDIS_URL"])
app, jobs, events = live_app(broadcaster, keepalive_seconds=2.0)
job = jobs.put(make_snapshot(job_id="job_live"))
"""

_GUNICORN_CONF = """
import gevent

def post_worker_init(worker):
    import live_under_gunicorn

    def drain():
        while worker.alive:
            gevent.sleep(0.1)
        live_under_gunicorn.events.close()

    gevent.spawn(drain)
"""


@pytest.fixture
def gunicorn(redis_url: str, tmp_path: Path, wait_for: Wait) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The streams of one job under gunicorn's gevent worker: its port and its process."""
    (tmp_path / "live_under_gunicorn.py").write_text(_GUNICORN_APP)
    (tmp_path / "conf.py").write_text(_GUNICORN_CONF)
    port = free_port()
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "gunicorn", "-k", "gevent", "-w", "1", "-b", f"127.0.0.1:{port}"]
    options = ["-c", str(tmp_path / "conf.py"), "--graceful-timeout", "10", "live_under_gunicorn:app"]
    with (tmp_path / "gunicorn.log").open("wb") as log:
        process = subprocess.Popen(
            command + options,
            env={**os.environ, "TEST_REDIS_URL": redis_url, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"},
            stdout=log,
            stderr=log,
            cwd=tmp_path,
        )
        try:
            wait_for(lambda: _listens(port), 20)
            yield port, process
        finally:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def test_many_clients_of_a_process_share_one_subscription(
    gunicorn: tuple[int, subprocess.Popen[bytes]], redis_url: str, wait_for: Wait
) -> None:
    """200 streams under gevent, one pub/sub connection; each gets what is published; a deploy drains in seconds."""
    port, process = gunicorn
    readers = [EventReader(port, "/api/jobs/job_live/events") for _ in range(200)]
    for reader in readers:
        assert reader.next_event().id == "1"
    with redis.Redis.from_url(redis_url) as client:
        assert len(client.client_list(_type="pubsub")) == 1
        for version in range(2, 7):
            RedisBroadcaster(redis_url).publish(make_snapshot(version, job_id="job_live"))
        for reader in readers:
            seen = [int(event.id or 0) for event in _through(reader, 6)]
            assert seen == sorted(set(seen))
        for reader in readers[:100]:
            reader.close()
        process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        assert process.wait(15) == 0
        assert time.monotonic() - begun < 6
        for reader in readers[100:]:
            assert list(reader.events()) == []
            reader.close()
        wait_for(lambda: client.client_list(_type="pubsub") == [], 5)


def _through(reader: EventReader, version: int) -> Iterator[Any]:
    for event in reader.events():
        yield event
        if event.id == str(version):
            return


def test_without_flask_it_says_what_to_install() -> None:
    """An optional dependency is named with the extra that brings it."""
    code = "import sys; sys.modules['flask_sse'] = None; import celery_progress_ext.sse.blueprint"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert MissingExtra.__name__ in ran.stderr
    assert "with its extra `web`" in ran.stderr
