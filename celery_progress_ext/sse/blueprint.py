"""The Flask blueprint of the live streams, on flask-sse.

``ServerSentEventsBlueprint`` can stand wherever flask-sse's does; ``ProgressEvents`` adds the streams of jobs.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from celery_progress_ext.broadcast import CHANNEL_PREFIX, Subscription, job_channel, matter_channel
from celery_progress_ext.broadcast.redis import RedisBroadcaster, RedisSubscription, reading_client, redis_py_url
from celery_progress_ext.exceptions import DatabaseError, JobNotFound, MissingExtra
from celery_progress_ext.log import get_logger
from celery_progress_ext.sse import gevent_support, streams, wire
from celery_progress_ext.sse.hub import CLOSED, Frame, Hub, Mailbox, Topic
from celery_progress_ext.sse.published import Published
from celery_progress_ext.sse.snapshot_reader import SnapshotReader
from celery_progress_ext.sse.sockets import SocketWriter

try:
    import flask_sse
    from flask import Flask, Response, abort, current_app, json, request, stream_with_context
except ImportError as error:
    raise MissingExtra(
        f"The live streams need {error.name}; install celery-progress-ext[web]: pip install 'celery-progress-ext[web]'"
    ) from error

logger = get_logger(__name__)

#: Streams per process. Where the server hands their sockets over they take none of its own connections; elsewhere keep
#: gunicorn's ``worker_connections`` above it, so that other requests still get through.
MAX_STREAMS = 5000
#: Of these, how many one address and one credential may hold.
MAX_STREAMS_PER_ADDRESS = MAX_STREAMS_PER_CREDENTIAL = 2500
KEEPALIVE_SECONDS = 15.0

#: Channels that ``?channel=`` never reaches: job snapshots, which have streams with authorisation of their own, and
#: what Celery and Redis publish for themselves (results, events, remote control, keyspace notifications).
RESERVED_CHANNELS = (CHANNEL_PREFIX, "celery", "/", "_kombu", "__key")

_EXTENSION = "celery_progress_ext.sse"

_HEADERS = {
    # no-transform: a proxy that compresses also buffers.
    "Cache-Control": "no-cache, no-transform",
    # nginx would collect events until a buffer is full.
    "X-Accel-Buffering": "no",
}


@dataclass(frozen=True, kw_only=True)
class Caps:
    """How many streams a process serves at once, and how many of them for one address or one credential."""

    streams: int = MAX_STREAMS
    per_address: int = MAX_STREAMS_PER_ADDRESS
    per_credential: int = MAX_STREAMS_PER_CREDENTIAL


class Room:
    """Counts the streams of a process."""

    def __init__(self, caps: Caps) -> None:
        self._caps = caps
        self._lock = threading.Lock()
        self._held: Counter[tuple[str, str]] = Counter()
        self.open = 0

    def admit(self, address: str | None, credential: str | None) -> Callable[[], None] | None:
        """Take a place; what gives it back, once however often it is called. None where there is no room."""
        wanted = {("process", ""): self._caps.streams}
        if address is not None:
            wanted["address", address] = self._caps.per_address
        if credential is not None:
            wanted["credential", credential] = self._caps.per_credential
        with self._lock:
            for holder, cap in wanted.items():
                if self._held[holder] >= cap:
                    logger.warning("stream_refused", reason=f"cap per {holder[0]}", cap=cap)
                    self._held += Counter()  # what was only looked up is not kept
                    return None
            self._held.update(wanted.keys())
            self.open += 1

        def give_back() -> None:
            nonlocal wanted
            with self._lock:
                self.open -= bool(wanted)
                self._held.subtract(wanted.keys())
                for holder in wanted:
                    if not self._held[holder]:
                        del self._held[holder]
                wanted = {}

        return give_back


class _Readers:
    """What reads and writes for the streams of one app in one process, made on first use: no thread survives a fork."""

    def __init__(self, hub: Callable[[], Hub], caps: Caps, keepalive_seconds: float) -> None:
        self._make_hub = hub
        self._caps = caps
        self._keepalive_seconds = keepalive_seconds
        self._lock = threading.Lock()
        self._pid = -1
        self._hub: Hub | None = None
        self.room = Room(caps)
        self._writer: SocketWriter | None = None

    @property
    def hub(self) -> Hub:
        """The one subscription."""
        with self._lock:
            if self._hub is None or self._pid != os.getpid():
                self._pid = os.getpid()
                self._hub = self._make_hub()
                self.room = Room(self._caps)
                self._writer = SocketWriter(
                    gevent_support.make_poller, gevent_support.wait_readable, keepalive_seconds=self._keepalive_seconds
                )
            return self._hub

    def serve(
        self,
        channel: str,
        make: Callable[[str], Topic],
        *,
        opening: bytes,
        last_id: int | None = None,
        credential: str | None = None,
    ) -> Response:
        """The response that streams a topic to the request's client."""
        hub = self.hub
        environ, address = request.environ, request.remote_addr

        # Counted from the first byte: a HEAD request never asks for one.
        def parts() -> Iterator[bytes]:
            give_back = self.room.admit(address, credential)
            if give_back is None:
                yield streams.SHED
                return
            handed_over = False
            try:
                if opening or gevent_support.can_hand_over(environ):
                    yield opening
                mailbox = Mailbox()
                # JobNotFound: retention removed it meanwhile; a reconnect gets 404.
                with suppress(JobNotFound):
                    topic = hub.enter(mailbox, channel, make, last_id=last_id)
                    try:
                        taken = None if mailbox.closed else gevent_support.handed_over(environ)
                        if taken is None:
                            yield from streams.frames_of(mailbox, self._keepalive_seconds)
                        else:
                            handed_over = True
                            fd, chunked = taken
                            assert self._writer is not None
                            self._writer.adopt(fd, mailbox, hub, topic, chunked=chunked, ended=give_back)
                    finally:
                        if not handed_over:
                            hub.leave(mailbox, topic)
            finally:
                if not handed_over:
                    give_back()
            if handed_over:
                # The server closes its descriptor of the connection and writes nothing more.
                raise BrokenPipeError(errno.EPIPE, "the stream goes on without this request")

        return event_stream(parts())

    def close(self) -> None:
        """End the streams of this process; clients reconnect elsewhere. May be called again."""
        self.hub.close()


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
            return self._readers().serve(channel, streams.ChannelTopic, opening=b"", credential=self._credential())

        # An application's own source of messages, or a double in a test.
        def generate() -> Iterator[bytes]:
            for message in self.messages(channel=channel):
                yield streams.encode_message(message.to_dict())

        return event_stream(stream_with_context(generate()))

    def _fallback_redis_url(self) -> str | None:
        """Where the app's configuration names none."""
        return None

    def _readers(self) -> _Readers:
        """Those of the app: of a progress blueprint on the same server, else of all ordinary channels of a server."""
        client = self.redis
        server = _server(client)
        for blueprint in current_app.blueprints.values():
            if isinstance(blueprint, ProgressEvents) and blueprint.server == server:
                return blueprint.readers
        found = _state(current_app, "readers")
        if server not in found:
            found[server] = _Readers(
                lambda: Hub(_Channels(client), keepalive_seconds=self._keepalive_seconds),
                self._caps,
                self._keepalive_seconds,
            )
        readers: _Readers = found[server]
        return readers


class ProgressEvents(ServerSentEventsBlueprint):
    """The streams of jobs and matters. Make it with :func:`progress_events`."""

    def __init__(
        self,
        progress: Any,
        authorize: Callable[[str], None],
        *,
        poll_seconds: float,
        **options: Any,
    ) -> None:
        super().__init__("progress_events", __name__, **options)
        self._progress = progress
        self._authorize = authorize
        self._poll_seconds = poll_seconds
        self._reader: SnapshotReader | None = None
        self._lock = threading.Lock()
        self.readers = _Readers(self._make_hub, self._caps, self._keepalive_seconds)
        self.add_url_rule("/jobs/<job_id>/events", "job_events", self.job_events)
        self.add_url_rule("/matters/<matter_id>/events", "matter_events", self.matter_events)

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

    def job_events(self, job_id: str) -> Response:
        """``GET /jobs/<job_id>/events``: 404 for an unknown job, 204 for a client that has its last event already."""
        try:
            known = self._known(job_id)
        except JobNotFound:
            abort(404)
        except DatabaseError as error:
            logger.warning("stream_refused", job_id=job_id, error=error.__class__.__name__)
            known = None
        if known is None:
            # A 5xx would make EventSource give up for good.
            return event_stream(iter([streams.SHED]))
        self._authorize(known.matter_id)
        last_id = wire.last_event_id(request.headers.get("Last-Event-ID"))
        if known.terminal and last_id is not None and last_id >= known.version:
            return Response(status=204)
        return self.readers.serve(
            job_channel(job_id),
            lambda channel: streams.JobTopic(channel, self._snapshots, job_id),
            opening=streams.OPENING,
            last_id=last_id,
            credential=self._credential(),
        )

    def matter_events(self, matter_id: str) -> Response:
        """``GET /matters/<matter_id>/events``: all jobs of a matter over one connection."""
        self._authorize(matter_id)
        return self.readers.serve(
            matter_channel(matter_id),
            lambda channel: streams.MatterTopic(channel, self._snapshots, matter_id),
            opening=streams.OPENING,
            last_id=wire.last_event_id(request.headers.get("Last-Event-ID")),
            credential=self._credential(),
        )

    def _known(self, job_id: str) -> Published | None:
        """What a topic that is followed already knows of a job; else what can be read."""
        topic = self.hub.topic(job_channel(job_id))
        if isinstance(topic, streams.JobTopic) and topic.newest is not None and self.hub.connected:
            return topic.newest
        return self._snapshots.of_job(job_id)

    @property
    def _snapshots(self) -> SnapshotReader:
        with self._lock:
            if self._reader is None:
                self._reader = SnapshotReader(self._progress.jobs, self._progress.broadcaster)
            return self._reader

    def _make_hub(self) -> Hub:
        return Hub(
            self._progress.broadcaster,
            keepalive_seconds=self._keepalive_seconds,
            poll_seconds=self._poll_seconds,
            # Without Redis the workers' broadcasts stay in their processes.
            broadcasts=self._progress.settings.redis_url is not None,
        )

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
    authorize: Callable[[str], None],
    *,
    keepalive_seconds: float = KEEPALIVE_SECONDS,
    poll_seconds: float = 2.0,
    max_streams: int = MAX_STREAMS,
    max_streams_per_address: int = MAX_STREAMS_PER_ADDRESS,
    max_streams_per_credential: int = MAX_STREAMS_PER_CREDENTIAL,
    credential: Callable[[], str | None] | None = None,
    authorize_channel: Callable[[str], None] | None = None,
) -> ProgressEvents:
    """The blueprint with the routes ``/jobs/<job_id>/events`` and ``/matters/<matter_id>/events``.

    :param progress: a ``CeleryProgress``.
    :param authorize: called with the matter of a request; it aborts when the request may not read that matter.
    :param keepalive_seconds: a stream is never silent for longer, and a client that is gone is noticed within it.
    :param poll_seconds: how often the database is read while nothing is broadcast.
    :param max_streams: per process; a client that comes when it is full is asked to try again in 10 s.
    :param max_streams_per_address: the same for one client address (``request.remote_addr``).
    :param max_streams_per_credential: the same for what ``credential`` names.
    :param credential: an id of the request's credential, for that cap; without it there is none.
    :param authorize_channel: see :class:`ServerSentEventsBlueprint`, for apps that add its ``stream`` view as well.
    """
    return ProgressEvents(
        progress,
        authorize,
        poll_seconds=poll_seconds,
        credential=credential,
        keepalive_seconds=keepalive_seconds,
        caps=Caps(streams=max_streams, per_address=max_streams_per_address, per_credential=max_streams_per_credential),
        authorize_channel=authorize_channel,
    )


def event_stream(parts: Iterator[bytes]) -> Response:
    """A response that streams events, and that no cache or proxy between holds back."""
    return current_app.response_class(parts, mimetype="text/event-stream", headers=_HEADERS)


sse = ServerSentEventsBlueprint("sse", __name__)
"""Ready to register, as flask-sse's ``sse``: the stream of ordinary channels at the root of the blueprint."""
sse.add_url_rule(rule="", endpoint="stream", view_func=sse.stream)
