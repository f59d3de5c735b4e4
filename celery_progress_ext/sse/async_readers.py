"""As ``readers``, for event loops: what reads and writes for the streams of one app there."""

from __future__ import annotations

import asyncio
import signal
import threading
import weakref
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from celery_progress_ext.event_loops import LoopReaders, PerLoop
from celery_progress_ext.exceptions import JobNotFound
from celery_progress_ext.sse import streams
from celery_progress_ext.sse.async_hub import AsyncHub, AsyncMailbox
from celery_progress_ext.sse.readers import KEEPALIVE_SECONDS, Caps, Room
from celery_progress_ext.sse.streams import Stream


class AsyncReaders:
    """The hubs of one app, one for each event loop, and the room that they share.

    :param loop_readers: what the readers of each event loop share (``ProcessContext.per_loop``).
    :param poll_seconds: how often the database is read while nothing is broadcast.
    """

    def __init__(
        self,
        loop_readers: PerLoop[LoopReaders],
        caps: Caps,
        *,
        keepalive_seconds: float = KEEPALIVE_SECONDS,
        poll_seconds: float = 2.0,
    ) -> None:
        self.keepalive_seconds = keepalive_seconds
        self.room = Room(caps)
        self._hubs = PerLoop(
            lambda: AsyncHub(loop_readers.get(), keepalive_seconds=keepalive_seconds, poll_seconds=poll_seconds)
        )

    @property
    def hub(self) -> AsyncHub:
        """That of the running event loop.

        :raises RuntimeError: outside of one.
        """
        return self._hubs.get()

    async def body(
        self, stream: Stream, mailbox: AsyncMailbox, *, address: str | None, credential: str | None
    ) -> AsyncGenerator[bytes, None]:
        """The body of a response that streams to its client, to the end of ``mailbox``. Close it in any case."""
        give_back = self.room.admit(address, credential)
        if give_back is None:
            yield streams.SHED
            return
        try:
            hub = self.hub
            _close_on_exit(hub)
            yield stream.opening
            # JobNotFound: retention removed it meanwhile; a reconnect gets 404.
            with suppress(JobNotFound):
                async with hub.follow(mailbox, stream.channel, stream.make, last_id=stream.last_id):
                    contents = mailbox.contents(self.keepalive_seconds, unnamed=stream.unnamed, until=stream.until)
                    async for content in contents:
                        yield content
        finally:
            give_back()

    def close(self) -> None:
        """End the streams of the running event loop, for a shutdown. May be called again."""
        self.hub.close()


#: The hubs whose streams end when the process is asked to end, and their event loops.
_open: weakref.WeakKeyDictionary[AsyncHub, asyncio.AbstractEventLoop] = weakref.WeakKeyDictionary()


def _close_on_exit(hub: AsyncHub) -> None:
    """End the streams when the process is asked to end: a server waits for its open connections first, and its clients
    wait for their jobs.
    """
    if hub in _open or threading.current_thread() is not threading.main_thread():
        return
    _open[hub] = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        handler = signal.getsignal(number)
        if callable(handler) and getattr(handler, "func", None) is not _close_all_and:
            signal.signal(number, partial(_close_all_and, handler))


def _close_all_and(handler: Callable[[int, Any], Any], number: int, frame: Any) -> Any:
    for hub, loop in [*_open.items()]:
        with suppress(RuntimeError):  # the loop has ended before
            loop.call_soon_threadsafe(hub.close)
    return handler(number, frame)
