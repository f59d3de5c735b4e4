"""A process that stops for good at an exact step of the library: what it did until then is there, and no more.

A step is a statement, a COMMIT, a message to the broker, or a change of the result backend. The process publishes and
works as Celery does, in this thread: its messages are real, its tasks are traced by Celery, its signals reach the
library's receivers. Broker and result backend are in memory, and outlive it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import kombu
import sqlalchemy as sa
from celery import Celery
from celery.worker.request import Request
from kombu.message import Message

from celery_progress_ext import CeleryProgress, tracked_chord, tracked_group
from celery_progress_ext.tracked_job import TrackedJob

LEASE, TICK = 30.0, 5.0


class Stopped(BaseException):
    """The process is gone. No ``except Exception`` sees it, as none would see a SIGKILL."""


class Process:
    """One process of a deployment: an app of its own on the shared broker, result backend and database."""

    def __init__(self, database_url: str, effects: list[str]) -> None:
        self.app = _app(database_url, effects)
        self.progress = CeleryProgress(self.app)
        self.app.finalize()
        self.app.set_current()
        #: The steps that it came to.
        self.steps: list[str] = []
        self._last: int | None = None
        self._hook_database(self.progress.database.engine)
        self._hook_backend()

    def stop_before(self, step: int | None) -> None:
        """From now on it comes to so many more steps, and not to that one; None lets it live."""
        self.steps.clear()
        self._last = step

    def publish(self, *, failing: int | None = None) -> TrackedJob:
        """A tracked chord of two chunks, and a task that follows it; one of the chunks may fail, the first time."""
        header = [self.app.signature("chunk", args=(number, number == failing)) for number in range(2)]
        canvas = tracked_chord(
            header, self.app.signature("merge"), matter_id="m", document_id="d", app=self.app
        ) | self.app.signature("follow")
        return canvas.apply_async()

    def publish_group(self, *, failing: int | None = None) -> TrackedJob:
        """The same without a merge: a tracked group, and what is called with its result."""
        header = [self.app.signature("chunk", args=(number, number == failing)) for number in range(2)]
        canvas = tracked_group(header, app=self.app)
        canvas.link(self.app.signature("follow"))
        return canvas.apply_async()

    def work(self, *, late_ack: bool = True) -> None:
        """Run every message of the queue.

        :param late_ack: the broker delivers the message again on which it was stopped; else that is lost.
        """
        with self.app.connection_for_read() as connection, connection.SimpleQueue("celery") as queue:
            while True:
                try:
                    message = queue.get_nowait()
                except queue.Empty:
                    return
                try:
                    self._run(message)
                except Stopped:
                    # As Redis and RabbitMQ say of a message that comes again; the broker in memory does not.
                    message.delivery_info["redelivered"] = True
                    (message.requeue if late_ack else message.ack)()
                    raise
                message.ack()

    def lose_messages(self) -> None:
        """The broker forgets what is in the queue."""
        with self.app.connection_for_write() as connection:
            connection.default_channel.queue_purge("celery")

    def close(self) -> None:
        """Let go of the database."""
        self.progress.database.dispose()
        self.app.close()

    def _run(self, message: Message) -> None:
        task = self.app.tasks[message.headers["task"]]
        request = Request(message, app=self.app, task=task, hostname="worker", on_ack=_ignored, on_reject=_ignored)
        request.execute()

    def step(self, what: str) -> None:
        """It has come to a step."""
        if what.startswith("BEGIN"):
            return
        if self._last is not None and len(self.steps) >= self._last:
            raise Stopped(what)
        self.steps.append(what)

    def _hook_database(self, engine: sa.Engine) -> None:
        sa.event.listen(engine, "before_cursor_execute", lambda _conn, _cursor, text, *_: self.step(_in_short(text)))
        sa.event.listen(engine, "commit", lambda *_: self.step("COMMIT"))

    def _hook_backend(self) -> None:
        backend = self.app.backend
        for name in ("set", "incr", "delete"):
            setattr(backend, name, self._stepping(f"result backend: {name}", getattr(backend, name)))

    def _stepping(self, what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def stepping(*args: Any, **kwargs: Any) -> Any:
            self.step(what)
            return call(*args, **kwargs)

        return stepping


@contextmanager
def sending(process: Process) -> Iterator[None]:
    """While this process runs, each message that is sent is a step of it."""
    publish = kombu.Producer.publish

    def stepping(producer: Any, *args: Any, **kwargs: Any) -> Any:
        process.step(f"send {kwargs.get('correlation_id') or 'a broadcast'}")
        return publish(producer, *args, **kwargs)

    kombu.Producer.publish = stepping
    try:
        yield
    finally:
        kombu.Producer.publish = publish


def _ignored(*_: Any) -> None:
    """The explorer acknowledges messages itself."""


def _in_short(statement: str) -> str:
    words = statement.split()
    return " ".join(words[:3]) if words else ""


def _app(database_url: str, effects: list[str]) -> Celery:
    app = Celery("stops", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(
        progress_database_url=database_url,
        progress_lease_seconds=LEASE,
        progress_tick_seconds=TICK,
        task_acks_late=True,
    )

    @app.task(bind=True, name="chunk", shared=False)  # type: ignore[untyped-decorator]
    def chunk(self: Any, number: int, fails: bool) -> int:
        """Its start is recorded as the heartbeat would, had it run for longer."""
        progress = CeleryProgress.of(self.app)
        work = progress.heartbeats.get(self.request.id)
        if work is not None and work.attempt is None:
            work.attempt = progress.recording.chunks.started(work.task)
        effects.append(f"chunk {number}")
        if fails and "failure" not in effects:
            effects.append("failure")
            raise ValueError("boom")
        return number

    @app.task(name="merge", shared=False)  # type: ignore[untyped-decorator]
    def merge(results: list[int]) -> int:
        effects.append(f"merge {sorted(results)}")
        return sum(results)

    @app.task(name="follow", shared=False)  # type: ignore[untyped-decorator]
    def follow(total: object) -> object:
        effects.append(f"follow {total}")
        return total

    return app
