"""The live streams and the other routes of jobs for FastAPI, Starlette and every ASGI application.

.. code-block:: python

    app = FastAPI()
    app.include_router(progress_router(celery_app, authorize=may_read), prefix="/progress")

Without FastAPI the router is Starlette's; either can be mounted as well:
``app.mount("/progress", progress_router(…))``.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from functools import partial

from celery import Celery

from celery_progress_ext.event_loops import PerLoop
from celery_progress_ext.exceptions import MissingExtra
from celery_progress_ext.extension import CeleryProgress
from celery_progress_ext.sse import answers
from celery_progress_ext.sse.answers import Access, Answer, Refused, problem
from celery_progress_ext.sse.async_hub import AsyncHub, AsyncMailbox
from celery_progress_ext.sse.async_readers import AsyncReaders
from celery_progress_ext.sse.readers import (
    KEEPALIVE_SECONDS,
    MAX_STREAMS,
    MAX_STREAMS_PER_ADDRESS,
    MAX_STREAMS_PER_CREDENTIAL,
    Caps,
)
from celery_progress_ext.sse.routes import ROUTES, ProgressRoutes, Route
from celery_progress_ext.tokens import Tokens

try:
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Router
    from starlette.types import Receive, Scope, Send
except ImportError as error:
    raise MissingExtra(
        f"The ASGI routes need {error.name}; install celery-progress-ext with its extra `asgi`"
    ) from error

#: Whether a request may read a job; a coroutine function, or one that may wait and runs in a thread.
Authorize = Callable[[Request, Access], bool | Awaitable[bool]]


def progress_router(
    progress: Celery | CeleryProgress,
    *,
    authorize: Authorize | None = None,
    keepalive_seconds: float = KEEPALIVE_SECONDS,
    poll_seconds: float = 2.0,
    max_streams: int = MAX_STREAMS,
    max_streams_per_address: int = MAX_STREAMS_PER_ADDRESS,
    max_streams_per_credential: int = MAX_STREAMS_PER_CREDENTIAL,
    credential: Callable[[Request], str | None] = lambda request: None,
    tokens: Tokens | None = None,
) -> Router:
    """The routes of jobs and matters (``sse.routes.ROUTES``): FastAPI's ``APIRouter`` where FastAPI is installed, for
    ``app.include_router(…)`` with its dependencies, prefix and tags; else Starlette's ``Router``.

    :param progress: the Celery app, or its ``CeleryProgress``.
    :param authorize: ``authorize(request, job)``, sync or async: whether a request that brings no token may read a job,
        or all of a matter (``job.job_id`` is None then). Without it only tokens open anything.
    :param keepalive_seconds: a stream is never silent for longer.
    :param poll_seconds: how often the database is read while nothing is broadcast.
    :param max_streams: per process; a client that comes when it is full is asked to try again in 10 s.
    :param max_streams_per_address: the same for one client address.
    :param max_streams_per_credential: the same for what ``credential`` names, or one token.
    :param credential: an id of the request's credential, for that cap; without it there is none.
    :param tokens: reads the tokens of requests; those that ``progress_token_secrets`` signs unless given.
    """
    extension = CeleryProgress.of(progress) if isinstance(progress, Celery) else progress
    readers = AsyncReaders(
        extension.context.per_loop,
        Caps(streams=max_streams, per_address=max_streams_per_address, per_credential=max_streams_per_credential),
        keepalive_seconds=keepalive_seconds,
        poll_seconds=poll_seconds,
    )
    face = _Face(extension, readers, authorize=authorize, credential=credential, tokens=tokens)
    mounted = ProgressRouter(readers)
    for route in ROUTES:
        mounted.add_route(route.path, _endpoint(face, route), methods=["GET", "OPTIONS"], name=route.name)
    try:
        return _included(face, mounted)
    except ImportError:
        return mounted


class ProgressRouter(Router):
    """The routes, to be mounted.

    :ivar readers: what reads and writes for its streams.
    """

    def __init__(self, readers: AsyncReaders) -> None:
        super().__init__()
        self.readers = readers


def _included(face: _Face, mounted: ProgressRouter) -> Router:
    """The same for ``FastAPI.include_router``, which applies dependencies to routes of its own kind alone; those answer
    within a FastAPI application only.

    :raises ImportError: without FastAPI.
    """
    from fastapi import APIRouter

    class ProgressAPIRouter(APIRouter):
        readers = mounted.readers

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await mounted(scope, receive, send)

    made = ProgressAPIRouter()
    for route in ROUTES:
        endpoint = _endpoint(face, route)
        made.add_api_route(
            route.path, endpoint, methods=["GET"], name=route.name, response_class=Response, response_model=None
        )
        # Of browsers, which ask before they send a token to another site.
        made.add_api_route(route.path, endpoint, methods=["OPTIONS"], response_model=None, include_in_schema=False)
    return made


class _Face:
    """Answers requests."""

    def __init__(
        self,
        progress: CeleryProgress,
        readers: AsyncReaders,
        *,
        authorize: Authorize | None,
        credential: Callable[[Request], str | None],
        tokens: Tokens | None,
    ) -> None:
        self._progress = progress
        self._authorize = authorize
        self._credential = credential
        self._readers = readers
        self._routes = PerLoop(lambda: ProgressRoutes(progress, _Here(readers.hub), tokens=tokens))

    async def answer(self, route: Route, request: Request) -> Response:
        """The response to a request."""
        asked = answers.Request(
            method=request.method, path=request.url.path, query=request.query_params, headers=request.headers
        )
        routes, threads = self._routes.get(), self._progress.context.loop_readers
        async with threads.reading():
            guarded = await threads.run(partial(routes.open, route, asked, **request.path_params))
            if guarded.access is not None and not await self._may_read(request, guarded.access):
                return _response(problem(Refused(403, "forbidden", "You may not read this."), asked.path))
            answer: Answer = await threads.run(guarded.answer)
        if answer.stream is None or request.method == "HEAD":
            return _response(answer)
        return _EventStream(self._readers, answer, guarded.credential or self._credential(request))

    async def _may_read(self, request: Request, job: Access) -> bool:
        if self._authorize is None:
            return False
        if inspect.iscoroutinefunction(self._authorize):
            return bool(await self._authorize(request, job))
        allowed = await run_in_threadpool(self._authorize, request, job)
        return bool(await allowed if inspect.isawaitable(allowed) else allowed)


class _Here:
    """The hub of one event loop, for threads that work for it."""

    def __init__(self, hub: AsyncHub) -> None:
        self.hub = hub


class _EventStream(Response):
    """A response that goes on until its job ends, its client has gone, or the process is asked to end."""

    def __init__(self, readers: AsyncReaders, answer: Answer, credential: str | None) -> None:
        assert answer.stream is not None
        self._readers = readers
        self._stream = answer.stream
        self._credential = credential
        self.status_code = answer.status
        self.background = None
        self.init_headers(dict(answer.headers))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write the events as they come."""
        address = scope["client"][0] if scope.get("client") else None
        mailbox = AsyncMailbox()
        gone = asyncio.create_task(_close_when_gone(receive, mailbox), name="progress-client")
        body = self._readers.body(self._stream, mailbox, address=address, credential=self._credential)
        try:
            # The client has gone.
            with suppress(OSError):
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                async with aclosing(body):
                    async for content in body:
                        await send({"type": "http.response.body", "body": content, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()


async def _close_when_gone(receive: Receive, mailbox: AsyncMailbox) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    mailbox.close()


def _endpoint(face: _Face, route: Route) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request, **_: str) -> Response:
        return await face.answer(route, request)

    # What FastAPI documents, and reads of a request.
    endpoint.__name__ = route.name
    endpoint.__doc__ = route.summary
    parameters = [inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Request)]
    parameters += [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=str) for name in route.parameters]
    endpoint.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return endpoint


def _response(answer: Answer) -> Response:
    return Response(answer.body, status_code=answer.status, headers=dict(answer.headers))
