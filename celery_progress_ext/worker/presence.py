"""A worker says who it is: its queues and its slots, in a row that it renews as a lease.

From a thread of its MainProcess, since the main thread of a solo pool is at work for as long as a task takes, and a
database that is away must not hold up Celery's event loop.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from celery_progress_ext.config import Settings
from celery_progress_ext.exceptions import ProgressError
from celery_progress_ext.log import get_logger
from celery_progress_ext.storage import Database, workers

logger = get_logger(__name__)

#: Held while a row is written. A fork waits for it, for so many seconds at most: a child would inherit locks of the
#: database's driver that no thread of its own will ever release.
_writing = threading.Lock()
_FORK_WAITS_SECONDS = 5.0
_held_by_fork = False


def _before_fork() -> None:
    global _held_by_fork
    _held_by_fork = _writing.acquire(timeout=_FORK_WAITS_SECONDS)


def _after_fork_in_parent() -> None:
    if _held_by_fork:
        _writing.release()


def _after_fork_in_child() -> None:
    global _writing
    _writing = threading.Lock()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


class Presence:
    """The row of one worker.

    :param consumer: Celery's, of the worker's MainProcess.
    """

    def __init__(self, database: Database, settings: Settings, consumer: Any) -> None:
        self._database = database
        self._settings = settings
        self._consumer = consumer
        self._stopping = threading.Event()
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="progress-presence", daemon=True)

    def start(self) -> None:
        """Write the row now, and renew it until :meth:`stop`; returns at once."""
        self._thread.start()

    def ask_to_stop(self) -> None:
        """The worker takes no more tasks. Safe in a signal handler; returns at once."""
        self._stopping.set()

    def stop(self, timeout: float = 2.0) -> None:
        """The worker ends: wait until its row says so, for at most ``timeout`` seconds."""
        self._stopping.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            self._write()
            if self._stopping.wait(self._settings.heartbeat_seconds):
                break
        self._write()

    def _write(self) -> None:
        try:
            with _writing:
                self._write_row()
            self._failed = False
        except ProgressError as error:
            # Once per outage. Before the migration, too: the row is written as soon as there is a table for it.
            if not self._failed:
                logger.warning("presence_not_written", node=self._consumer.hostname, error=str(error))
            self._failed = True

    def _write_row(self) -> None:
        consumer = self._consumer
        if self._stopping.is_set():
            workers.gone(self._database, consumer.hostname)
        elif consumer.connection is not None:
            # While the broker is away the worker takes nothing, and its lease may end.
            workers.seen(
                self._database,
                consumer.hostname,
                queues=sorted(consumer.app.amqp.queues.consume_from),
                slots=consumer.pool.num_processes or 1,
                lease=self._settings.lease_seconds,
            )
