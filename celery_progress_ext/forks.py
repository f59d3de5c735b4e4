"""One rule for forks: what belongs to a process begins anew in a child.

Right after the fork, when there is one thread: the parent's threads and timers are not there, and a lock that one of
them held is never released.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class BeginsAnew(Protocol):
    """Something with threads, locks or connections of its own."""

    def begin_anew(self) -> None:
        """Start as if just made. Called in a forked child; what belongs to the parent is left to it."""


_ours: weakref.WeakSet[BeginsAnew] = weakref.WeakSet()


def begins_anew_in_a_child(each: BeginsAnew) -> None:
    """From now on ``each`` begins anew in every process that is forked from this one."""
    _ours.add(each)


def _after_fork_in_child() -> None:
    for each in list(_ours):
        each.begin_anew()


os.register_at_fork(after_in_child=_after_fork_in_child)
