"""What reads and writes for the streams of one process, and how many of them there may be. No web framework in here."""

from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from celery_progress_ext.exceptions import JobNotFound
from celery_progress_ext.log import get_logger
from celery_progress_ext.sse import gevent_support, streams
from celery_progress_ext.sse.hub import Hub, Mailbox
from celery_progress_ext.sse.sockets import SocketWriter
from celery_progress_ext.sse.streams import Stream

logger = get_logger(__name__)

#: Streams per process. Where the server hands their sockets over they take none of its own connections; elsewhere keep
#: gunicorn's ``worker_connections`` above it, so that other requests still get through.
MAX_STREAMS = 5000
#: Of these, how many one address and one credential may hold.
MAX_STREAMS_PER_ADDRESS = MAX_STREAMS_PER_CREDENTIAL = 2500
KEEPALIVE_SECONDS = 15.0

#: The headers of a stream, which no cache or proxy between holds back.
STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
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


class Readers:
    """The hub of one app in one process, its room and its socket writer, made on first use: threads survive no fork."""

    def __init__(self, make_hub: Callable[[], Hub], caps: Caps, keepalive_seconds: float = KEEPALIVE_SECONDS) -> None:
        self._make_hub = make_hub
        self._caps = caps
        self.keepalive_seconds = keepalive_seconds
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
                    gevent_support.make_poller, gevent_support.wait_readable, keepalive_seconds=self.keepalive_seconds
                )
            return self._hub

    def wsgi_body(
        self, stream: Stream, environ: Mapping[str, Any], *, address: str | None, credential: str | None
    ) -> Iterator[bytes]:
        """The body of a WSGI response that streams to its client; the client is counted from the first byte on.

        :param environ: the request's: of some servers it has the socket, which is then written to directly.
        """
        hub = self.hub
        # Counted from the first byte: a HEAD request never asks for one.
        give_back = self.room.admit(address, credential)
        if give_back is None:
            yield streams.SHED
            return
        handed_over = False
        try:
            if stream.opening or gevent_support.can_hand_over(environ):
                yield stream.opening
            mailbox = Mailbox()
            # JobNotFound: retention removed it meanwhile; a reconnect gets 404.
            with suppress(JobNotFound):
                topic = hub.enter(mailbox, stream.channel, stream.make, last_id=stream.last_id)
                try:
                    taken = None if mailbox.closed else gevent_support.handed_over(environ)
                    if taken is None:
                        yield from streams.frames_of(mailbox, stream, self.keepalive_seconds)
                    else:
                        handed_over = True
                        fd, chunked = taken
                        assert self._writer is not None
                        self._writer.adopt(fd, mailbox, hub, topic, stream, chunked=chunked, ended=give_back)
                finally:
                    if not handed_over:
                        hub.leave(mailbox, topic)
        finally:
            if not handed_over:
                give_back()
        if handed_over:
            # The server closes its descriptor of the connection and writes nothing more.
            raise BrokenPipeError(errno.EPIPE, "the stream goes on without this request")

    def close(self) -> None:
        """End the streams of this process; clients reconnect elsewhere. May be called again."""
        self.hub.close()


def readers_of(
    progress: Any, *, caps: Caps | None = None, keepalive_seconds: float = KEEPALIVE_SECONDS, poll_seconds: float = 2.0
) -> Readers:
    """Readers of the snapshots of a ``CeleryProgress``.

    :param poll_seconds: how often the database is read while nothing is broadcast.
    """

    def make_hub() -> Hub:
        return Hub(
            progress.broadcaster,
            keepalive_seconds=keepalive_seconds,
            poll_seconds=poll_seconds,
            # Without Redis the workers' broadcasts stay in their processes.
            broadcasts=progress.settings.redis_url is not None,
        )

    return Readers(make_hub, caps or Caps(), keepalive_seconds)
