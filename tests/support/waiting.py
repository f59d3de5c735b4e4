"""Waiting for what will be so, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(predicate: Callable[[], T], timeout: float = 20.0, *, what: str = "", every: float = 0.02) -> T:
    """Ask ``predicate`` until its answer is true, and return the answer.

    :param what: what was waited for, told when it does not come.
    :raises TimeoutError: after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        if answer := predicate():
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"{what or predicate} did not come true within {timeout:g} s; the last answer: {answer!r}"
            )
        time.sleep(every)
