"""Work that takes much memory or time, a bounded number of it at once in this process: the rest waits, and not long."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from web.problems import Problem

#: When to come back, in seconds.
RETRY_AFTER = 10


class Slots:
    """So many at once. Under gevent its lock is gevent's."""

    def __init__(self, number: int, *, wait_seconds: float, sentence: str) -> None:
        """``sentence``: what a person reads for whom none became free within ``wait_seconds``."""
        self._free = threading.BoundedSemaphore(number)
        self._wait_seconds = wait_seconds
        self._sentence = sentence

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold one of them for the while.

        :raises Problem: 503 when none became free in time, with ``Retry-After``.
        """
        if not self._free.acquire(timeout=self._wait_seconds):
            raise Problem(503, "busy", self._sentence, headers={"Retry-After": str(RETRY_AFTER)})
        try:
            yield
        finally:
            self._free.release()
