"""One subscription for all that follow channels in one event loop: no thread, and nothing runs while nobody follows.

.. code-block:: python

    async with shared.follow(job_channel(job_id), follower):   # subscribed: what is read from here on misses nothing
        …
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from enum import Enum
from typing import Protocol

from celery_progress_ext.broadcast import BroadcastLost, Message
from celery_progress_ext.log import get_logger

logger = get_logger(__name__)

#: Pauses of the reader before it tries again, doubled from the first to the last. Seconds.
FIRST_PAUSE_SECONDS = 0.1
LAST_PAUSE_SECONDS = 3.0
#: How long a follower waits for its subscription before it goes on without. Seconds.
START_SECONDS = 2.0
#: How often the reader looks whether the server still answers. Seconds.
_TURN_SECONDS = 1.0


class Acknowledged(Enum):
    """The server's answer to a subscription."""

    ACKNOWLEDGED = "acknowledged"


ACKNOWLEDGED = Acknowledged.ACKNOWLEDGED
#: A channel, and what came on it.
Received = tuple[str, Message | Acknowledged]


class AsyncSubscription(Protocol):
    """A connection that receives what is published on a set of channels."""

    async def add(self, channels: Iterable[str]) -> None:
        """Ask for what is published on ``channels``; ``get`` returns the acknowledgement of each."""

    async def remove(self, channel: str) -> None:
        """Ask for no more of a channel."""

    async def get(self, timeout: float) -> Received | None:
        """The next message or acknowledgement, or None after at most ``timeout`` seconds."""

    async def close(self) -> None:
        """Give the connection back."""


class Follower(Protocol):
    """Gets what is published on a channel. Called in the event loop; it must not wait."""

    def receive(self, message: Message) -> None:
        """A message of the channel."""

    def missed(self) -> None:
        """Messages may be missing: read what is current."""


class _Channel:
    """A channel that is followed."""

    def __init__(self) -> None:
        #: How many times each follows.
        self.followers: Counter[Follower] = Counter()
        self.acknowledged = asyncio.Event()
        #: Whether somebody went on without the subscription: what came meanwhile is missing.
        self.gap = False


class SharedSubscription:
    """The subscription of one event loop, opened for the first follower and closed with the last.

    :param open: opens a connection; None where nothing is broadcast, and followers have to read by themselves.
    """

    def __init__(self, open: Callable[[], Awaitable[AsyncSubscription]] | None) -> None:
        self._open = open
        self._channels: dict[str, _Channel] = {}
        self._live: AsyncSubscription | None = None
        self._reader: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        # What the server is asked for goes out in the order of the followers' coming and going.
        self._asking = asyncio.Lock()

    @property
    def connected(self) -> bool:
        """Whether messages arrive."""
        return self._live is not None

    @property
    def channels(self) -> frozenset[str]:
        """The channels that somebody follows."""
        return frozenset(self._channels)

    @asynccontextmanager
    async def follow(self, name: str, follower: Follower) -> AsyncIterator[None]:
        """Give ``follower`` what is published on a channel, to the end of the block.

        The block begins when the server has acknowledged the subscription, or after ``START_SECONDS`` without it; then,
        and after every break of the connection, ``missed`` is called once it stands. A follower may follow several
        times, and gets each message once.
        """
        channel = self._channels.setdefault(name, _Channel())
        channel.followers[follower] += 1
        try:
            if self._open is not None:
                if self._reader is None:
                    self._reader = asyncio.create_task(self._read(self._open), name="progress-subscription")
                await self._subscribed(name, channel)
            yield
        finally:
            self._leave(name, channel, follower)

    async def _subscribed(self, name: str, channel: _Channel) -> None:
        async with self._asking:
            # A connection that turns out broken is the reader's to mend; it then asks for every channel again.
            with suppress(BroadcastLost):
                if self._live is not None and not channel.acknowledged.is_set():
                    await self._live.add([name])
        try:
            async with asyncio.timeout(START_SECONDS):
                await channel.acknowledged.wait()
        except TimeoutError:
            channel.gap = True

    def _leave(self, name: str, channel: _Channel, follower: Follower) -> None:
        channel.followers[follower] -= 1
        if not channel.followers[follower]:
            del channel.followers[follower]
        if channel.followers or self._channels.get(name) is not channel:
            return
        del self._channels[name]
        if not self._channels and self._reader is not None:
            # It closes the connection.
            self._reader.cancel()
            self._reader = self._live = None
        elif self._live is not None:
            task = asyncio.create_task(self._unsubscribe(name, self._live))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def _unsubscribe(self, name: str, subscription: AsyncSubscription) -> None:
        async with self._asking:
            if name not in self._channels and self._live is subscription:
                with suppress(BroadcastLost):
                    await subscription.remove(name)

    async def _read(self, open: Callable[[], Awaitable[AsyncSubscription]]) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            subscription: AsyncSubscription | None = None
            try:
                subscription = await open()
                if self._reader is not asyncio.current_task():
                    # The last follower left; where connecting timed out at that moment, its cancellation is lost.
                    return
                async with self._asking:
                    await subscription.add(self._channels)
                    self._live = subscription
                while True:
                    received = await subscription.get(_TURN_SECONDS)
                    if received is not None:
                        pause = FIRST_PAUSE_SECONDS
                        self._deliver(*received)
            except Exception as error:
                # Whatever ended it: without a reader, every follower would be deaf.
                logger.warning("subscription_lost", error=type(error).__name__, reason=str(error))
                # The last follower may have left meanwhile, and the next one have a reader of its own.
                if self._reader is not asyncio.current_task():
                    return
                self._break()
            finally:
                if subscription is not None:
                    await subscription.close()
            await asyncio.sleep(pause)
            pause = min(pause * 2, LAST_PAUSE_SECONDS)

    def _break(self) -> None:
        self._live = None
        for channel in self._channels.values():
            channel.acknowledged.clear()
            channel.gap = True

    def _deliver(self, name: str, message: Message | Acknowledged) -> None:
        channel = self._channels.get(name)
        if channel is None:
            return
        if isinstance(message, Message):
            for follower in [*channel.followers]:
                follower.receive(message)
            return
        channel.acknowledged.set()
        if channel.gap:
            channel.gap = False
            for follower in [*channel.followers]:
                follower.missed()
