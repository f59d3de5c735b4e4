"""One subscription for all that follow channels in an event loop, over a server that the test is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from celery_progress_ext.broadcast import BroadcastLost, Message
from celery_progress_ext.broadcast.shared import ACKNOWLEDGED, Received, SharedSubscription


class Server:
    """Acknowledges, publishes, and breaks its connections."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []

    async def open(self) -> Connection:
        self.connections.append(Connection())
        return self.connections[-1]

    @property
    def live(self) -> Connection:
        return self.connections[-1]


class Connection:
    def __init__(self) -> None:
        self.channels: set[str] = set()
        self.closed = False
        self._received: asyncio.Queue[Received | Exception] = asyncio.Queue()

    async def add(self, channels: Iterable[str]) -> None:
        self.channels |= set(channels)
        for channel in channels:
            self._received.put_nowait((channel, ACKNOWLEDGED))

    async def remove(self, channel: str) -> None:
        self.channels.discard(channel)

    async def get(self, timeout: float) -> Received | None:
        received = await self._received.get()
        if isinstance(received, Exception):
            raise received
        return received

    async def close(self) -> None:
        self.closed = True

    def publish(self, channel: str, version: int) -> None:
        self._received.put_nowait((channel, Message("progress", version, {})))

    def lose(self) -> None:
        self._received.put_nowait(BroadcastLost())


class Follower:
    def __init__(self) -> None:
        self.versions: list[int | None] = []
        self.gaps = 0
        self.changed = asyncio.Event()

    def receive(self, message: Message) -> None:
        self.versions.append(message.version)
        self.changed.set()

    def missed(self) -> None:
        self.gaps += 1
        self.changed.set()

    async def next(self) -> None:
        async with asyncio.timeout(5):
            await self.changed.wait()
        self.changed.clear()


@pytest.fixture
def server() -> Server:
    return Server()


def run(work: Any) -> None:
    asyncio.run(work())


def test_followers_of_a_channel_share_it(server: Server) -> None:
    """One connection, one subscription; it is gone with the last of them, and so is the task that read it."""

    async def work() -> None:
        shared = SharedSubscription(server.open)
        first, second = Follower(), Follower()
        async with shared.follow("a", first):
            async with shared.follow("a", second), shared.follow("b", second):
                server.live.publish("a", 1)
                await first.next()
                await second.next()
                assert server.live.channels == {"a", "b"}
            await asyncio.sleep(0)
            assert server.live.channels == {"a"}
        assert (first.versions, second.versions, len(server.connections)) == ([1], [1], 1)
        await asyncio.sleep(0.01)
        assert server.live.closed and len(asyncio.all_tasks()) == 1 and not shared.connected

    run(work)


def test_a_follower_twice_gets_a_message_once(server: Server) -> None:
    """As the topic of a thousand clients does."""

    async def work() -> None:
        shared, topic = SharedSubscription(server.open), Follower()
        async with shared.follow("a", topic):
            async with shared.follow("a", topic):
                server.live.publish("a", 1)
                await topic.next()
            server.live.publish("a", 2)
            await topic.next()
        assert topic.versions == [1, 2]

    run(work)


def test_a_break_is_mended_and_made_known(server: Server) -> None:
    """Messages of meanwhile are missing: each follower reads for itself, once it is subscribed again."""

    async def work() -> None:
        shared, follower = SharedSubscription(server.open), Follower()
        async with shared.follow("a", follower):
            server.live.lose()
            await follower.next()
            assert (follower.gaps, len(server.connections)) == (1, 2)
            assert server.connections[0].closed and server.live.channels == {"a"}
            server.live.publish("a", 3)
            await follower.next()
        assert follower.versions == [3]

    run(work)


def test_a_break_with_the_last_follower_is_not_the_next_one_s(server: Server) -> None:
    """The reader that ends late takes nothing from the one that came after it."""

    async def work() -> None:
        shared, follower = SharedSubscription(server.open), Follower()
        async with shared.follow("a", Follower()):
            server.live.lose()
        async with shared.follow("b", follower):
            assert shared.connected and follower.gaps == 0
            server.live.publish("b", 1)
            await follower.next()
        assert follower.versions == [1]

    run(work)
