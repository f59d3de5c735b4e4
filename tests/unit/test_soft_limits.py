"""Soft time limits wait for the end of what must not be interrupted, and are not lost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from celery_progress_ext.soft_limits import forget_held_back, held_back, raise_held_back, undisturbed


@pytest.fixture(autouse=True)
def _handler() -> Iterator[None]:
    """As billiard sets it in a child of the pool."""

    def strike(*_: Any) -> None:
        raise SoftTimeLimitExceeded

    before = signal.signal(signal.SIGUSR1, strike)
    yield
    signal.signal(signal.SIGUSR1, before)
    forget_held_back()


def _strike() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


def test_a_limit_strikes_at_the_end_of_the_block() -> None:
    """Not inside it, also where blocks are nested."""
    done = []

    def work() -> None:
        with undisturbed(), undisturbed():
            _strike()
            done.append("all of it")

    with pytest.raises(SoftTimeLimitExceeded):
        work()
    assert done == ["all of it"]
    with pytest.raises(SoftTimeLimitExceeded):
        _strike()


def test_a_limit_that_struck_in_a_receiver_is_raised_where_it_counts() -> None:
    """Celery's `Signal.send` would swallow it there; before the task's own code begins, it is raised once."""
    with held_back():
        _strike()
    with pytest.raises(SoftTimeLimitExceeded):
        raise_held_back()
    raise_held_back()


def test_a_limit_of_a_task_that_is_over_is_forgotten() -> None:
    """The next task of the process has a limit of its own."""
    with held_back():
        _strike()
    forget_held_back()
    raise_held_back()


def test_other_threads_are_left_alone() -> None:
    """Signals strike the main thread only, and only that may set handlers."""
    handler = signal.getsignal(signal.SIGUSR1)
    seen = []

    def work() -> None:
        with undisturbed():
            seen.append(signal.getsignal(signal.SIGUSR1))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [handler]
