"""Faults at exact points of Celery's own code: a process that has them in its environment dies, fails or waits there.

``FAULT_POINTS`` is a JSON list of :class:`FaultPoint`. Each strikes once, whichever process comes by first.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import redis
from celery import Celery, signals
from celery.backends.redis import RedisBackend
from kombu import Producer

from celery_progress_ext import ids
from celery_progress_ext.recording import batch_completer
from celery_progress_ext.worker import reporting

VARIABLE = "FAULT_POINTS"

#: Where, in the order of a chunk's life.
PUBLISHING = "publishing"  # the publisher: before a message of the chord is sent
STORED = "stored"  # the chunk's result is stored, its chord part not yet counted
CLAIMED = "claimed"  # the last part is counted and the chord claimed, the body not yet published
PUBLISHED = "published"  # the body is published, the claim not yet cleaned up
TOLD = "told"  # in task_success, before the extension's receiver
KILLED = "killed"  # in the last task_failure of a hard time limit: its process is about to be killed
WAITING = "waiting"  # the receiver has put the completion off, to be committed with others


@dataclass(frozen=True)
class FaultPoint:
    """``deed`` at ``at``; for the chunk of that index alone, where one is given."""

    at: str
    deed: str
    #: A path that is made when the point strikes; where it exists, it has.
    once: str
    chunk: int | None = None
    #: What a deed waits for: a path.
    until: str = ""


def environment(*points: FaultPoint) -> dict[str, str]:
    """What a process is started with, so that these points strike it."""
    return {VARIABLE: json.dumps([asdict(point) for point in points])}


def install(app: Celery) -> None:
    """Put the points of the environment into Celery. Before the extension connects its receivers."""
    points = [FaultPoint(**point) for point in json.loads(os.environ.get(VARIABLE, "[]"))]
    if points:
        _Installed(app, points)


class _Installed:
    def __init__(self, app: Celery, points: list[FaultPoint]) -> None:
        self._points = points
        self._here = threading.local()
        self._wrap_chord_part()
        self._wrap_publish(app)
        self._wrap_send()
        if any(point.at == WAITING for point in points):
            self._wrap_batch_completer()
        if any(point.at == KILLED for point in points):
            reporting.PAGES_SECONDS = 0.02  # a process that is about to be killed has something to tell
        signals.task_success.connect(self._on_success, weak=False)
        signals.task_failure.connect(self._on_failure, weak=False)

    def _pass(self, at: str, task_id: str | None) -> None:
        """The process has come to ``at`` with this task."""
        task = ids.parse(task_id)
        for point in self._points:
            if point.at == at and (point.chunk is None or (task is not None and task.chunk_index == point.chunk)):
                try:
                    Path(point.once).touch(exist_ok=False)
                except FileExistsError:
                    continue
                _DEEDS[point.deed](point)

    def _wrap_chord_part(self) -> None:
        count = RedisBackend.on_chord_part_return

        @functools.wraps(count)
        def on_chord_part_return(backend: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            self._pass(STORED, request.id)
            self._here.counting = request.id
            try:
                return count(backend, request, *args, **kwargs)
            finally:
                self._here.counting = None

        RedisBackend.on_chord_part_return = on_chord_part_return

    def _wrap_publish(self, app: Celery) -> None:
        send = app.send_task

        @functools.wraps(send)
        def send_task(*args: Any, **kwargs: Any) -> Any:
            task_id = getattr(self._here, "counting", None)
            if task_id is None:
                return send(*args, **kwargs)
            # While a part is counted nothing is sent but the body.
            self._pass(CLAIMED, task_id)
            answer = send(*args, **kwargs)
            self._pass(PUBLISHED, task_id)
            return answer

        app.send_task = send_task

    def _wrap_send(self) -> None:
        send = Producer.publish

        @functools.wraps(send)
        def publish(producer: Any, *args: Any, **kwargs: Any) -> Any:
            self._pass(PUBLISHING, kwargs.get("correlation_id"))
            return send(producer, *args, **kwargs)

        Producer.publish = publish

    def _wrap_batch_completer(self) -> None:
        batch_completer.WINDOW_SECONDS = 3600.0  # all but a process's first completion wait until somebody flushes
        add = batch_completer.BatchCompleter.add

        def add_and_pass(commits: Any, job_id: str, completion: Any) -> None:
            add(commits, job_id, completion)
            if commits._waiting:
                self._pass(WAITING, f"{completion.chunk_id}.1")

        batch_completer.BatchCompleter.add = add_and_pass  # type: ignore[method-assign]

    def _on_success(self, sender: Any = None, **_: Any) -> None:
        self._pass(TOLD, sender.request.id)

    def _on_failure(self, sender: Any = None, task_id: str = "", **_: Any) -> None:
        if sender.request.id is None:
            self._pass(KILLED, task_id)


def _die(point: FaultPoint) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_all(point: FaultPoint) -> None:
    """The whole worker: every process of its group."""
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _lose_redis(point: FaultPoint) -> None:
    raise redis.exceptions.ConnectionError("Connection closed by server.")


def _wait(point: FaultPoint) -> None:
    """Until the path is there; for ever where it never is, so that a time limit strikes here."""
    while not (point.until and Path(point.until).exists()):
        time.sleep(0.02)


def _pause(point: FaultPoint) -> None:
    """Longer than it takes another process to say something once more."""
    time.sleep(0.5)


def _pass(point: FaultPoint) -> None:
    """Nothing: it is known that the point was passed."""


_DEEDS: dict[str, Callable[[FaultPoint], None]] = {
    "die": _die,
    "die_all": _die_all,
    "lose_redis": _lose_redis,
    "pass": _pass,
    "pause": _pause,
    "wait": _wait,
}
