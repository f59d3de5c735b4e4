"""Snapshots through Redis or Valkey: kept in a hash per job, published to the job's and the matter's channel."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from itertools import islice
from types import TracebackType
from typing import Any, Self, TypeVar, cast
from urllib.parse import parse_qsl, urlencode, urlsplit

from redis import ConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry

from celery_progress_ext.broadcast import (
    CHANNEL_PREFIX,
    HEARTBEAT,
    KEPT_SECONDS,
    BroadcastLost,
    Message,
    channels_of,
    compact_json,
    decode,
    event_name,
    kept_message,
)
from celery_progress_ext.jobs import JobSnapshot
from celery_progress_ext.log import get_logger
from celery_progress_ext.soft_limits import undisturbed

logger = get_logger(__name__)

T = TypeVar("T")

#: A completion waits for its broadcast, so an answer is waited for only briefly. Seconds.
CONNECT_SECONDS = 0.5
ANSWER_SECONDS = 1.0
#: After a failure nothing is tried for so long, so that not every completion waits for a server that is down. Seconds.
PAUSE_SECONDS = 1.0
#: How long an acknowledgement, a sign of life or the rest of a message may take. Seconds.
ACKNOWLEDGE_SECONDS = 5.0
#: A subscription that heard nothing for so long asks the server for a sign of life. Seconds.
QUIET_SECONDS = 10.0

#: Always subscribed, never published to: the connection then stays in subscriber mode while no channel is asked for.
READER_CHANNEL = "progress:reader"

_PUBLISH_LUA = files("celery_progress_ext.broadcast").joinpath("publish.lua").read_text("utf-8")
_BATCH = 100
_UNREACHABLE = (RedisError, OSError)


class RedisBroadcaster:
    """Keeps and publishes in Redis; one per process, shared by its threads, usable in a child after a fork.

    :param url: as redis-py or as Celery's result backend writes it.
    :param ttl_seconds: how long a kept snapshot outlives its last change.
    :raises ValueError: when ``url`` is no Redis URL.
    """

    def __init__(self, url: str, ttl_seconds: float = KEPT_SECONDS) -> None:
        self._ttl_ms = int(ttl_seconds * 1000)
        timeouts: dict[str, Any] = {"socket_timeout": ANSWER_SECONDS, "socket_connect_timeout": CONNECT_SECONDS}
        # One more try for a pooled connection that the server closed; none after a timeout, which would double it.
        retry = Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
        # RESP 2 does without a handshake, and its subscriptions answer PING in band.
        self._redis = Redis.from_url(redis_py_url(url), protocol=2, retry=retry, **timeouts)
        # No silent reconnect for readers: what was published meanwhile is missed, and the reader has to know it.
        self._readers = reading_client(self._redis)
        self._publish = self._redis.register_script(_PUBLISH_LUA)
        self._paused_until = 0.0

    def publish(self, snapshot: JobSnapshot, *, event: str | None = None) -> bool:
        """See ``Broadcaster.publish``. False, and a log line, when Redis does not answer."""
        # The last event of a job is tried even now: no heartbeat would heal its loss.
        if self._paused and not snapshot.status.terminal:
            return False
        answer = self._unless_unreachable(
            lambda: self._publish(**self._call(snapshot, event)),
            "broadcast_failed",
            job_id=snapshot.job_id,
            version=snapshot.version,
        )
        return bool(answer == 1)

    def publish_many(self, snapshots: Iterable[tuple[JobSnapshot, str | None]]) -> None:
        """See ``Broadcaster.publish_many``."""
        remaining = iter(snapshots)
        while batch := list(islice(remaining, _BATCH)):
            if self._paused:
                return
            pipeline = self._redis.pipeline(transaction=False)
            for snapshot, event in batch:
                self._publish(**self._call(snapshot, event), client=pipeline)
            self._unless_unreachable(pipeline.execute, "broadcast_failed", jobs=len(batch))

    def kept(self, job_id: str) -> Message | None:
        """See ``Broadcaster.kept``."""
        if self._paused:
            return None
        raw = self._unless_unreachable(
            lambda: self._redis.hget(_key(job_id), "snapshot"), "kept_unreadable", job_id=job_id
        )
        return None if raw is None else kept_message(json.loads(cast(bytes, raw)))

    def kept_versions(self, job_ids: Iterable[str]) -> dict[str, int]:
        """See ``Broadcaster.kept_versions``."""
        wanted = list(job_ids)
        if self._paused or not wanted:
            return {}
        pipeline = self._redis.pipeline(transaction=False)
        for job_id in wanted:
            pipeline.hget(_key(job_id), "version")
        versions = self._unless_unreachable(pipeline.execute, "kept_unreadable", jobs=len(wanted)) or []
        return {job_id: int(version) for job_id, version in zip(wanted, versions, strict=False) if version is not None}

    def discard(self, job_id: str) -> None:
        """See ``Broadcaster.discard``."""
        self._unless_unreachable(lambda: self._redis.delete(_key(job_id)), "kept_not_discarded", job_id=job_id)

    def subscribe(self) -> RedisSubscription:
        """See ``Broadcaster.subscribe``."""
        return RedisSubscription(self._readers)

    @property
    def client(self) -> Redis:
        """The client that publishes."""
        return self._redis

    @property
    def _paused(self) -> bool:
        return time.monotonic() < self._paused_until

    def _unless_unreachable(self, ask: Callable[[], T], event: str, **context: Any) -> T | None:
        try:
            with undisturbed():
                return ask()
        except _UNREACHABLE as error:
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            # redis-py's messages contain host and port, never the credentials of the URL.
            logger.warning(event, error=type(error).__name__, reason=str(error), **context)
            return None

    def _call(self, snapshot: JobSnapshot, event: str | None) -> dict[str, Any]:
        return {
            "keys": [_key(snapshot.job_id)],
            "args": [
                snapshot.version,
                self._ttl_ms,
                compact_json(snapshot.to_dict()),
                compact_json(event_name(snapshot, event)),
                compact_json(HEARTBEAT) if event == HEARTBEAT else "",
                *channels_of(snapshot),
            ],
        }


class RedisSubscription:
    """One pub/sub connection. One thread calls ``get``; others may ``add`` and ``remove`` meanwhile.

    A thread that waits for something reads the connection unless another does, and keeps what is not for it: messages
    in a queue, acknowledgements as events.
    """

    def __init__(self, client: Redis) -> None:
        """:param client: one that does not reconnect by itself, see :func:`reading_client`."""
        self._pubsub: Any = client.pubsub()  # type: ignore[no-untyped-call]
        self._received: deque[tuple[str, Any]] = deque()
        self._acknowledged: dict[str, threading.Event] = {}
        # Concurrent SUBSCRIBEs on one PubSub lose channels.
        self._sending = threading.Lock()
        self._reading = threading.Lock()
        self._closed = False
        self._heard_at = time.monotonic()
        self._asked_at = self._heard_at
        try:
            self.add(READER_CHANNEL)
        except BroadcastLost:
            self.close()
            raise

    def add(self, channel: str) -> None:
        """See ``Subscription.add``."""
        acknowledged = threading.Event()
        with self._sending:
            self._acknowledged[channel] = acknowledged
            with self._connection():
                self._pubsub.subscribe(channel)
        deadline = time.monotonic() + ACKNOWLEDGE_SECONDS
        while not acknowledged.is_set():
            if time.monotonic() > deadline:
                self._closed = True
                raise BroadcastLost(f"No acknowledgement of the subscription within {ACKNOWLEDGE_SECONDS:g} s.")
            if self._reading.acquire(blocking=False):
                try:
                    if not acknowledged.is_set():
                        self._read(0.05)
                finally:
                    self._reading.release()
            else:
                # The reader may leave before the acknowledgement comes: look again whether somebody reads.
                acknowledged.wait(0.05)
                self._check()

    def remove(self, channel: str) -> None:
        """See ``Subscription.remove``."""
        with self._sending:
            self._acknowledged.pop(channel, None)
            with self._connection():
                self._pubsub.unsubscribe(channel)

    def get(self, timeout: float) -> tuple[str, Any] | None:
        """See ``Subscription.get``; what comes on channels that are not ours is bytes."""
        deadline = time.monotonic() + timeout
        while True:
            self._check()
            remaining = max(deadline - time.monotonic(), 0.0)
            if self._reading.acquire(timeout=remaining):
                try:
                    if not self._received and not self._read(min(remaining, 1.0)):
                        self._ask_for_a_sign_of_life()
                    if self._received:
                        return self._received.popleft()
                finally:
                    self._reading.release()
            if time.monotonic() >= deadline:
                return None

    def close(self) -> None:
        """See ``Subscription.close``."""
        self._closed = True
        with self._reading, self._sending:
            self._pubsub.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, timeout: float) -> bool:
        """Take in one answer or message, and say whether there was one; with ``_reading`` held."""
        with self._connection():
            connection = self._pubsub.connection
            if connection is None or not connection.can_read(timeout=timeout):
                return False
            # Something has begun to arrive; a long message gets the time it needs.
            received = self._pubsub.get_message(timeout=ACKNOWLEDGE_SECONDS)
        self._heard_at = time.monotonic()
        if received is None or received["channel"] is None:
            return True
        channel = received["channel"].decode()
        if received["type"] == "subscribe":
            if acknowledged := self._acknowledged.get(channel):
                acknowledged.set()
        elif received["type"] == "message":
            ours = channel.startswith(CHANNEL_PREFIX)
            message = decode(received["data"]) if ours else received["data"]
            if message is None:
                logger.warning("message_ignored", channel=channel, reason="not a snapshot")
            else:
                self._received.append((channel, message))
        return True

    def _ask_for_a_sign_of_life(self) -> None:
        """A connection through a network that went away looks idle indefinitely: ask, and give it up without an answer.

        Called when there is nothing to read, so that a slow caller does not take its own pause for silence.
        """
        now = time.monotonic()
        asked = self._asked_at > self._heard_at
        if asked and now - self._asked_at > ACKNOWLEDGE_SECONDS:
            self._closed = True
            raise BroadcastLost(f"The server has not answered for {now - self._heard_at:.0f} s.")
        if not asked and now - self._heard_at > QUIET_SECONDS:
            self._asked_at = now
            with self._sending, self._connection():
                self._pubsub.ping("alive")

    def _check(self) -> None:
        if self._closed:
            raise BroadcastLost

    @contextmanager
    def _connection(self) -> Iterator[None]:
        self._check()
        try:
            yield
        # ValueError: a socket that is closed already.
        except (*_UNREACHABLE, ValueError) as error:
            self._closed = True
            raise BroadcastLost(f"{type(error).__name__}: {error}") from error


def reading_client(client: Redis) -> Redis:
    """A client for subscriptions to the server of ``client``.

    No silent reconnect: what was published meanwhile is missed, and the reader has to know it. RESP 2 answers PING in
    band.
    """
    pool = client.connection_pool
    options = {
        # redis-py's own of RESP 3, which it refuses beside RESP 2.
        **{name: value for name, value in pool.connection_kwargs.items() if not name.startswith(("maint_", "oss_"))},
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0, supported_errors=()),
        "socket_timeout": ANSWER_SECONDS,
        "socket_connect_timeout": CONNECT_SECONDS,
        "decode_responses": False,
    }
    return Redis(connection_pool=ConnectionPool(connection_class=pool.connection_class, **options))


def redis_py_url(url: str) -> str:
    """The URL as redis-py reads it, where Celery's result backend spells it in its own way."""
    scheme, location, path, query, _ = urlsplit(url)
    options = dict(parse_qsl(query))
    if scheme == "redis+socket":
        scheme = "unix"
        if "virtual_host" in options:
            options["db"] = options.pop("virtual_host")
    if "ssl_cert_reqs" in options:
        options["ssl_cert_reqs"] = options["ssl_cert_reqs"].lower().removeprefix("cert_")
    return f"{scheme}://{location}{path}" + (f"?{urlencode(options)}" if options else "")


def _key(job_id: str) -> str:
    return f"progress:snapshot:{job_id}"
