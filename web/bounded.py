"""Asking what may hang, without hanging with it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Late(Exception):
    """There was no answer in time."""


class _Call(Generic[T]):
    def __init__(self) -> None:
        self.done = threading.Event()
        self.answers: list[T] = []
        self.error: Exception | None = None


class Bounded(Generic[T]):
    """Asks in a thread of its own. Whoever asks while a question is open waits for that one's answer, so that what
    hangs is asked once, and holds one thread and one connection.
    """

    def __init__(self, ask: Callable[[], T]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._call: _Call[T] | None = None

    def begin(self) -> Callable[[float], T]:
        """Ask now; the answer is a function that waits for it at most so many seconds.

        It raises :class:`Late`, or what the asking raised.
        """
        with self._lock:
            call = self._call
            if call is None or call.done.is_set():
                call = self._call = _Call()
                threading.Thread(target=self._run, args=(call,), name="bounded", daemon=True).start()

        def answer(seconds: float) -> T:
            if not call.done.wait(max(0.0, seconds)):
                raise Late
            if call.error is not None:
                raise call.error
            return call.answers[0]

        return answer

    def within(self, seconds: float) -> T:
        """The answer, if it comes in time.

        :raises Late: when it does not; or what the asking raised.
        """
        return self.begin()(seconds)

    def _run(self, call: _Call[T]) -> None:
        try:
            call.answers.append(self._ask())
        except Exception as error:
            call.error = error
        finally:
            call.done.set()
