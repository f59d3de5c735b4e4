"""The hub of one event loop: topics and their clients as in ``hub``, without a thread of its own.

Messages come from the loop's shared subscription (``event_loops``); what is read of the database, its few threads read.
Nothing runs while nobody follows.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

from celery_progress_ext.event_loops import LoopReaders
from celery_progress_ext.log import get_logger
from celery_progress_ext.sse import wire
from celery_progress_ext.sse.hub import CLOSED, Client, Closed, Frame, Topic, keep_newest

logger = get_logger(__name__)

KEEPALIVE = wire.comment()


class AsyncMailbox:
    """As ``hub.Mailbox``, for a client in an event loop; threads may offer too.

    :param limit: frames of different keys that may wait; a client that is further behind is given up.
    """

    def __init__(self, limit: int = 1000) -> None:
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._waiting: dict[object, Frame] = {}
        self._closed = False
        self._waiter: asyncio.Future[None] | None = None

    async def get(self, timeout: float) -> Frame | Closed | None:
        """What came first, or None after ``timeout`` seconds."""
        if not (self._waiting or self._closed):
            waiter = self._waiter = self._loop.create_future()
            # Not `asyncio.timeout`: thousands of clients wait for each event.
            timer = self._loop.call_later(max(0.0, timeout), self._wake)
            try:
                if not (self._waiting or self._closed):  # a thread may have offered something meanwhile
                    await waiter
            finally:
                timer.cancel()
                self._waiter = None
        with self._lock:
            if self._closed:
                return CLOSED
            return self._waiting.pop(next(iter(self._waiting))) if self._waiting else None

    async def contents(
        self, keepalive_seconds: float, *, unnamed: bool = False, until: float | None = None
    ) -> AsyncIterator[bytes]:
        """What ``streams.frames_of`` gives of a mailbox."""
        while True:
            left = keepalive_seconds if until is None else min(keepalive_seconds, until - time.monotonic())
            item = await self.get(left)
            if item is CLOSED or (until is not None and time.monotonic() >= until):
                return
            if item is None:
                yield KEEPALIVE
                continue
            assert isinstance(item, Frame)
            yield item.unnamed.wire if unnamed else item.wire
            if item.last:
                return

    def offer(self, frame: Frame) -> None:
        """See ``Client.offer``."""
        with self._lock:
            keep_newest(self._waiting, frame)
            self._closed |= len(self._waiting) > self._limit
        self._changed()

    def close(self) -> None:
        """See ``Client.close``."""
        with self._lock:
            self._closed = True
        self._changed()

    def _changed(self) -> None:
        if threading.get_ident() == self._thread:
            self._wake()
        else:
            # RuntimeError: the loop has ended, and its clients with it.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _Followed:
    """A topic and how many follow it; what the subscription delivers to."""

    def __init__(self, topic: Topic, missed: Callable[[], None]) -> None:
        self.topic = topic
        self.clients = 0
        #: Messages may be missing: it has to be read.
        self.missed_some = False
        self._missed = missed

    def receive(self, message: Any) -> None:
        """See ``Follower.receive``."""
        try:
            self.topic.receive(message)
        except (KeyError, ValueError, TypeError) as error:
            logger.warning("message_ignored", channel=self.topic.channel, reason=f"not of this channel: {error!r}")

    def missed(self) -> None:
        """See ``Follower.missed``."""
        self.missed_some = True
        self._missed()


class AsyncHub:
    """The topics of one event loop.

    :param keepalive_seconds: a topic on which nothing came for so long is read: a broadcast may have been lost.
    :param poll_seconds: how often topics are read while nothing is broadcast.
    """

    def __init__(self, readers: LoopReaders, *, keepalive_seconds: float = 15.0, poll_seconds: float = 2.0) -> None:
        self._readers = readers
        self._keepalive_seconds = keepalive_seconds
        self._poll_seconds = poll_seconds
        self._followed: dict[str, _Followed] = {}
        self._looker: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._closing = threading.Event()

    @property
    def connected(self) -> bool:
        """Whether messages arrive. While they do not, topics are polled."""
        return self._readers.subscription.connected

    @property
    def clients(self) -> dict[str, int]:
        """Clients per channel."""
        return {channel: followed.clients for channel, followed in self._followed.items()}

    def topic(self, channel: str) -> Topic | None:
        """The topic of a channel that somebody follows now."""
        followed = self._followed.get(channel)
        return None if followed is None else followed.topic

    @asynccontextmanager
    async def follow(
        self, client: Client, channel: str, make: Callable[[str], Topic], *, last_id: int | None = None
    ) -> AsyncIterator[None]:
        """As ``Hub.follow``."""
        if self._closing.is_set():
            client.close()
            yield
            return
        followed = self._followed.get(channel)
        if followed is None:
            followed = self._followed[channel] = _Followed(make(channel), self._wake.set)
        topic = followed.topic
        followed.clients += 1
        if self._looker is None:
            self._looker = asyncio.create_task(self._look(), name="progress-look")
        try:
            async with self._readers.follow(channel, followed):
                await self._read(topic)
                topic.begin(client, last_id)
                if last_id is not None:
                    await self._readers.run(partial(topic.catch_up, client, last_id))
                if self._closing.is_set():
                    client.close()
                yield
        finally:
            with topic.lock:
                topic.clients.pop(client, None)
            self._leave(channel, followed)

    def close(self) -> None:
        """End all streams; later clients are closed at once. May be called again."""
        self._closing.set()
        for followed in [*self._followed.values()]:
            followed.topic.close()

    def _leave(self, channel: str, followed: _Followed) -> None:
        followed.clients -= 1
        if not followed.clients and self._followed.get(channel) is followed:
            del self._followed[channel]
        if not self._followed and self._looker is not None:
            self._looker.cancel()
            self._looker = None

    async def _read(self, topic: Topic, *, alive: bool = False) -> None:
        """Look at a topic, once for all that ask at the same time."""
        await self._readers.reads.get(f"look {id(topic)}", partial(topic.look, alive=alive))

    async def _look(self) -> None:
        turn = max(min(self._poll_seconds, self._keepalive_seconds, 2.0) / 4, 0.02)
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(turn):
                    await self._wake.wait()
            self._wake.clear()
            await asyncio.gather(*(self._look_at(followed) for followed in [*self._followed.values()]))

    async def _look_at(self, followed: _Followed) -> None:
        topic, now = followed.topic, time.monotonic()
        try:
            if followed.missed_some:
                followed.missed_some = False
                await self._read(topic)
            elif not self.connected and now - topic.looked_at >= self._poll_seconds:
                await self._read(topic, alive=True)
            elif now - max(topic.said_at, topic.looked_at) >= self._keepalive_seconds:
                await self._read(topic)
        except Exception as error:
            # The other topics are looked at all the same, and this one again.
            logger.warning("sse_look_failed", channel=topic.channel, error=type(error).__name__)
