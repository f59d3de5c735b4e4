"""Soft time limits, deferred while something must not be interrupted.

Celery raises a soft time limit from a signal handler, between any two lines of the main thread of a prefork child.
Inside the bookkeeping of a connection pool or a lock, that leaks the connection or leaves the lock held for good.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: The signal that billiard sends for a soft time limit (``billiard.pool.SIG_SOFT_TIMEOUT``).
_SOFT_LIMIT = signal.SIGUSR1

#: Set where a limit struck inside :func:`held_back`; raised by :func:`raise_held_back`.
_held_back = False


@contextmanager
def undisturbed() -> Iterator[None]:
    """Defer a soft time limit to the end of the block. Costs some 8 µs; nests; does nothing outside a pool's child."""
    interrupt = _handler()
    if interrupt is None:
        yield
        return
    struck = False

    def note(*_: Any) -> None:
        nonlocal struck
        struck = True

    signal.signal(_SOFT_LIMIT, note)
    try:
        yield
    finally:
        signal.signal(_SOFT_LIMIT, interrupt)
        if struck:
            interrupt(_SOFT_LIMIT, None)


@contextmanager
def held_back() -> Iterator[None]:
    """:func:`undisturbed` for a receiver, whose exceptions Celery's ``Signal.send`` swallows: a limit that struck is
    kept for :func:`raise_held_back`.
    """
    global _held_back
    try:
        with undisturbed():
            yield
    except BaseException as error:
        if not _is_soft_limit(error):
            raise
        _held_back = True


def raise_held_back() -> None:
    """Raise the soft time limit that struck in a receiver before the task's own code began.

    :raises celery.exceptions.SoftTimeLimitExceeded: where one struck.
    """
    global _held_back
    if _held_back:
        _held_back = False
        from celery.exceptions import SoftTimeLimitExceeded

        raise SoftTimeLimitExceeded


def forget_held_back() -> None:
    """The task is over, and what struck meanwhile with it."""
    global _held_back
    _held_back = False


def _is_soft_limit(error: BaseException) -> bool:
    from celery.exceptions import SoftTimeLimitExceeded

    return isinstance(error, SoftTimeLimitExceeded)


def _handler() -> Any:
    """What a soft time limit calls in this thread; None where none can strike."""
    if threading.current_thread() is not threading.main_thread():
        return None
    handler = signal.getsignal(_SOFT_LIMIT)
    return handler if callable(handler) else None
