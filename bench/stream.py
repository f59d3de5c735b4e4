"""How the live stream holds up: CPU a delivery, latency, what is skipped, memory of an idle stream, Redis connections.

    python -m bench.stream [--readers 1000,2000] [--rate 20] [--seconds 10] [--rounds 2] [--servers hub,flask-sse]

One web process with one job (``--jobs N`` spreads the readers over N jobs) and events of about 1 KB. The servers take
turns, so that a busy moment of the machine hits all of them. The readers are one process on epoll that counts events
and takes the latencies from a sample of 20 connections, since a client in Python otherwise measures itself.
``sse-starlette`` and ``nchan`` are measured where they are installed (``uvicorn``; nginx with ``libnginx-mod-nchan``).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import multiprocessing
import os
import re
import resource
import select
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import redis

from celery_progress_ext.broadcast.redis import RedisBroadcaster
from tasks.embedded.servers import RedisServer, free_port

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = 20
_PADDING = "x" * 300

_HUB = """
import os
from tests.support.live import live_app, make_snapshot
from celery_progress_ext.broadcast.redis import RedisBroadcaster
app, jobs, events = live_app(RedisBroadcaster(os.environ["BENCH_REDIS"]), max_streams=100000,
    max_streams_per_address=100000)
for n in range(int(os.environ["BENCH_JOBS"])):
    jobs.put(make_snapshot(0, job_id=f"job{n}"))
"""

_FLASK_SSE = """
import os
from flask import Flask
from flask_sse import sse
app = Flask("bench")
app.config["REDIS_URL"] = os.environ["BENCH_REDIS"]
app.register_blueprint(sse, url_prefix="/stream")
"""

_DROP_IN = _FLASK_SSE.replace("from flask_sse", "from celery_progress_ext.sse.blueprint")

_STARLETTE = """
import asyncio, os, json
import redis.asyncio as redis
from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.routing import Route
client = redis.Redis.from_url(os.environ["BENCH_REDIS"], socket_timeout=None, max_connections=100000)
async def events(request):
    async def generate():
        async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.subscribe(request.query_params.get("channel", "sse"))
            async for message in pubsub.listen():
                yield {"data": json.loads(message["data"])["data"]}
    return EventSourceResponse(generate())
app = Starlette(routes=[Route("/stream", events)])
"""

_NGINX = """
{modules}
worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;
worker_rlimit_nofile 20000;
events {{ worker_connections 8000; }}
http {{
  access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  nchan_message_timeout 1m;
  server {{
    listen 127.0.0.1:{port};
    location = /stream {{ nchan_subscriber eventsource; nchan_channel_id $arg_channel; }}
    location = /publish {{ nchan_publisher; nchan_channel_id $arg_channel; }}
  }}
}}
"""


@dataclass(frozen=True)
class Kind:
    """One of the servers that are compared."""

    name: str
    app: str | None
    path: str
    runner: str = "gunicorn"


KINDS = {
    kind.name: kind
    for kind in (
        Kind("hub", _HUB, "/api/jobs/job{n}/events"),
        Kind("drop-in", _DROP_IN, "/stream?channel=job{n}"),
        Kind("flask-sse", _FLASK_SSE, "/stream?channel=job{n}"),
        Kind("sse-starlette", _STARLETTE, "/stream?channel=job{n}", runner="uvicorn"),
        Kind("nchan", None, "/stream?channel=job{n}", runner="nginx"),
    )
}


def available(kind: Kind) -> bool:
    """Whether the machine has what the server needs."""
    if kind.runner == "uvicorn":
        return all(importlib.util.find_spec(name) for name in ("uvicorn", "sse_starlette"))
    if kind.runner == "nginx":
        return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is not None
    return True


@contextlib.contextmanager
def served(kind: Kind, redis_url: str, jobs: int) -> Iterator[tuple[int, psutil.Process]]:
    """Run one server; its port, and the process that serves."""
    port = free_port()
    environ = {**os.environ, "BENCH_REDIS": redis_url, "BENCH_JOBS": str(jobs)}
    with tempfile.TemporaryDirectory() as folder:
        if kind.app is not None:
            (Path(folder) / "bench_app.py").write_text(kind.app)
        environ["PYTHONPATH"] = f"{folder}{os.pathsep}{ROOT}"
        gunicorn = ["gunicorn", "-k", "gevent", "--worker-connections", "8000", "-b", f"127.0.0.1:{port}"]
        if kind.runner == "nginx":
            program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
            # Debian's package keeps it beside the program, wherever both are unpacked.
            module = Path(str(program)).parents[1] / "lib/nginx/modules/ngx_nchan_module.so"
            load = f"load_module {module};" if module.exists() else ""
            (Path(folder) / "nginx.conf").write_text(_NGINX.format(folder=folder, port=port, modules=load))
            command = [str(program), "-p", folder, "-c", f"{folder}/nginx.conf"]
        elif kind.runner == "uvicorn":
            command = [sys.executable, "-m", "uvicorn", "--port", str(port), "--log-level", "error", "bench_app:app"]
        else:
            command = [sys.executable, "-m", *gunicorn, "--log-level", "error", "bench_app:app"]
        process = subprocess.Popen(command, env=environ, cwd=folder)
        try:
            wait_for(lambda: listens(port))
            time.sleep(0.5)
            parent = psutil.Process(process.pid)
            yield port, (parent.children() or [parent])[0]
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Until ``condition`` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the server does not start")
        time.sleep(0.05)


def listens(port: int) -> bool:
    """Whether something listens on a port of loopback."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def read(port: int, paths: list[str], orders: Connection) -> None:
    """The readers: connect, say so, count until told to stop, and send what was seen."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    epoll = select.epoll()
    socks: dict[int, socket.socket] = {}
    tails: dict[int, bytes] = {}
    for path in paths:
        sock = socket.create_connection(("127.0.0.1", port))
        request = f"GET {path} HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n\r\n"
        sock.sendall(request.encode())
        sock.setblocking(False)
        socks[sock.fileno()] = sock
        tails[sock.fileno()] = b""
        epoll.register(sock.fileno(), select.EPOLLIN)
    step = max(len(paths) // SAMPLE, 1)
    sample = set([*socks][::step][:SAMPLE])
    events, latencies, opened = 0, [], set()
    stamp = re.compile(rb'"at":([0-9.]+)')
    begun = time.monotonic()
    reported = False
    while True:
        for fd, _ in epoll.poll(0.1):
            try:
                content = socks[fd].recv(262144)
            except BlockingIOError:
                continue
            now = time.monotonic()
            if not content:
                epoll.unregister(fd)
                continue
            opened.add(fd)
            # A token that two reads cut in half is counted with the second.
            whole = tails[fd] + content
            cut = whole.rfind(b"\n") + 1
            tails[fd] = whole[cut:]
            events += whole.count(b'"at":', 0, cut)
            if fd in sample:
                latencies += [now - float(found) for found in stamp.findall(whole[:cut])]
        if not reported and (len(opened) == len(socks) or time.monotonic() - begun > 60):
            reported = True
            orders.send(len(opened))
        if orders.poll():
            order = orders.recv()
            if order == "begin":
                events, latencies = 0, []
            else:
                orders.send((events, latencies))
                return


def publish(kind: Kind, redis_url: str, port: int, jobs: int, rate: float, seconds: float) -> int:
    """Publish in turns for every job, ``rate`` events a second each; how many each job got."""
    from tests.support.live import make_snapshot

    broadcaster = RedisBroadcaster(redis_url)
    client = redis.Redis.from_url(redis_url)
    begun = time.monotonic()
    rounds = int(rate * seconds)
    for turn in range(1, rounds + 1):
        for number in range(jobs):
            stamped = {"at": round(time.monotonic(), 6), "pad": _PADDING}
            snapshot = make_snapshot(turn, job_id=f"job{number}", metadata=stamped)
            if kind.name == "hub":
                broadcaster.publish(snapshot)
                continue
            data = json.dumps(snapshot.to_dict(), separators=(",", ":"))
            if kind.runner == "nginx":
                url = f"http://127.0.0.1:{port}/publish?channel=job{number}"
                urllib.request.urlopen(urllib.request.Request(url, data.encode(), method="POST")).read()
            else:
                client.publish(f"job{number}", json.dumps({"data": data}))
        time.sleep(max(begun + turn / rate - time.monotonic(), 0))
    return rounds


def measure(kind: Kind, redis_url: str, readers: int, jobs: int, rate: float, seconds: float) -> dict[str, Any]:
    """One run of one server."""
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
        # What the server before has left behind is not counted.
        for type_of_client in ("normal", "pubsub"):
            client.client_kill_filter(_type=type_of_client, skipme=True)
    with redis.Redis.from_url(redis_url) as client, served(kind, redis_url, jobs) as (port, process):
        urllib_ready(port)
        memory, connections = process.memory_info().rss, client.info("clients")["connected_clients"]
        paths = [kind.path.format(n=number % jobs) for number in range(readers)]
        ours, theirs = multiprocessing.Pipe()
        counting = multiprocessing.Process(target=read, args=(port, paths, theirs))
        counting.start()
        begun = time.monotonic()
        # Streams that say nothing before the first event are open as soon as the server has them.
        silent = kind.name in ("flask-sse",)
        opened = readers if silent else ours.recv()
        if silent:
            time.sleep(2 + readers / 250)
        connecting = time.monotonic() - begun
        time.sleep(2)
        idle = (process.memory_info().rss - memory) / readers / 1024
        held = client.info("clients")["connected_clients"] - connections
        if silent:
            publish(kind, redis_url, port, jobs, 2, 1)
            opened = ours.recv()
        ours.send("begin")
        time.sleep(0.3)
        before = cpu(process)
        rounds = publish(kind, redis_url, port, jobs, rate, seconds)
        time.sleep(1.5)
        spent = cpu(process) - before
        ours.send("stop")
        events, latencies = ours.recv()
        counting.join()
    latencies.sort()
    return {
        "opened": opened,
        "connect_s": connecting,
        "p50_ms": 1000 * statistics.median(latencies) if latencies else float("nan"),
        "p99_ms": 1000 * latencies[int(len(latencies) * 0.99)] if latencies else float("nan"),
        "skipped_pct": 100 * (1 - events / (rounds * readers)),
        "us_a_delivery": 1e6 * spent / max(events, 1),
        "kb_a_stream": idle,
        "redis": held,
    }


def urllib_ready(port: int) -> None:
    """Let the application load what it loads with the first request."""
    with contextlib.suppress(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/none", timeout=5)


def cpu(process: psutil.Process) -> float:
    """CPU seconds of the process that serves."""
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> None:
    """Measure, and print one row a server and number of readers: the median of the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", default="1000,2000")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--rate", type=float, default=20)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--servers", default="hub,flask-sse,sse-starlette,nchan")
    arguments = parser.parse_args()
    kinds = [KINDS[name] for name in arguments.servers.split(",")]
    kinds = [kind for kind in kinds if available(kind) or print(f"{kind.name}: not installed, left out")]
    print("| server | readers | connect s | p50 ms | p99 ms | skipped % | µs CPU a delivery | KB a stream | Redis |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder)) as server:
        for readers in map(int, arguments.readers.split(",")):
            found: dict[str, list[dict[str, Any]]] = {kind.name: [] for kind in kinds}
            for _ in range(arguments.rounds):
                for kind in kinds:
                    run = measure(kind, server.url, readers, arguments.jobs, arguments.rate, arguments.seconds)
                    found[kind.name].append(run)
            for name, runs in found.items():
                row = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
                print(
                    f"| {name} | {row['opened']:.0f} | {row['connect_s']:.1f} | {row['p50_ms']:.0f} |"
                    f" {row['p99_ms']:.0f} | {row['skipped_pct']:.1f} | {row['us_a_delivery']:.1f} |"
                    f" {row['kb_a_stream']:.1f} | {row['redis']:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
