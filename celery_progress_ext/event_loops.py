"""What the async readers of one event loop share: a subscription, and the threads that read the database for them.

Nothing of it is there while nobody reads: the first reader makes it, and with the last one it is gone.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any, Generic, TypeVar

from celery_progress_ext.broadcast.shared import AsyncSubscription, Follower, SharedSubscription

T = TypeVar("T")

#: Threads that read the database for a loop's readers, however many there are.
_AT_ONCE = 4


class LoopReaders:
    """The readers of one event loop.

    :param open: opens a subscription; None where nothing is broadcast.
    :param gone: called when the last reader has left.
    """

    def __init__(
        self, open: Callable[[], Awaitable[AsyncSubscription]] | None, gone: Callable[[], None] = lambda: None
    ) -> None:
        self.subscription = SharedSubscription(open)
        self.reads: SharedReads[Any] = SharedReads(self)
        self._gone = gone
        self._readers = 0
        self._threads: ThreadPoolExecutor | None = None

    @property
    def count(self) -> int:
        """How many read now."""
        return self._readers

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Keep the shared parts to the end of the block."""
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1
            if not self._readers:
                threads, self._threads = self._threads, None
                if threads is not None:
                    threads.shutdown(wait=False)
                self._gone()

    @asynccontextmanager
    async def follow(self, channel: str, follower: Follower) -> AsyncIterator[None]:
        """See ``SharedSubscription.follow``."""
        async with self.reading(), self.subscription.follow(channel, follower):
            yield

    async def run(self, work: Callable[[], T]) -> T:
        """What ``work`` returns or raises, in a thread; inside a block of :meth:`reading`."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="progress-read")
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


class _Line(Generic[T]):
    """The reads of one key, one after another."""

    def __init__(self) -> None:
        self.running: asyncio.Task[T] | None = None
        #: The read that has not begun yet, and serves all that ask until then.
        self.next: asyncio.Task[T] | None = None


class SharedReads(Generic[T]):
    """Reads that begin only after every task that waits for them has asked; one at a time for each key."""

    def __init__(self, readers: LoopReaders) -> None:
        self._readers = readers
        self._lines: dict[str, _Line[T]] = {}

    async def get(self, key: str, read: Callable[[], T]) -> T:
        """What ``read`` returns or raises, for every task that waits for it."""
        line = self._lines.setdefault(key, _Line())
        if line.next is None:
            line.next = asyncio.create_task(self._read(key, line, read), name="progress-read")
            # Those that waited may have left.
            line.next.add_done_callback(_retrieve)
        return await asyncio.shield(line.next)

    async def _read(self, key: str, line: _Line[T], read: Callable[[], T]) -> T:
        # Kept to the end of the read, also where the reader that asked leaves first.
        async with self._readers.reading():
            if line.running is not None:
                with suppress(Exception):
                    await line.running
            line.running, line.next = line.next, None
            try:
                return await self._readers.run(read)
            finally:
                line.running = None
                if line.next is None:
                    self._lines.pop(key, None)


def _retrieve(task: asyncio.Task[T]) -> None:
    if not task.cancelled():
        task.exception()


class PerLoop(Generic[T]):
    """One value for each running event loop of this process.

    :param make: makes it; its argument takes it away again.
    """

    def __init__(self, make: Callable[[Callable[[], None]], T]) -> None:
        self._make = make
        self._pid = os.getpid()
        self._of: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, T] = weakref.WeakKeyDictionary()

    def get(self) -> T:
        """That of the running loop.

        :raises RuntimeError: outside an event loop.
        """
        if self._pid != os.getpid():
            # What a parent's loop held is not this process's.
            self._pid, self._of = os.getpid(), weakref.WeakKeyDictionary()
        loop = asyncio.get_running_loop()
        found = self._of.get(loop)
        if found is None:
            found = self._of[loop] = self._make(lambda: self._forget(loop))
        return found

    def _forget(self, loop: asyncio.AbstractEventLoop) -> None:
        self._of.pop(loop, None)
