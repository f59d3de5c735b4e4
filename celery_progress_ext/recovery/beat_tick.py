"""The beat task's tick, run by beat itself.

As a message it would wait in the queue behind every chunk that was sent before it, and for a free process behind every
chunk at work: recovery and broadcasts would stall just when they are needed, and with no live worker not even that
would be reported. So beat runs the tick in a thread of its own where it would publish it; anywhere else the tick is
an ordinary task.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from celery import Task
from celery.result import AsyncResult
from celery.utils import uuid

from celery_progress_ext.log import get_logger

logger = get_logger(__name__)


class BeatTick:
    """A thread that ticks when it is woken; wakes while it is at work are one tick.

    Beat wakes nobody while it waits for a broker that is away, so it also ticks by itself.

    :param seconds: after so long without a wake; asked when it starts.
    """

    def __init__(self, tick: Callable[[], object], seconds: Callable[[], float]) -> None:
        self._tick = tick
        self._seconds = seconds
        self._woken = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def started(self) -> bool:
        """Whether ticks are run in this process."""
        return self._thread is not None

    def start(self) -> None:
        """From now on ticks are run here. Called in beat's process, after any fork."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="progress-tick", daemon=True)
            self._thread.start()

    def wake(self) -> None:
        """Ask for a tick; returns at once, so that beat's other tasks are not late."""
        self._woken.set()

    def _run(self) -> None:
        seconds = self._seconds()
        while True:
            self._woken.wait(seconds)
            self._woken.clear()
            try:
                self._tick()
            except Exception as error:
                logger.warning("tick_failed", error=f"{type(error).__name__}: {error}")


def task_class(beat_tick: Callable[[], BeatTick]) -> type[Any]:
    """The class of the tick task: publishing it wakes ``beat_tick()`` where that was started, as in beat."""

    class Tick(Task):  # type: ignore[misc]
        abstract = True

        def apply_async(self, *args: Any, **options: Any) -> AsyncResult:
            if not beat_tick().started:
                return super().apply_async(*args, **options)
            beat_tick().wake()
            return self.AsyncResult(uuid())

    return Tick
