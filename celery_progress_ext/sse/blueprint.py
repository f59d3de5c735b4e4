"""The Flask blueprint of the live streams, on flask-sse.

``ServerSentEventsBlueprint`` can stand wherever flask-sse's does; ``ProgressEvents`` adds the streams of jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from celery_progress_ext.broadcast import CHANNEL_PREFIX, Subscription
from celery_progress_ext.broadcast.redis import RedisBroadcaster, RedisSubscription, reading_client, redis_py_url
from celery_progress_ext.exceptions import MissingExtra
from celery_progress_ext.log import get_logger
from celery_progress_ext.sse import gevent_support, streams
from celery_progress_ext.sse.answers import Answer, Request
from celery_progress_ext.sse.hub import CLOSED, Frame, Hub, Mailbox
from celery_progress_ext.sse.readers import (
    KEEPALIVE_SECONDS,
    MAX_STREAMS,
    MAX_STREAMS_PER_ADDRESS,
    MAX_STREAMS_PER_CREDENTIAL,
    STREAM_HEADERS,
    Caps,
    Readers,
    readers_of,
)
from celery_progress_ext.sse.routes import ROUTES, ProgressRoutes, Route
from celery_progress_ext.tokens import Tokens

try:
    import flask_sse
    from flask import Flask, Response, abort, current_app, json, request, stream_with_context
except ImportError as error:
    raise MissingExtra(
        f"The live streams need {error.name}; install celery-progress-ext with its extra `web`"
    ) from error

logger = get_logger(__name__)

#: Channels that ``?channel=`` never reaches: job snapshots, which have streams with authorisation of their own, and
#: what Celery and Redis publish for themselves (results, events, remote control, keyspace notifications).
RESERVED_CHANNELS = (CHANNEL_PREFIX, "celery", "/", "_kombu", "__key")

_EXTENSION = "celery_progress_ext.sse"


class ServerSentEventsBlueprint(flask_sse.ServerSentEventsBlueprint):  # type: ignore[misc]  # untyped base
    """flask-sse's blueprint with one Redis connection for all readers of a process, safe framing, and guarded channels.

    :param authorize_channel: called with the channel that a request asks for; it aborts when the request may not
        read it. Reserved channels are refused before.
    :param caps: how many streams a process serves; a client that comes when it is full is asked to try again in 10 s.
    :param credential: an id of the request's credential, for its cap; without it there is none.
    :param keepalive_seconds: a stream is never silent for longer.
    """

    def __init__(
        self,
        *args: Any,
        authorize_channel: Callable[[str], None] | None = None,
        caps: Caps | None = None,
        credential: Callable[[], str | None] | None = None,
        keepalive_seconds: float = KEEPALIVE_SECONDS,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._authorize_channel = authorize_channel
        self._caps = caps or Caps()
        self._credential = credential or (lambda: None)
        self._keepalive_seconds = keepalive_seconds

    def register(self, app: Flask, options: dict[str, Any]) -> None:
        """Registered with an app; under gevent, whatever the app waits for lets the streams go on."""
        gevent_support.install()
        super().register(app, options)

    @property
    def redis(self) -> Redis:
        """The app's Redis client, from ``SSE_REDIS_URL`` or ``REDIS_URL``; one per app, so that connections are reused.

        :raises KeyError: when the app has neither.
        """
        configured = current_app.config.get("SSE_REDIS_URL") or current_app.config.get("REDIS_URL")
        fallback = None if configured else self._fallback_redis_url()
        clients = _state(current_app, "clients")
        url = configured or fallback
        if url not in clients:
            # flask-sse's own property also says what is missing.
            clients[url] = super().redis if fallback is None else Redis.from_url(redis_py_url(fallback))
        client: Redis = clients[url]
        return client

    def publish(
        self,
        data: Any,
        type: str | None = None,
        id: str | int | None = None,
        retry: int | None = None,
        channel: str = "sse",
    ) -> Any:
        """Publish an event to the clients of a channel; see flask-sse. Returns how many connections received it."""
        fields = {"data": data, "type": type, "id": id, "retry": retry}
        message = {name: value for name, value in fields.items() if name == "data" or value is not None}
        return self.redis.publish(channel=channel, message=json.dumps(message))

    def messages(self, channel: str = "sse") -> Iterator[flask_sse.Message]:
        """The events of a channel as they come. What is no event is left out, and does not end the stream."""
        client: Any = self.redis
        if not isinstance(client, Redis):
            # A double in a test.
            yield from _messages_of(client, channel)
            return
        mailbox = Mailbox()
        with self._readers().hub.follow(mailbox, channel, streams.ChannelTopic):
            while (item := mailbox.get(self._keepalive_seconds)) is not CLOSED:
                if isinstance(item, Frame):
                    with suppress(TypeError):
                        yield flask_sse.Message(**item.fields or {})

    def stream(self) -> Response:
        """The view of ordinary channels: ``?channel=``, or ``sse``."""
        channel = request.args.get("channel") or "sse"
        if channel.startswith(RESERVED_CHANNELS):
            abort(403)
        if self._authorize_channel is not None:
            self._authorize_channel(channel)
        if type(self).messages is ServerSentEventsBlueprint.messages and isinstance(self.redis, Redis):
            stream = streams.Stream(channel=channel, make=streams.ChannelTopic, opening=b"")
            return _streaming(self._readers(), stream, self._credential())

        # An application's own source of messages, or a double in a test.
        def generate() -> Iterator[bytes]:
            for message in self.messages(channel=channel):
                yield streams.encode_message(message.to_dict())

        return event_stream(stream_with_context(generate()))

    def _fallback_redis_url(self) -> str | None:
        """Where the app's configuration names none."""
        return None

    def _readers(self) -> Readers:
        """Those of the app: of a progress blueprint on the same server, else of all ordinary channels of a server."""
        client = self.redis
        server = _server(client)
        for blueprint in current_app.blueprints.values():
            if isinstance(blueprint, ProgressEvents) and blueprint.server == server:
                return blueprint.readers
        found = _state(current_app, "readers")
        if server not in found:
            found[server] = Readers(
                lambda: Hub(_Channels(client), keepalive_seconds=self._keepalive_seconds),
                self._caps,
                self._keepalive_seconds,
            )
        readers: Readers = found[server]
        return readers


class ProgressEvents(ServerSentEventsBlueprint):
    """The routes of jobs and matters (``routes.ROUTES``). Make it with :func:`progress_events`."""

    def __init__(
        self,
        progress: Any,
        authorize: Callable[[str | None], None],
        *,
        poll_seconds: float,
        tokens: Tokens | None = None,
        **options: Any,
    ) -> None:
        super().__init__("progress_events", __name__, **options)
        self._progress = progress
        self._authorize = authorize
        self.readers = readers_of(
            progress, caps=self._caps, keepalive_seconds=self._keepalive_seconds, poll_seconds=poll_seconds
        )
        self.routes = ProgressRoutes(progress, self.readers, tokens=tokens)
        for route in ROUTES:
            view = partial(self._view, route)
            self.add_url_rule(route.spelled("<{}>"), route.name, view, methods=["GET", "OPTIONS"])
        # Also where the application refuses: a page of another site could not read why.
        self.after_request(self.add_cors_headers)

    @property
    def hub(self) -> Hub:
        """This process's hub."""
        return self.readers.hub

    @property
    def server(self) -> tuple[Any, ...] | None:
        """The Redis that the hub reads from; None without one."""
        broadcaster = self._progress.broadcaster
        return _server(broadcaster.client) if isinstance(broadcaster, RedisBroadcaster) else None

    @property
    def open_streams(self) -> int:
        """How many streams this process serves now."""
        return self.readers.room.open

    def close(self) -> None:
        """End all streams of this process, for a shutdown: clients reconnect elsewhere. May be called again."""
        self.readers.close()

    def add_cors_headers(self, response: Response) -> Response:
        """Let pages of the allowed origins read this answer; for further routes of an app that read tokens."""
        for name, value in self.routes.cors_headers(_request()).items():
            response.headers.setdefault(name, value)
        return response

    def _view(self, route: Route, **parameters: str) -> Response:
        guarded = self.routes.open(route, _request(), **parameters)
        if guarded.access is not None:
            self._authorize(guarded.access.owner)
        answer = guarded.answer()
        if answer.stream is not None:
            return _streaming(self.readers, answer.stream, guarded.credential or self._credential())
        return _response(answer)

    def _fallback_redis_url(self) -> str | None:
        url: str | None = self._progress.settings.redis_url
        return url


class _Channels:
    """Where the subscriptions of ordinary channels come from."""

    def __init__(self, client: Redis) -> None:
        self._client = reading_client(client)

    def subscribe(self) -> Subscription:
        """See ``Source.subscribe``."""
        return RedisSubscription(self._client)


def _server(client: Redis) -> tuple[Any, ...]:
    """What distinguishes one Redis from another; the database does not matter, since channels do not belong to one."""
    known = client.connection_pool.connection_kwargs
    return tuple(known.get(name) for name in ("host", "port", "path", "username", "password"))


def _state(app: Flask, name: str) -> dict[Any, Any]:
    found: dict[Any, Any] = app.extensions.setdefault(_EXTENSION, {}).setdefault(name, {})
    return found


def _messages_of(client: Any, channel: str) -> Iterator[flask_sse.Message]:
    """The events of a channel through a client that is not redis-py's, over a subscription of its own."""
    pubsub = client.pubsub()
    pubsub.subscribe(channel)
    try:
        for item in pubsub.listen():
            if item["type"] != "message":
                continue
            try:
                message = flask_sse.Message(**json.loads(item["data"]))
            except (ValueError, TypeError):
                logger.warning("message_ignored", channel=channel, reason="not an event")
            else:
                yield message
    finally:
        with suppress(RedisError):
            pubsub.unsubscribe(channel)
        pubsub.close()


def progress_events(
    progress: Any,
    authorize: Callable[[str | None], None],
    *,
    keepalive_seconds: float = KEEPALIVE_SECONDS,
    poll_seconds: float = 2.0,
    max_streams: int = MAX_STREAMS,
    max_streams_per_address: int = MAX_STREAMS_PER_ADDRESS,
    max_streams_per_credential: int = MAX_STREAMS_PER_CREDENTIAL,
    credential: Callable[[], str | None] | None = None,
    authorize_channel: Callable[[str], None] | None = None,
    tokens: Tokens | None = None,
) -> ProgressEvents:
    """The blueprint of the routes of jobs and matters: their snapshots and streams, celery-progress's JSON, and the
    package's JavaScript.

    :param progress: a ``CeleryProgress``.
    :param authorize: called with the owner (matter) of what a request without a token asks for; it aborts when the
        request may not read that. None for a job without an owner: let only a credential through that may read
        everything.
    :param keepalive_seconds: a stream is never silent for longer, and a client that is gone is noticed within it.
    :param poll_seconds: how often the database is read while nothing is broadcast.
    :param max_streams: per process; a client that comes when it is full is asked to try again in 10 s.
    :param max_streams_per_address: the same for one client address (``request.remote_addr``).
    :param max_streams_per_credential: the same for what ``credential`` names, or one token.
    :param credential: an id of the request's credential, for that cap; without it there is none.
    :param authorize_channel: see :class:`ServerSentEventsBlueprint`, for apps that add its ``stream`` view as well.
    :param tokens: reads the tokens of requests; those that ``progress_token_secrets`` signs unless given.
    """
    return ProgressEvents(
        progress,
        authorize,
        poll_seconds=poll_seconds,
        tokens=tokens,
        credential=credential,
        keepalive_seconds=keepalive_seconds,
        caps=Caps(streams=max_streams, per_address=max_streams_per_address, per_credential=max_streams_per_credential),
        authorize_channel=authorize_channel,
    )


def event_stream(parts: Iterator[bytes]) -> Response:
    """A response that streams events, and that no cache or proxy between holds back."""
    return current_app.response_class(parts, headers=STREAM_HEADERS)


def _streaming(readers: Readers, stream: streams.Stream, credential: str | None) -> Response:
    """The response that streams to the request's client."""
    return event_stream(readers.wsgi_body(stream, request.environ, address=request.remote_addr, credential=credential))


def _request() -> Request:
    return Request(method=request.method, path=request.path, query=request.args, headers=request.headers)


def _response(answer: Answer) -> Response:
    return current_app.response_class(answer.body, status=answer.status, headers=answer.headers)


sse = ServerSentEventsBlueprint("sse", __name__)
"""Ready to register, as flask-sse's ``sse``: the stream of ordinary channels at the root of the blueprint."""
sse.add_url_rule(rule="", endpoint="stream", view_func=sse.stream)
