"""What is read once for all that ask within a moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from celery_progress_ext.forks import begins_anew_in_a_child

T = TypeVar("T")


class Shared(Generic[T]):
    """What ``read()`` returned, until it is ``seconds`` old. Safe for threads; those that ask meanwhile wait for it."""

    def __init__(self, read: Callable[[], T], *, seconds: float) -> None:
        self._read = read
        self._seconds = seconds
        self._found: tuple[float, T] | None = None
        self.begin_anew()
        begins_anew_in_a_child(self)

    def begin_anew(self) -> None:
        """In a forked child: a thread of the parent may have held the lock."""
        self._lock = threading.Lock()

    def get(self) -> T:
        """What was read, raising what reading raises."""
        with self._lock:
            if self._found is None or time.monotonic() - self._found[0] >= self._seconds:
                self._found = (time.monotonic(), self._read())
            return self._found[1]
