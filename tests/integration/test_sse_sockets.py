"""Streams whose sockets the hub writes, under gunicorn's gevent worker: many readers, slow ones, some that go."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import redis

from celery_progress_ext.broadcast.redis import RedisBroadcaster
from celery_progress_ext.jobs import JobSnapshot, JobStatus
from tasks.embedded.servers import free_port
from tests.support.live import EventReader, make_snapshot

Wait = Callable[..., Any]

_APP = """
import os, pathlib
from flask import jsonify
from tests.support.live import live_app, make_snapshot
from celery_progress_ext.broadcast.redis import RedisBroadcaster
from celery_progress_ext.jobs import JobStatus
from celery_progress_ext.sse.blueprint import sse

app, jobs, events = live_app(RedisBroadcaster(os.environ["TEST_REDIS_URL"]), keepalive_seconds=2.0)
app.config["REDIS_URL"] = os.environ["TEST_REDIS_URL"]
app.register_blueprint(sse, url_prefix="/stream")
job = jobs.put(make_snapshot(job_id="job_live", matter_id="m", heartbeat_at=1_700_000_000.0))
for number in range(200):
    jobs.put(make_snapshot(job_id=f"job_{number}"))
if pathlib.Path(os.environ["TEST_ENDED"]).exists():
    jobs.put(make_snapshot(2, job_id="job_live", matter_id="m", status=JobStatus.COMPLETED,
                           heartbeat_at=1_700_000_500.0, finished_at=1_700_000_500.0))

@app.get("/counts")
def counts():
    return jsonify(reads=jobs.reads, open=events.open_streams, clients=sum(events.hub.clients.values()))

@app.post("/publish")
def publish():
    return jsonify(sse.publish("hello", type="greeting", channel="news"))
"""


@dataclass
class Server:
    """A gunicorn with one worker."""

    port: int
    redis_url: str
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self, wait_for: Wait) -> None:
        """Start it and wait until it listens."""
        # A worker that was killed may still hold the port, and would reset whoever connects.
        wait_for(lambda: not self.listens(), 20)
        command = [sys.executable, "-m", "gunicorn", "-k", "gevent", "-b", f"127.0.0.1:{self.port}", "sockets_app:app"]
        paths = [str(self.folder), str(Path(__file__).parents[2])]
        environ = {"TEST_REDIS_URL": self.redis_url, "TEST_ENDED": str(self.folder / "ended")}
        with (self.folder / "gunicorn.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--worker-connections", "100"],
                env={**os.environ, **environ, "PYTHONPATH": os.pathsep.join(paths)},
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        wait_for(self.listens, 20)

    def listens(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        """SIGKILL to it and to its worker."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def follow(self, path: str, **headers: str) -> EventReader:
        return EventReader(self.port, path, headers)

    def connect(self, path: str, *, receive_buffer: int | None = None) -> socket.socket:
        """A reader that is only a socket."""
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.connect(("127.0.0.1", self.port))
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        return sock

    def counts(self) -> dict[str, int]:
        import httpx

        return dict(httpx.get(f"http://127.0.0.1:{self.port}/counts", timeout=10).json())


@pytest.fixture
def server(redis_url: str, tmp_path: Path, wait_for: Wait) -> Iterator[Server]:
    (tmp_path / "sockets_app.py").write_text(_APP)
    made = Server(free_port(), redis_url, tmp_path)
    made.start(wait_for)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.kill()


def receive_until(socks: list[socket.socket], done: Callable[[bytes], bool], seconds: float) -> dict[int, bytes]:
    """What each socket received, until all of them are done."""
    got = {sock.fileno(): b"" for sock in socks}
    by_number = {sock.fileno(): sock for sock in socks}
    poller = select.poll()
    for number in got:
        poller.register(number, select.POLLIN)
    deadline = time.monotonic() + seconds
    while not all(map(done, got.values())):
        assert time.monotonic() < deadline, f"{sum(map(done, got.values()))} of {len(socks)} are done"
        for number, _ in poller.poll(100):
            received = by_number[number].recv(65536)
            got[number] += received
            if not received:
                poller.unregister(number)
    return got


def close_all(socks: list[socket.socket]) -> None:
    for sock in socks:
        sock.close()


def step(version: int, **changes: Any) -> JobSnapshot:
    """A version of the served job."""
    return replace(make_snapshot(job_id="job_live", matter_id="m"), version=version, **changes)


def test_a_burst_of_readers_shares_its_reads(server: Server) -> None:
    """400 at once: each has its snapshot in a moment, for a handful of reads, two connections to Redis, and no place
    among the server's own connections, of which it has a hundred.
    """
    with redis.Redis.from_url(server.redis_url) as client:
        before = len(client.client_list())
        socks = [server.connect("/api/jobs/job_live/events") for _ in range(400)]
        # One after the other, at ten reads a second, they would need 40 s.
        receive_until(socks, lambda got: b"\nid:1\n" in got, 15)
        assert len(client.client_list()) - before <= 3
    counts = server.counts()
    assert (counts["open"], counts["clients"]) == (400, 400)
    assert counts["reads"] < 60
    close_all(socks)


def test_a_burst_of_readers_of_different_jobs_takes_a_handful_of_connections(server: Server) -> None:
    """Each job is read for itself, but not all of them at once: the pool of connections would run dry."""
    with redis.Redis.from_url(server.redis_url) as client:
        before = len(client.client_list())
        socks = [server.connect(f"/api/jobs/job_{number}/events") for number in range(200)]
        receive_until(socks, lambda got: b"\nid:1\n" in got, 15)
        assert len(client.client_list()) - before <= 12
    close_all(socks)


def test_nothing_is_missing_for_readers_that_keep_up(server: Server, wait_for: Wait) -> None:
    """Every version, in order; the last event ends the body and the connection, and who leaves is noticed at once."""
    socks = [server.connect("/api/jobs/job_live/events") for _ in range(50)]
    receive_until(socks, lambda got: b"\nid:1\n" in got, 15)
    leavers, socks = socks[:10], socks[10:]
    close_all(leavers)
    wait_for(lambda: server.counts()["open"] == 40, 5)
    broadcaster = RedisBroadcaster(server.redis_url)
    for version in range(2, 60):
        broadcaster.publish(step(version))
        time.sleep(0.005)
    broadcaster.publish(step(60, status=JobStatus.COMPLETED))
    got = receive_until(socks, lambda got: got.endswith(b"\r\n0\r\n\r\n"), 15)
    for content in got.values():
        versions = [int(line[3:]) for line in content.split(b"\n") if line.startswith(b"id:")]
        assert versions == list(range(2, 61))
    assert all(sock.recv(1) == b"" for sock in socks)
    wait_for(lambda: server.counts()["open"] == 0, 5)
    close_all(socks)


def test_a_slow_reader_gets_the_newest_soon(server: Server, wait_for: Wait) -> None:
    """What the kernel would hold for it is little, so it skips, and is not sent what was true long ago."""
    slow = server.connect("/api/jobs/job_live/events", receive_buffer=4096)
    quick = server.connect("/api/jobs/job_live/events")
    receive_until([quick], lambda got: b"\nid:1\n" in got, 15)
    wait_for(lambda: server.counts()["open"] == 2, 5)
    broadcaster = RedisBroadcaster(server.redis_url)
    padding = {"padding": "x" * 2000}
    for version in range(2, 301):
        broadcaster.publish(step(version, metadata=padding))
    receive_until([quick], lambda got: b"\nid:300\n" in got, 15)
    got = receive_until([slow], lambda got: b"\nid:300\n" in got, 15)
    versions = [int(line[3:]) for line in got[slow.fileno()].split(b"\n") if line.startswith(b"id:")]
    assert versions == sorted(set(versions))
    assert len(versions) < 60
    close_all([slow, quick])


def test_a_quiet_stream_is_kept_alive(server: Server) -> None:
    """With whole chunks of HTTP, also where no greenlet is left to write them."""
    with server.follow("/api/jobs/job_live/events") as reader:
        reader.next_event()
        reader.read_until(b":\n")


def test_any_number_of_readers_of_ordinary_channels(server: Server, wait_for: Wait) -> None:
    """flask-sse takes a connection for each, from a pool of a hundred, and never gives it back."""
    import httpx

    with redis.Redis.from_url(server.redis_url) as client:
        before = len(client.client_list())
        socks = [server.connect("/stream?channel=news") for _ in range(150)]
        receive_until(socks, lambda got: b"\r\n\r\n" in got, 15)
        wait_for(lambda: server.counts()["open"] == 150, 5)
        assert httpx.post(f"http://127.0.0.1:{server.port}/publish", timeout=10).json() == 1
        receive_until(socks, lambda got: b"event:greeting\ndata:hello\n\n" in got, 15)
        assert len(client.client_list()) - before <= 3
        close_all(socks)
        wait_for(lambda: server.counts()["open"] == 0, 5)
        wait_for(lambda: client.pubsub_channels("news") == [], 5)


def test_a_matter_s_readers_learn_of_an_end_that_they_missed(server: Server, wait_for: Wait) -> None:
    """The web process is killed, the job ends, and the reconnect brings it: by the cursor, as a browser sends it."""
    with server.follow("/api/matters/m/events") as reader:
        cursor = reader.next_event().id
        assert cursor is not None
        server.kill()
        assert list(reader.events()) == []
    (server.folder / "ended").touch()
    server.start(wait_for)
    with server.follow("/api/matters/m/events", **{"Last-Event-ID": cursor}) as reader:
        event = reader.next_event()
        assert (event.name, event.payload["job_id"]) == ("completed", "job_live")
