"""The Flask blueprint of the live streams, on flask-sse.

``ServerSentEventsBlueprint`` can stand wherever flask-sse's does; ``ProgressEvents`` adds the streams of jobs.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from celery_progress_ext.broadcast.redis import redis_py_url
from celery_progress_ext.exceptions import DatabaseError, JobNotFound, MissingExtra
from celery_progress_ext.log import get_logger
from celery_progress_ext.sse import streams, wire
from celery_progress_ext.sse.hub import Hub
from celery_progress_ext.sse.snapshot_reader import CurrentSnapshots

try:
    import flask_sse
    from flask import Response, abort, current_app, json, request, stream_with_context
except ImportError as error:
    raise MissingExtra(
        f"The live streams need {error.name}; install celery-progress-ext[web]: pip install 'celery-progress-ext[web]'"
    ) from error

logger = get_logger(__name__)

#: Streams per process, below gunicorn's ``worker_connections`` so that other requests still get through.
MAX_STREAMS = 2000

#: Channels that ``?channel=`` never reaches: job snapshots, which have streams with authorisation of their own, and
#: what Celery and Redis publish for themselves (results, events, remote control, keyspace notifications).
RESERVED_CHANNELS = ("progress:", "celery", "/", "_kombu", "__key")

_HEADERS = {
    # no-transform: a proxy that compresses also buffers.
    "Cache-Control": "no-cache, no-transform",
    # nginx would collect events until a buffer is full.
    "X-Accel-Buffering": "no",
}


class ServerSentEventsBlueprint(flask_sse.ServerSentEventsBlueprint):  # type: ignore[misc]  # untyped base
    """flask-sse's blueprint with one pool of connections per app, safe framing, and guarded channels.

    :param authorize_channel: called with the channel that a request asks for; it aborts when the request may not
        read it. Reserved channels are refused before.
    """

    def __init__(self, *args: Any, authorize_channel: Callable[[str], None] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._authorize_channel = authorize_channel

    @property
    def redis(self) -> Redis:
        """The app's Redis client, from ``SSE_REDIS_URL`` or ``REDIS_URL``; one per app, so that connections are reused.

        :raises KeyError: when the app has neither.
        """
        configured = current_app.config.get("SSE_REDIS_URL") or current_app.config.get("REDIS_URL")
        fallback = None if configured else self._fallback_redis_url()
        clients: dict[str | None, Redis] = current_app.extensions.setdefault("celery_progress_ext.sse", {})
        url = configured or fallback
        if url not in clients:
            # flask-sse's own property also says what is missing.
            clients[url] = super().redis if fallback is None else Redis.from_url(redis_py_url(fallback))
        return clients[url]

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
        pubsub: Any = self.redis.pubsub()  # type: ignore[no-untyped-call]
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

    def stream(self) -> Response:
        """The view of ordinary channels: ``?channel=``, or ``sse``."""
        channel = request.args.get("channel") or "sse"
        if channel.startswith(RESERVED_CHANNELS):
            abort(403)
        if self._authorize_channel is not None:
            self._authorize_channel(channel)

        def generate() -> Iterator[bytes]:
            for message in self.messages(channel=channel):
                yield _encode(message)

        return event_stream(stream_with_context(generate()))

    def _fallback_redis_url(self) -> str | None:
        """Where the app's configuration names none."""
        return None


class ProgressEvents(ServerSentEventsBlueprint):
    """The streams of jobs and matters. Make it with :func:`progress_events`."""

    def __init__(
        self,
        progress: Any,
        authorize: Callable[[str], None],
        *,
        pace: streams.Pace,
        max_streams: int,
        authorize_channel: Callable[[str], None] | None,
    ) -> None:
        super().__init__("progress_events", __name__, authorize_channel=authorize_channel)
        self._progress = progress
        self._authorize = authorize
        self._pace = pace
        self._max_streams = max_streams
        self._lock = threading.Lock()
        self._open = 0
        self._pid = -1
        self._hub: Hub | None = None
        self._current: CurrentSnapshots | None = None
        self.add_url_rule("/jobs/<job_id>/events", "job_events", self.job_events)
        self.add_url_rule("/matters/<matter_id>/events", "matter_events", self.matter_events)

    @property
    def hub(self) -> Hub:
        """This process's hub, made on first use: its reader does not survive a fork."""
        with self._lock:
            if self._hub is None or self._pid != os.getpid():
                self._pid, self._open = os.getpid(), 0
                self._hub = Hub(self._progress.broadcaster)
            return self._hub

    @property
    def open_streams(self) -> int:
        """How many streams this process serves now."""
        return self._open

    def close(self) -> None:
        """End all streams of this process, for a shutdown: clients reconnect elsewhere. May be called again."""
        self.hub.close()

    def job_events(self, job_id: str) -> Response:
        """``GET /jobs/<job_id>/events``: 404 for an unknown job, 204 for a client that has its last event already."""
        try:
            row = self._progress.jobs.snapshot(job_id)
        except JobNotFound:
            abort(404)
        except DatabaseError as error:
            # A 5xx would make EventSource give up for good.
            logger.warning("stream_refused", job_id=job_id, error=error.__class__.__name__)
            return event_stream(iter([streams.SHED]))
        self._authorize(row.matter_id)
        last_id = wire.last_event_id(request.headers.get("Last-Event-ID"))
        if row.status.terminal and last_id is not None and last_id >= row.version:
            return Response(status=204)
        return event_stream(
            self._admitted(
                streams.job_stream(self.hub, self._snapshots, self._pace, row, last_id, broadcasts=self._broadcasts)
            )
        )

    def matter_events(self, matter_id: str) -> Response:
        """``GET /matters/<matter_id>/events``: all jobs of a matter over one connection."""
        self._authorize(matter_id)
        return event_stream(
            self._admitted(
                streams.matter_stream(self.hub, self._snapshots, self._pace, matter_id, broadcasts=self._broadcasts)
            )
        )

    @property
    def _broadcasts(self) -> bool:
        """Without Redis the workers' broadcasts stay in their processes."""
        return self._progress.settings.redis_url is not None

    @property
    def _snapshots(self) -> CurrentSnapshots:
        with self._lock:
            if self._current is None:
                self._current = CurrentSnapshots(self._progress.jobs, self._progress.broadcaster)
            return self._current

    def _admitted(self, stream: Iterator[bytes]) -> Iterator[bytes]:
        """``stream`` while there is room. Counted from the first byte: a HEAD request never asks for one."""
        with self._lock:
            admitted = self._open < self._max_streams
            self._open += admitted
        if not admitted:
            logger.warning("stream_refused", reason="max_streams", max_streams=self._max_streams)
            yield streams.SHED
            return
        try:
            yield from stream
        finally:
            with self._lock:
                self._open -= 1

    def _fallback_redis_url(self) -> str | None:
        url: str | None = self._progress.settings.redis_url
        return url


def progress_events(
    progress: Any,
    authorize: Callable[[str], None],
    *,
    keepalive_seconds: float = 15.0,
    poll_seconds: float = 2.0,
    max_streams: int = MAX_STREAMS,
    authorize_channel: Callable[[str], None] | None = None,
) -> ProgressEvents:
    """The blueprint with the routes ``/jobs/<job_id>/events`` and ``/matters/<matter_id>/events``.

    :param progress: a ``CeleryProgress``.
    :param authorize: called with the matter of a request; it aborts when the request may not read that matter.
    :param keepalive_seconds: a stream is never silent for longer, and a client that is gone is noticed within it.
    :param poll_seconds: how often streams read the database while nothing is broadcast.
    :param max_streams: per process; a client that comes when it is full is asked to try again in 10 s.
    :param authorize_channel: see :class:`ServerSentEventsBlueprint`, for apps that add its ``stream`` view as well.
    """
    return ProgressEvents(
        progress,
        authorize,
        pace=streams.Pace(keepalive_seconds=keepalive_seconds, poll_seconds=poll_seconds),
        max_streams=max_streams,
        authorize_channel=authorize_channel,
    )


def event_stream(parts: Iterator[bytes]) -> Response:
    """A response that streams events, and that no cache or proxy between holds back."""
    return current_app.response_class(parts, mimetype="text/event-stream", headers=_HEADERS)


def _encode(message: flask_sse.Message) -> bytes:
    data = message.data if isinstance(message.data, str) else json.dumps(message.data)
    return wire.encode(
        data,
        event=None if message.type is None else str(message.type),
        id=message.id,
        retry=message.retry if isinstance(message.retry, int) else None,
    )


sse = ServerSentEventsBlueprint("sse", __name__)
"""Ready to register, as flask-sse's ``sse``: the stream of ordinary channels at the root of the blueprint."""
sse.add_url_rule(rule="", endpoint="stream", view_func=sse.stream)
