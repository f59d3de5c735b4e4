"""The routes of jobs (``sse.routes.ROUTES``) as Django's views: the streams under WSGI and ASGI, and the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from functools import cached_property
from typing import Any

from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse

from celery_progress_ext.django import conf
from celery_progress_ext.sse import answers, gevent_support
from celery_progress_ext.sse.answers import Answer, Refused, problem
from celery_progress_ext.sse.async_hub import AsyncMailbox
from celery_progress_ext.sse.async_readers import AsyncReaders
from celery_progress_ext.sse.readers import (
    KEEPALIVE_SECONDS,
    MAX_STREAMS,
    MAX_STREAMS_PER_ADDRESS,
    MAX_STREAMS_PER_CREDENTIAL,
    Caps,
    Readers,
    readers_of,
)
from celery_progress_ext.sse.routes import ProgressRoutes, Route
from celery_progress_ext.sse.streams import Stream


class Face:
    """What answers in this process, made when the first request comes.

    :param options: of ``keepalive_seconds``, ``max_streams``, ``max_streams_per_address`` and
        ``max_streams_per_credential``; those that are not given are settings: ``PROGRESS_MAX_STREAMS``.
    """

    def __init__(self, **options: float) -> None:
        self._options = options

    @cached_property
    def readers(self) -> Readers:
        """Those of streams under WSGI."""
        gevent_support.install()
        return readers_of(conf.progress(), caps=self._caps, keepalive_seconds=self._keepalive_seconds)

    @cached_property
    def async_readers(self) -> AsyncReaders:
        """Those of streams under ASGI."""
        return AsyncReaders(conf.progress().context.per_loop, self._caps, keepalive_seconds=self._keepalive_seconds)

    @cached_property
    def routes(self) -> ProgressRoutes:
        """What is answered."""
        return ProgressRoutes(conf.progress(), self.readers)

    @cached_property
    def _caps(self) -> Caps:
        return Caps(
            streams=int(self._option("max_streams", MAX_STREAMS)),
            per_address=int(self._option("max_streams_per_address", MAX_STREAMS_PER_ADDRESS)),
            per_credential=int(self._option("max_streams_per_credential", MAX_STREAMS_PER_CREDENTIAL)),
        )

    @property
    def _keepalive_seconds(self) -> float:
        return self._option("keepalive_seconds", KEEPALIVE_SECONDS)

    def _option(self, name: str, default: float) -> float:
        given: float = getattr(settings, f"PROGRESS_{name.upper()}", default)
        return float(self._options.get(name, given))


face = Face()


def view_of(route: Route) -> Callable[..., HttpResponseBase]:
    """The view of a route. A synchronous one: under ASGI, Django runs it in a thread, and the stream in the loop."""

    def view(request: HttpRequest, **parameters: str) -> HttpResponseBase:
        asked = answers.Request(
            method=request.method or "GET", path=request.path, query=request.GET, headers=request.headers
        )
        guarded = face.routes.open(route, asked, **parameters)
        if guarded.access is not None and not conf.may_read(request, guarded.access):
            return _response(problem(Refused(403, "forbidden", "You may not read this."), asked.path))
        answer = guarded.answer()
        if answer.stream is None or request.method == "HEAD":
            return _response(answer)
        return _streaming(request, answer.stream, answer, guarded.credential)

    view.__name__ = route.name
    view.__doc__ = route.summary
    return view


def _response(answer: Answer) -> HttpResponse:
    return HttpResponse(answer.body, status=answer.status, headers=answer.headers)


def _streaming(request: HttpRequest, stream: Stream, answer: Answer, credential: str | None) -> StreamingHttpResponse:
    address = request.META.get("REMOTE_ADDR")
    if isinstance(request, ASGIRequest):
        parts: Any = _async_parts(stream, address, credential)
    else:
        parts = face.readers.wsgi_body(stream, request.environ, address=address, credential=credential)
    return StreamingHttpResponse(parts, status=answer.status, headers=answer.headers)


async def _async_parts(stream: Stream, address: str | None, credential: str | None) -> AsyncIterator[bytes]:
    """Django closes it, or cancels the task that reads it, when the client has gone."""
    readers = face.async_readers
    async with aclosing(readers.body(stream, AsyncMailbox(), address=address, credential=credential)) as body:
        async for content in body:
            yield content
