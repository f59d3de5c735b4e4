"""The same routes behind each web framework, served on loopback, for tests that hold all of them to one contract."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from flask import Flask, abort, request
from werkzeug.serving import make_server

from celery_progress_ext.broadcast.redis import RedisBroadcaster
from celery_progress_ext.broadcast.redis_async import AsyncRedisSubscription
from celery_progress_ext.config import Settings
from celery_progress_ext.event_loops import LoopReaders, PerLoop
from celery_progress_ext.jobs import JobSnapshot
from celery_progress_ext.sse.answers import Access
from celery_progress_ext.tokens import Tokens
from tests.support.live import EventReader, JobsInMemory, Quiet
from tests.support.waiting import wait_for

SECRET = "a secret of the tests"
#: Names the user that a request comes from: it may read the jobs that it owns.
USER = "X-User"


def allowed(user: str | None, owner: str | None) -> bool:
    """The application's rule."""
    return user is not None and user == owner


@dataclass
class Face:
    """A served application."""

    port: int
    jobs: JobsInMemory
    broadcaster: RedisBroadcaster
    open_streams: Callable[[], int]

    def commit(self, snapshot: JobSnapshot, event: str | None = None) -> JobSnapshot:
        """What a worker does: commit, then publish."""
        self.jobs.put(snapshot)
        self.broadcaster.publish(snapshot, event=event)
        return snapshot

    def follow(self, path: str, *, user: str | None, **headers: str) -> EventReader:
        """Ask for a path as a user."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return EventReader(self.port, f"/progress{path}", sent | ({USER: user} if user else {}))

    def follow_job(self, snapshot: JobSnapshot, **headers: str) -> EventReader:
        """Open a job's stream as its owner."""
        return self.follow(f"/jobs/{snapshot.job_id}/events", user=snapshot.matter_id, **headers)


def project(redis_url: str) -> Any:
    """What the faces need of a ``CeleryProgress``, over jobs in memory."""
    return SimpleNamespace(
        jobs=JobsInMemory(),
        broadcaster=RedisBroadcaster(redis_url),
        settings=Settings(redis_url=redis_url, token_secrets=(SECRET,)),
        tokens=Tokens([SECRET]),
        context=_Context(redis_url),
    )


class _Context:
    def __init__(self, redis_url: str) -> None:
        self.per_loop = PerLoop(lambda: LoopReaders(lambda: AsyncRedisSubscription.open(redis_url)))

    @property
    def loop_readers(self) -> LoopReaders:
        return self.per_loop.get()


@contextmanager
def flask_face(progress: Any, options: dict[str, Any]) -> Iterator[tuple[int, Callable[[], int]]]:
    """The blueprint, with threads."""
    from celery_progress_ext.sse.blueprint import progress_events

    def authorize(owner: str) -> None:
        if not allowed(request.headers.get(USER), owner):
            abort(403)

    events = progress_events(progress, authorize, **options)
    app = Flask("face")
    app.register_blueprint(events, url_prefix="/progress")
    with _wsgi(app) as port:
        yield port, lambda: events.open_streams
        events.close()


@contextmanager
def fastapi_face(progress: Any, options: dict[str, Any]) -> Iterator[tuple[int, Callable[[], int]]]:
    """The router in a FastAPI application, under uvicorn."""
    from fastapi import FastAPI

    from celery_progress_ext import asgi

    async def authorize(request: Any, job: Access) -> bool:
        return allowed(request.headers.get(USER), job.owner)

    app = FastAPI()
    router = asgi.progress_router(progress, authorize=authorize, **options)
    app.include_router(router, prefix="/progress")
    with _asgi(app) as port:
        yield port, lambda: router.readers.room.open


@contextmanager
def starlette_face(progress: Any, options: dict[str, Any]) -> Iterator[tuple[int, Callable[[], int]]]:
    """The router mounted in a Starlette application, behind a middleware that wraps its receive and send; a rule that
    is no coroutine."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware

    from celery_progress_ext import asgi

    class Passing(BaseHTTPMiddleware):
        async def dispatch(self, request: Any, call_next: Any) -> Any:
            return await call_next(request)

    router = asgi.progress_router(
        progress, authorize=lambda request, job: allowed(request.headers.get(USER), job.owner), **options
    )
    app = Starlette(middleware=[Middleware(Passing)])
    app.mount("/progress", router)
    with _asgi(app) as port:
        yield port, lambda: router.readers.room.open


@contextmanager
def _django(progress: Any, options: dict[str, Any]) -> Iterator[Any]:
    from tests.support import django_site

    with django_site.over(
        progress, options, lambda request, job: allowed(request.headers.get(USER), job.owner)
    ) as face:
        yield face


@contextmanager
def django_wsgi_face(progress: Any, options: dict[str, Any]) -> Iterator[tuple[int, Callable[[], int]]]:
    """Django's views under WSGI, with threads."""
    with _django(progress, options) as face:
        from django.core.wsgi import get_wsgi_application

        with _wsgi(get_wsgi_application()) as port:
            yield port, lambda: face.readers.room.open
            face.readers.close()


@contextmanager
def django_asgi_face(progress: Any, options: dict[str, Any]) -> Iterator[tuple[int, Callable[[], int]]]:
    """Django's views under ASGI."""
    with _django(progress, options) as face:
        from django.core.asgi import get_asgi_application

        with _asgi(get_asgi_application()) as port:
            yield port, lambda: face.async_readers.room.open


FACES = {
    "flask": flask_face,
    "fastapi": fastapi_face,
    "starlette": starlette_face,
    "django-wsgi": django_wsgi_face,
    "django-asgi": django_asgi_face,
}


@contextmanager
def serve_face(name: str, redis_url: str, **options: Any) -> Iterator[Face]:
    """Serve one of ``FACES`` over an empty job service."""
    progress = project(redis_url)
    with FACES[name](progress, options) as (port, open_streams):
        yield Face(port, progress.jobs, progress.broadcaster, open_streams)


@contextmanager
def _wsgi(app: Any) -> Iterator[int]:
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def _asgi(app: Any) -> Iterator[int]:
    config = uvicorn.Config(app, port=0, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=asyncio.run, args=(server.serve(),), daemon=True)
    thread.start()
    wait_for(lambda: server.started, what="uvicorn")
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(params=FACES)
def face_name(request: pytest.FixtureRequest) -> str:
    """Each of them."""
    return str(request.param)
