"""The handle of a published job: its snapshot, its events as they come, retry and cancel, and its result."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

from celery.exceptions import TimeoutError
from celery.result import AsyncResult

from celery_progress_ext.broadcast import Broadcaster, Message, Subscription, job_channel
from celery_progress_ext.context import ProcessContext
from celery_progress_ext.exceptions import JobNotFound, ProgressError
from celery_progress_ext.header_result import HeaderResult
from celery_progress_ext.jobs import JobSnapshot
from celery_progress_ext.publishing import Publisher
from celery_progress_ext.storage import endings

#: How often `watch` looks where nothing is broadcast, or a broadcast was lost. Seconds.
_WATCH_SECONDS = 1.0
#: How often `awatch` does while broadcasts arrive: it has thousands of readers, and beat's heartbeats wake it. Seconds.
_QUIET_SECONDS = 5.0
#: Pauses of `aget` between the job's end and its result, doubled from the first to the last. Seconds.
_FIRST_PAUSE_SECONDS, _LAST_PAUSE_SECONDS = 0.05, 1.0


class Operations(Protocol):
    """What a handle needs of ``CeleryProgress``."""

    @property
    def context(self) -> ProcessContext:
        """Settings, database and broadcaster."""

    @property
    def publisher(self) -> Publisher:
        """Knows the jobs that ran in this process."""

    def retry_failed(self, job_id: str) -> JobSnapshot:
        """Run again what failed."""

    def cancel(self, job_id: str) -> JobSnapshot:
        """Stop a job."""


class TrackedJob(AsyncResult):  # type: ignore[misc]
    """A published job, which stands where Celery's chord gives an ``AsyncResult``: it is the body's, and its ``parent``
    the header's (a :class:`HeaderResult`). Where the canvas chained tasks to the body, it is that of the last of these;
    ``parent`` is then the body's.

    :param last_id: the id of that last task.
    :param wait: seconds for which the job may not be there yet: the first task of a chain publishes it.
    """

    def __init__(
        self,
        job_id: str,
        extension: Operations,
        *,
        last_id: str | None = None,
        wait: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(job_id, **options)
        self._extension = extension
        self._wait = wait
        self._last: AsyncResult | None = None
        self._header = HeaderResult(job_id, extension.context, extension.publisher)
        self._parent: Any = self._header
        if last_id is not None:
            self._parent = TrackedJob(job_id, extension, wait=wait, app=self.app)
            self._header = self._parent._header
            self._last = AsyncResult(last_id, app=self.app, parent=self._parent)

    @property
    def parent(self) -> Any:
        """The header's result, or, where tasks follow the body, the body's."""
        return self.__dict__.get("_parent")

    @parent.setter
    def parent(self, value: Any) -> None:
        # A surrounding chain sets what comes before the job.
        if "_header" in self.__dict__:
            self._header.parent = value

    @property
    def children(self) -> Any:
        """The tasks that were linked to the body; None until the job is over."""
        if self._last is not None:
            return self._last.children
        ending = endings.of(self._extension.context.database, self.id)
        if ending is None or not ending.job.status.terminal:
            return None
        found = ending.first_tasks if ending.job.status.ended_well else []
        return [self.app.AsyncResult(task_id) for task_id in found]

    def __del__(self) -> None:
        """Nothing: Celery's own asks Redis to forget the result, and holds up its process while Redis is away."""

    def get(self, *args: Any, **options: Any) -> Any:
        """Wait for the result, as ``AsyncResult.get``."""
        if self._eager_meta() is not None:
            self.maybe_throw(propagate=options.get("propagate", True))
            return self.result
        return super().get(*args, **options) if self._last is None else self._last.get(*args, **options)

    def _get_task_meta(self) -> Any:
        # What `state`, `result`, `ready()` and their kind look at.
        if (meta := self._eager_meta()) is not None:
            return meta
        return super()._get_task_meta() if self._last is None else self._last._get_task_meta()

    def _eager_meta(self) -> dict[str, Any] | None:
        """How a job that ran in this process ended; None for any other."""
        eager = self._extension.publisher.eager
        last = None if self._last is None else eager.meta(self._last.id)
        return last or eager.meta(self.id)

    def snapshot(self) -> JobSnapshot:
        """The whole truth about the job now.

        :raises JobNotFound: when there is no such job.
        """
        return self._extension.context.snapshots.get(self.id)

    def watch(self, timeout: float | None = None) -> Iterator[JobSnapshot]:
        """Snapshots as they come, to the terminal one: each new version, and, at most once a second, what changes
        without one: a stall, a silence, the estimate. The version never goes back.

        :param timeout: seconds after which to stop all the same; None to wait for the end.
        :raises JobNotFound: when there is no such job, and none is expected any more.
        """
        begun = time.monotonic()
        seen: JobSnapshot | None = None
        seen_at = begun
        wakeups = _Wakeups(self._extension.context.broadcaster, job_channel(self.id))
        try:
            while True:
                snapshot = self._snapshot_or_wait(since=begun)
                if snapshot is not None and _is_news(snapshot, seen, age=time.monotonic() - seen_at):
                    seen, seen_at = snapshot, time.monotonic()
                    yield snapshot
                if snapshot is not None and snapshot.status.terminal:
                    return
                if timeout is not None and time.monotonic() - begun >= timeout:
                    return
                wakeups.wait(_WATCH_SECONDS)
        finally:
            wakeups.close()

    async def asnapshot(self) -> JobSnapshot:
        """As :meth:`snapshot`, beside other work of the event loop."""
        readers = self._extension.context.loop_readers
        async with readers.reading():
            snapshot: JobSnapshot = await readers.reads.get(f"snapshot {self.id}", self.snapshot)
            return snapshot

    async def awatch(self, timeout: float | None = None) -> AsyncGenerator[JobSnapshot, None]:
        """As :meth:`watch`, without a thread: all readers of an event loop share one subscription, and their reads.

        Each new version comes at once; what changes without one, within five seconds.

        :param timeout: seconds after which to stop all the same; None to wait for the end.
        :raises JobNotFound: when there is no such job, and none is expected any more.
        """
        readers = self._extension.context.loop_readers
        begun = time.monotonic()
        seen: JobSnapshot | None = None
        seen_at = begun
        news = _News()
        async with readers.follow(job_channel(self.id), news):
            while True:
                news.clear()
                snapshot = await self._asnapshot_or_wait(since=begun)
                if snapshot is not None and _is_news(snapshot, seen, age=time.monotonic() - seen_at):
                    seen, seen_at = snapshot, time.monotonic()
                    yield snapshot
                if snapshot is not None and snapshot.status.terminal:
                    return
                pause = _QUIET_SECONDS if readers.subscription.connected and snapshot is not None else _WATCH_SECONDS
                if timeout is not None:
                    left = begun + timeout - time.monotonic()
                    if left <= 0:
                        return
                    pause = min(pause, left)
                await news.wait(pause)

    async def aget(self, timeout: float | None = None, *, propagate: bool = True) -> Any:
        """As :meth:`get`, without a thread that waits: the result, once the job and what was chained to it are over.

        :param timeout: seconds; None to wait for the end.
        :param propagate: raise the job's error; else it is returned.
        :raises celery.exceptions.TimeoutError: when it is not there in time.
        :raises JobNotFound: when there is no such job, and no result of it.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        readers = self._extension.context.loop_readers
        async with readers.reading():
            if not await readers.run(self.ready):
                async for _ in self.awatch(timeout):
                    pass
            pause = _FIRST_PAUSE_SECONDS
            while not await readers.run(self.ready):
                left = pause if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError("The operation timed out.")
                await asyncio.sleep(min(pause, left))
                pause = min(2 * pause, _LAST_PAUSE_SECONDS)
            # Stored already, so that it waits for nothing, in a task too.
            return await readers.run(lambda: self.get(propagate=propagate, disable_sync_subtasks=False))

    async def _asnapshot_or_wait(self, *, since: float) -> JobSnapshot | None:
        try:
            return await self.asnapshot()
        except JobNotFound:
            if time.monotonic() - since >= self._wait:
                raise
            return None

    def _snapshot_or_wait(self, *, since: float) -> JobSnapshot | None:
        try:
            return self.snapshot()
        except JobNotFound:
            if time.monotonic() - since >= self._wait:
                raise
            return None

    def retry_failed(self) -> JobSnapshot:
        """Run only what failed again, and then the body.

        :raises IllegalTransition: unless the job is PARTIAL, FAILED or CANCELLED.
        """
        snapshot = self._extension.retry_failed(self.id)
        # Anew: it has read the result of the run before, and would not wait for another. Not by `forget()`, which
        # deletes the result: the new run may have stored its own.
        super().__init__(self.id, app=self.app, parent=self._header.parent)
        return snapshot

    def cancel(self) -> JobSnapshot:
        """Stop what is queued or running, keep what is finished.

        :raises IllegalTransition: when the job is over.
        """
        return self._extension.cancel(self.id)

    def __rich__(self) -> Any:
        """Its snapshot, as rich prints it; its id where there is none."""
        with suppress(ProgressError):
            return self.snapshot()
        return repr(self)

    def _repr_html_(self) -> str | None:
        """Its snapshot, as a notebook shows it; None where there is none."""
        with suppress(ProgressError):
            return self.snapshot()._repr_html_()
        return None


def _is_news(snapshot: JobSnapshot, seen: JobSnapshot | None, *, age: float) -> bool:
    """Whether a snapshot shows what the last one did not, ``age`` seconds before it."""
    if seen is None or snapshot.version > seen.version:
        return True
    # When it was read is no news.
    same = replace(snapshot, heartbeat_at=seen.heartbeat_at)
    return snapshot.version == seen.version and age >= _WATCH_SECONDS and same != seen


class _News:
    """Wakes one async reader."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def receive(self, message: Message) -> None:
        """See ``Follower.receive``."""
        self._event.set()

    def missed(self) -> None:
        """See ``Follower.missed``."""
        self._event.set()

    def clear(self) -> None:
        """From now on, wait for what comes."""
        self._event.clear()

    async def wait(self, seconds: float) -> None:
        """Return when something comes, or after ``seconds``."""
        with suppress(asyncio.TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()


class _Wakeups:
    """Waits for a channel's next message; without the broadcaster it is a pause, and the rows are looked at anyway."""

    def __init__(self, broadcaster: Broadcaster, channel: str) -> None:
        self._broadcaster = broadcaster
        self._channel = channel
        self._subscription: Subscription | None = None

    def wait(self, seconds: float) -> None:
        """Return at the next message, or after ``seconds``; at once when the subscription is new."""
        try:
            if self._subscription is None:
                self._subscription = self._broadcaster.subscribe()
                self._subscription.add(self._channel)
            else:
                self._subscription.get(seconds)
        except ProgressError:
            self.close()
            time.sleep(seconds)

    def close(self) -> None:
        """Give the connection back."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.close()
