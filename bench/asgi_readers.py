"""Readers of FastAPI streams that come and go, and what they leave behind.

``python -m bench.asgi_readers [--readers N]`` from the checkout: a server process with the router and a route that is
no coroutine; N clients open streams of ten jobs, get their first event, and leave without a word. Meanwhile the route
is asked again and again. Prints the server's threads, asyncio tasks and Redis subscriptions before, with all readers,
and after, and how long the route took.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import redis
from celery import Celery

from celery_progress_ext import CeleryProgress, tracked_chord
from tasks.embedded.servers import RedisServer, free_port

_JOBS = 10


def main(readers: int) -> dict[str, Any]:
    """The figures."""
    with TemporaryDirectory() as folder, RedisServer(Path(folder) / "redis") as server:
        env = {**os.environ, "BENCH_REDIS": server.url, "PROGRESS_DATABASE_URL": f"sqlite:///{folder}/progress.db"}
        port = free_port()
        app = Celery("bench", broker=server.url, backend=server.url, set_as_current=False)
        app.conf.progress_database_url = env["PROGRESS_DATABASE_URL"]
        progress = CeleryProgress(app)
        progress.migrate()
        header = [app.signature("bench.nothing", args=(0,))]
        jobs = [
            tracked_chord(header, app.signature("bench.body"), matter_id="m", document_id="d", app=app).apply_async().id
            for _ in range(_JOBS)
        ]
        serving = subprocess.Popen([sys.executable, "-m", "bench.asgi_readers", "--serve", str(port)], env=env)
        try:
            return asyncio.run(_come_and_go(f"http://127.0.0.1:{port}", port, jobs, readers, server.url))
        finally:
            serving.terminate()
            serving.wait(15)
            progress.database.dispose()
            app.close()


async def _come_and_go(url: str, port: int, jobs: list[str], readers: int, redis_url: str) -> dict[str, Any]:
    figures: dict[str, Any] = {"readers": readers}
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        await _until(lambda: _answers(client))
        figures["before"] = await _counts(client, redis_url)
        times: list[float] = []
        asking = asyncio.create_task(_ask(client, times))
        opened = await asyncio.gather(*(_first_event(port, jobs[number % len(jobs)]) for number in range(readers)))
        figures["with all"] = await _counts(client, redis_url)
        for writer in opened:
            writer.transport.abort()

        async def nobody() -> bool:
            return (await _counts(client, redis_url)) == figures["before"]

        begun = time.monotonic()
        with contextlib.suppress(TimeoutError):
            await _until(nobody)
        figures["after"] = await _counts(client, redis_url)
        figures["gone within seconds"] = round(time.monotonic() - begun, 2)
        asking.cancel()
        times.sort()
        figures["sync route"] = {
            "asked": len(times),
            "p50 ms": round(times[len(times) // 2] * 1000, 1),
            "max ms": round(times[-1] * 1000, 1),
        }
    return figures


async def _first_event(port: int, job_id: str) -> asyncio.StreamWriter:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /progress/jobs/{job_id}/events HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
    while not (await reader.readline()).startswith(b"data:"):
        pass
    return writer


async def _ask(client: httpx.AsyncClient, times: list[float]) -> None:
    while True:
        begun = time.monotonic()
        (await client.get("/sync")).raise_for_status()
        times.append(time.monotonic() - begun)
        await asyncio.sleep(0.05)


async def _counts(client: httpx.AsyncClient, redis_url: str) -> dict[str, int]:
    found: dict[str, int] = (await client.get("/counts")).json()
    with redis.Redis.from_url(redis_url) as server:
        found["subscriptions"] = len(server.pubsub_channels("progress:*"))
    return found


async def _answers(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/sync")).is_success
    except httpx.TransportError:
        return False


async def _until(true: Any, seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not await true():
            await asyncio.sleep(0.1)


def serve(port: int) -> None:
    """The server process."""
    import uvicorn
    from fastapi import FastAPI

    from celery_progress_ext.asgi import progress_router

    url = os.environ["BENCH_REDIS"]
    celery_app = Celery("bench", broker=url, backend=url)
    CeleryProgress(celery_app)
    app = FastAPI()
    # Without caps: all readers come from one address.
    router = progress_router(
        celery_app, authorize=lambda request, job: True, max_streams=10_000, max_streams_per_address=10_000
    )
    app.include_router(router, prefix="/progress")

    @app.get("/sync")
    def sync() -> str:
        return "answered"

    @app.get("/counts")
    async def counts() -> dict[str, int]:
        # anyio's are the application's own, for its sync routes; it keeps them for ten seconds.
        threads = [each for each in threading.enumerate() if "AnyIO" not in each.name]
        return {"threads": len(threads), "tasks": len(asyncio.all_tasks()), "streams": router.readers.room.open}

    uvicorn.run(app, port=port, log_level="error", backlog=4096)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--readers", type=int, default=1000)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
    else:
        print(json.dumps(main(arguments.readers), indent=1))
