"""What a prefork worker's MainProcess does once, right before it forks its first child, so that they share memory.

A child shares the pages of its parent until one of the two writes to them. Imports and objects that every child would
make for itself are made before the fork. And a garbage collection writes to the header of every object that it looks
at, the parent's too: Celery runs one before each fork, which takes the pages from the children that are there already,
and the children run their own. ``gc.freeze`` puts what exists now out of the collector's sight.

Frozen objects are still freed when nothing refers to them; only a cycle that becomes garbage later, and that was made
before the freeze, is kept. So it is done once per MainProcess, when that holds modules and the app but no task yet, and
never in a process that does not fork a pool: not in a web application, a publisher or beat, nor for other pools.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import Any

from celery import signals

from celery_progress_ext.log import get_logger

logger = get_logger(__name__)

#: The process that did it. A pool that replaces children, as with `worker_max_tasks_per_child`, must not freeze the
#: requests that are at work by then.
_prepared_by: int | None = None


def connect(preload: Callable[[], None], freeze: Callable[[], bool]) -> None:
    """Do it when the pool of this worker is made.

    :param preload: makes what every child needs, without a connection.
    :param freeze: whether to put what exists then out of the collector's sight (``progress_gc_freeze``).
    """

    def before_create_process(**_: Any) -> None:
        _prepare(preload, freeze)

    # Sent by Celery's prefork pool alone, in MainProcess, before each fork.
    signals.worker_before_create_process.connect(
        before_create_process, weak=False, dispatch_uid="celery_progress_ext.worker.prefork"
    )


def _prepare(preload: Callable[[], None], freeze: Callable[[], bool]) -> None:
    global _prepared_by
    if _prepared_by == os.getpid():
        return
    _prepared_by = os.getpid()
    frozen = True
    try:
        frozen = freeze()
        preload()
    except Exception as error:
        # A setting that does not fit, or a driver that is missing: the first use reports it in full.
        logger.warning("worker_not_preloaded", error=f"{type(error).__name__}: {error}")
    if frozen:
        gc.collect()
        gc.freeze()
