"""What the async readers of one event loop share: a subscription, and the threads that read the database for them.

Nothing of it is there while nobody reads: the first reader makes it, and with the last one it is gone.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any, Generic, TypeVar

from celery_progress_ext.broadcast.shared import AsyncSubscription, Follower, SharedSubscription
from celery_progress_ext.forks import begins_anew_in_a_child

T = TypeVar("T")

#: Threads that read the database for a loop's readers, however many there are.
_AT_ONCE = 8


class LoopReaders:
    """The readers of one event loop.

    :param open: opens a subscription; None where nothing is broadcast.
    """

    def __init__(self, open: Callable[[], Awaitable[AsyncSubscription]] | None) -> None:
        self.subscription = SharedSubscription(open)
        self.reads: SharedReads[Any] = SharedReads(self)
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
    """One value for each event loop of this process, while it runs."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self.begin_anew()
        begins_anew_in_a_child(self)

    def begin_anew(self) -> None:
        """See ``BeginsAnew``: what a parent's loops held is not this process's."""
        self._lock = threading.Lock()
        self._of: dict[asyncio.AbstractEventLoop, T] = {}

    def get(self) -> T:
        """That of the running loop.

        :raises RuntimeError: outside an event loop.
        """
        loop = asyncio.get_running_loop()
        with self._lock:
            if loop not in self._of:
                self._of = {each: value for each, value in self._of.items() if not each.is_closed()}
                self._of[loop] = self._make()
            return self._of[loop]
