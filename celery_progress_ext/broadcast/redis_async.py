"""A subscription to Redis or Valkey that holds no thread: redis-py's asyncio client."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from celery_progress_ext.broadcast import BroadcastLost, decode
from celery_progress_ext.broadcast.redis import (
    ACKNOWLEDGE_SECONDS,
    ANSWER_SECONDS,
    QUIET_SECONDS,
    READER_CHANNEL,
    redis_py_url,
)
from celery_progress_ext.broadcast.shared import ACKNOWLEDGED, Received
from celery_progress_ext.log import get_logger

logger = get_logger(__name__)


class AsyncRedisSubscription:
    """One pub/sub connection of one event loop. One task reads; the same and others may ``add`` and ``remove``."""

    def __init__(self, url: str) -> None:
        # No silent reconnect: what was published meanwhile is missed, and the reader has to know it. RESP 2 answers
        # PING in band.
        self._client: Any = Redis.from_url(
            redis_py_url(url),
            protocol=2,
            retry=Retry(NoBackoff(), 0, supported_errors=()),
            socket_timeout=ANSWER_SECONDS,
            # Longer than for threads: a loop that a thousand readers have just come to is busy, and nobody waits.
            socket_connect_timeout=ACKNOWLEDGE_SECONDS,
        )
        self._pubsub: Any = self._client.pubsub()
        self._heard_at = self._asked_at = time.monotonic()

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect.

        :raises BroadcastLost: when the server cannot be reached.
        """
        made = cls(url)
        try:
            # A connection that waits for messages needs a channel.
            await made.add([READER_CHANNEL])
        except BaseException:
            await made.close()
            raise
        return made

    async def add(self, channels: Iterable[str]) -> None:
        """Ask for what is published on ``channels``; ``get`` returns the acknowledgement of each."""
        async with self._connection():
            await self._pubsub.subscribe(*channels)

    async def remove(self, channel: str) -> None:
        """Ask for no more of a channel. A message that is under way may still arrive."""
        async with self._connection():
            await self._pubsub.unsubscribe(channel)

    async def get(self, timeout: float) -> Received | None:
        """The next message or acknowledgement, or None after ``timeout`` seconds.

        :raises BroadcastLost: when the server is gone or has stopped answering.
        """
        async with self._connection():
            received = await self._pubsub.get_message(timeout=timeout)
            if received is None:
                await self._ask_for_a_sign_of_life()
                return None
        self._heard_at = time.monotonic()
        if received["type"] not in ("subscribe", "message"):
            return None
        channel = received["channel"].decode()
        if received["type"] == "subscribe":
            return channel, ACKNOWLEDGED
        message = decode(received["data"])
        if message is None:
            logger.warning("message_ignored", channel=channel, reason="not a snapshot")
            return None
        return channel, message

    async def close(self) -> None:
        """Give the connection back. May be called again."""
        # Of a connection that broke.
        with suppress(RedisError, OSError, ValueError):
            await self._pubsub.aclose()
        with suppress(RedisError, OSError, ValueError):
            await self._client.aclose()

    async def _ask_for_a_sign_of_life(self) -> None:
        """A connection through a network that went away looks idle indefinitely: ask, and give it up without answer."""
        now = time.monotonic()
        asked = self._asked_at > self._heard_at
        if asked and now - self._asked_at > ACKNOWLEDGE_SECONDS:
            raise BroadcastLost(f"The server has not answered for {now - self._heard_at:.0f} s.")
        if not asked and now - self._heard_at > QUIET_SECONDS:
            self._asked_at = now
            await self._pubsub.ping("alive")

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[None]:
        try:
            yield
        # ValueError, RuntimeError: a connection that is closed already.
        except (RedisError, OSError, ValueError, RuntimeError) as error:
            raise BroadcastLost(f"{type(error).__name__}: {error}") from error
