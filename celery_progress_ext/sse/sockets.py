"""Streams whose sockets the reader of the process writes itself: no thread or greenlet for each, no wait, no copy.

A server hands a socket over once the head of the response is sent (``gevent_support`` knows which servers can). What
the kernel does not take at once waits as the newest frame of each job, so a slow client skips. One ``epoll`` reports
when a socket takes more, and when its client has gone.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from celery_progress_ext.sse import wire
from celery_progress_ext.sse.hub import Frame, Hub, Mailbox, Topic, keep_newest
from celery_progress_ext.sse.streams import Stream

#: What may wait in the kernel for a client that is slow: the rest is then skipped here, and it gets the newest soon.
#: Bytes.
SEND_BUFFER, UNSENT = 32 * 1024, 8 * 1024
#: A client that has not acknowledged anything for so long is gone. Seconds.
UNACKNOWLEDGED_SECONDS = 60.0
#: Frames of different keys that may wait for a client.
_MOST_WAITING = 1000

_IN, _OUT, _ERR, _HUP, _RDHUP, _ET = 0x001, 0x004, 0x008, 0x010, 0x2000, 1 << 31
_KEEPALIVE = wire.comment()


class Poller(Protocol):
    """``select.epoll``, as far as it is needed."""

    def register(self, fd: int, eventmask: int, /) -> None: ...
    def unregister(self, fd: int, /) -> None: ...
    def poll(self, timeout: float | None = ..., maxevents: int = ...) -> list[tuple[int, int]]: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...


class SocketWriter:
    """The sockets that were handed over to this process's streams.

    :param make_poller: makes a ``select.epoll``.
    :param wait: ``wait(fd, seconds)`` until ``fd`` can be read, letting others run meanwhile.
    :param keepalive_seconds: no stream is silent for longer.
    """

    def __init__(
        self, make_poller: Callable[[], Poller], wait: Callable[[int, float], None], *, keepalive_seconds: float
    ) -> None:
        self._make_poller = make_poller
        self._wait = wait
        self._keepalive_seconds = keepalive_seconds
        # Guards the clients by descriptor: a number that is closed is soon another socket's.
        self._lock = threading.Lock()
        self._clients: dict[int, SocketClient] = {}
        self._poller: Any = None
        self._thread: threading.Thread | None = None

    def adopt(
        self,
        fd: int,
        mailbox: Mailbox,
        hub: Hub,
        topic: Topic,
        stream: Stream,
        *,
        chunked: bool,
        ended: Callable[[], None],
    ) -> None:
        """Write to ``fd`` what would have come to ``mailbox``.

        :param fd: a socket that does not block; it belongs to the writer from now on.
        :param chunked: whether the body is in HTTP/1.1 chunks.
        :param ended: called once when the stream is over, whichever side ended it.
        """
        keep_little_unsent(fd)
        client = SocketClient(self, fd, hub, topic, stream, chunked=chunked, ended=ended)
        with self._lock:
            if self._thread is None:
                self._poller = self._make_poller()
                self._thread = threading.Thread(target=self._run, name="sse-sockets", daemon=True)
                self._thread.start()
            self._clients[fd] = client
            self._poller.register(fd, _IN | _OUT | _RDHUP | _ET)
        topic.replace(mailbox, client)
        if mailbox.closed:
            client.close()

    def forget(self, client: SocketClient) -> None:
        """Close a client's socket."""
        with self._lock:
            if self._clients.pop(client.fd, None) is None:
                return
            with suppress(OSError):
                self._poller.unregister(client.fd)
            os.close(client.fd)
        client.ended()

    def __len__(self) -> int:
        return len(self._clients)

    def _run(self) -> None:
        swept_at = time.monotonic()
        turn = min(self._keepalive_seconds / 4, 1.0)
        while True:
            self._wait(self._poller.fileno(), turn)
            with self._lock:
                ready = [(self._clients.get(fd), mask) for fd, mask in self._poller.poll(0)]
            for client, mask in ready:
                if client is None:
                    continue
                if mask & (_ERR | _HUP | _RDHUP) or (mask & _IN and not client.drain()):
                    client.lost()
                elif mask & _OUT:
                    client.writable()
            now = time.monotonic()
            if now - swept_at >= turn:
                swept_at = now
                with self._lock:
                    clients = [*self._clients.values()]
                for client in clients:
                    if client.until is not None and now >= client.until:
                        client.close()
                    else:
                        client.keep_alive(now - self._keepalive_seconds, now)


class SocketClient:
    """A client that is written to without waiting. What it cannot take yet waits, the newest of each key."""

    __slots__ = (
        "_blocked",
        "_chunked",
        "_closing",
        "_ended_body",
        "_hub",
        "_rest",
        "_said_at",
        "_topic",
        "_unnamed",
        "_waiting",
        "_writer",
        "ended",
        "fd",
        "until",
    )

    def __init__(
        self,
        writer: SocketWriter,
        fd: int,
        hub: Hub,
        topic: Topic,
        stream: Stream,
        *,
        chunked: bool,
        ended: Callable[[], None],
    ) -> None:
        self._writer = writer
        self._hub = hub
        #: None when the stream is over.
        self._topic: Topic | None = topic
        self.fd = fd
        self.ended = ended
        #: When the stream ends, within a turn of the writer.
        self.until = stream.until
        self._unnamed = stream.unnamed
        self._chunked = chunked
        self._blocked = False
        #: Nothing more will come; what waits is still sent.
        self._closing = False
        self._ended_body = False
        #: What the kernel did not take of the frame before; it has to come first.
        self._rest = b""
        self._waiting: dict[object, Frame] | None = None
        self._said_at = time.monotonic()

    def offer(self, frame: Frame) -> None:
        """See ``Client.offer``."""
        if self._closing:
            return
        if self._blocked:
            if self._waiting is None:
                self._waiting = {}
            keep_newest(self._waiting, frame)
            if len(self._waiting) > _MOST_WAITING:
                self._end()
            return
        self._write(self._form(frame))
        if frame.last:
            self._closing = True
            self._end_if_done()

    def close(self) -> None:
        """See ``Client.close``."""
        topic = self._topic
        if topic is not None:
            with topic.lock:
                self._closing = True
                self._end_if_done()

    def lost(self) -> None:
        """The client has gone."""
        topic = self._topic
        if topic is not None:
            with topic.lock:
                self._end()

    def writable(self) -> None:
        """The kernel takes more."""
        topic = self._topic
        if topic is None or not self._blocked:
            return
        with topic.lock:
            self._blocked = False
            rest, self._rest = self._rest, b""
            self._write(rest)
            while self._waiting and not self._blocked:
                frame = self._waiting.pop(next(iter(self._waiting)))
                self._write(self._form(frame))
                self._closing |= frame.last
            if not self._waiting:
                self._waiting = None
                self._end_if_done()

    def drain(self) -> bool:
        """Read and forget what the client sends; False when it has closed its side."""
        try:
            while received := os.read(self.fd, 4096):
                if len(received) < 4096:
                    return True
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def keep_alive(self, before: float, now: float) -> None:
        """Send a keepalive to clients that were sent nothing since ``before``."""
        topic = self._topic
        if topic is None or self._blocked or max(self._said_at, topic.said_at) > before:
            return
        with topic.lock:
            self._said_at = now
            if self._topic is None:
                return
            self._write(wire.chunk(_KEEPALIVE) if self._chunked else _KEEPALIVE)

    def _form(self, frame: Frame) -> bytes:
        form = frame.unnamed if self._unnamed else frame
        return form.chunk if self._chunked else form.wire

    def _write(self, content: bytes) -> None:
        try:
            written = os.write(self.fd, content)
        except BlockingIOError:
            written = 0
        except OSError:
            self._end()
            return
        if written < len(content):
            self._rest = content[written:]
            self._blocked = True

    def _end_if_done(self) -> None:
        """End the connection when everything is sent, and before that the body."""
        if not self._closing or self._blocked or self._topic is None:
            return
        if self._chunked and not self._ended_body:
            self._ended_body = True
            self._write(wire.chunk(b""))
        if not self._blocked:
            self._end()

    def _end(self) -> None:
        """Give everything back; with the topic's lock held."""
        topic, self._topic = self._topic, None
        if topic is None:
            return
        self._closing = True
        self._waiting = None
        topic.clients.pop(self, None)
        self._hub.left(topic)
        self._writer.forget(self)


def keep_little_unsent(fd: int) -> None:
    """Let the kernel hold little for a client that is slow, and give up one that acknowledges nothing."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        for level, option, value in _OPTIONS:
            # Not every socket is TCP's.
            with suppress(OSError):
                sock.setsockopt(level, option, value)


_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER),
    (socket.IPPROTO_TCP, getattr(socket, "TCP_NOTSENT_LOWAT", 25), UNSENT),
    (socket.IPPROTO_TCP, getattr(socket, "TCP_USER_TIMEOUT", 18), int(UNACKNOWLEDGED_SECONDS * 1000)),
)
