"""Completions that come faster than a write each are committed together.

A chunk's success is committed by its receiver, as long as chunks take longer than ``WINDOW_SECONDS``. Shorter ones wait
for the next, or for the end of the window, and are then one transaction: it costs little more than that of a single
chunk, and a job of many workers, whose row they all change, is not held up by as many commits as it has chunks.

What waits is in the result backend already. Where the process dies before the end of the window, the body or the
reconciler looks it up there, as for any success whose receiver never ran (F2).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from celery_progress_ext.forks import begins_anew_in_a_child
from celery_progress_ext.storage.chunk_changes import Completion

#: A process commits completions at most so often, which is also how often it sends to readers
#: (``snapshot_throttle.PER_SECOND``).
#: Seconds.
WINDOW_SECONDS = 0.1


class BatchCompleter:
    """The completions of this process that wait for a commit; shared by its threads, usable after a fork.

    :param commit: records completions of one job; it does not raise.
    """

    def __init__(self, commit: Callable[[str, Sequence[Completion]], object]) -> None:
        self._commit = commit
        self.begin_anew()
        begins_anew_in_a_child(self)

    def begin_anew(self) -> None:
        """Nothing waits; in a forked child, the parent commits its own."""
        self._lock = threading.Lock()
        self._waiting: dict[str, list[Completion]] = {}
        self._committed_at = float("-inf")
        self._timer: threading.Timer | None = None

    def add(self, job_id: str, completion: Completion) -> None:
        """Commit a completion: now, or within the window."""
        with self._lock:
            self._waiting.setdefault(job_id, []).append(completion)
            if time.monotonic() - self._committed_at < WINDOW_SECONDS:
                if self._timer is None:
                    self._timer = threading.Timer(WINDOW_SECONDS, self._window_over)
                    self._timer.daemon = True
                    self._timer.start()
                return
        self.flush()

    def flush(self) -> None:
        """Commit what waits, now."""
        with self._lock:
            taken, self._waiting = self._waiting, {}
            if taken:
                self._committed_at = time.monotonic()
        for job_id, completions in taken.items():
            self._commit(job_id, completions)

    def _window_over(self) -> None:
        with self._lock:
            self._timer = None
        self.flush()
