"""A broadcaster inside one process: for tests, and for a worker and its readers in the same process."""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Self

from celery_progress_ext.broadcast import (
    HEARTBEAT,
    KEPT_SECONDS,
    BroadcastLost,
    Message,
    channels_of,
    compact_json,
    event_name,
    kept_message,
)
from celery_progress_ext.jobs import JobSnapshot


class MemoryBroadcaster:
    """Keeps and publishes within this process.

    :param ttl_seconds: how long a kept snapshot outlives its last change.
    :param keep_unread: False where nothing is kept while nobody in this process subscribes: a publisher without Redis
        would keep every snapshot for nobody.
    """

    def __init__(self, ttl_seconds: float = KEPT_SECONDS, *, keep_unread: bool = True) -> None:
        self._ttl_seconds = ttl_seconds
        self._keep_unread = keep_unread
        self._lock = threading.Lock()
        # The oldest change first, so that expired ones are found at the front.
        self._kept: OrderedDict[str, tuple[float, Message]] = OrderedDict()
        self._subscriptions: set[MemorySubscription] = set()

    def publish(self, snapshot: JobSnapshot, *, event: str | None = None) -> bool:
        """See ``Broadcaster.publish``."""
        if not self._keep_unread and not self._subscriptions:
            return False
        # Through JSON, so that readers get what they would get from Redis, and nothing they share with the publisher.
        payload: dict[str, Any] = json.loads(compact_json(snapshot.to_dict()))
        with self._lock:
            self._expire()
            _, kept = self._kept.get(snapshot.job_id, (0.0, None))
            newer = kept is None or kept.version is None or snapshot.version > kept.version
            unchanged = kept is not None and snapshot.version == kept.version and event == HEARTBEAT
            if not newer and not unchanged:
                return False
            self._kept[snapshot.job_id] = (time.monotonic() + self._ttl_seconds, kept_message(payload))
            self._kept.move_to_end(snapshot.job_id)
            message = (
                Message(event_name(snapshot, event), snapshot.version, payload)
                if newer
                else Message(HEARTBEAT, None, payload)
            )
            # Under the lock: two versions must reach every queue in the order in which they were kept.
            for channel in channels_of(snapshot):
                for subscription in self._subscriptions:
                    subscription.offer(channel, message)
        return newer

    def publish_many(self, snapshots: Iterable[tuple[JobSnapshot, str | None]]) -> None:
        """See ``Broadcaster.publish_many``."""
        for snapshot, event in snapshots:
            self.publish(snapshot, event=event)

    def kept(self, job_id: str) -> Message | None:
        """See ``Broadcaster.kept``."""
        with self._lock:
            self._expire()
            return self._kept[job_id][1] if job_id in self._kept else None

    def kept_versions(self, job_ids: Iterable[str]) -> dict[str, int]:
        """See ``Broadcaster.kept_versions``."""
        kept = {job_id: self.kept(job_id) for job_id in job_ids}
        return {job_id: message.version for job_id, message in kept.items() if message and message.version is not None}

    def discard(self, job_id: str) -> None:
        """See ``Broadcaster.discard``."""
        with self._lock:
            self._kept.pop(job_id, None)

    def subscribe(self) -> MemorySubscription:
        """See ``Broadcaster.subscribe``."""
        subscription = MemorySubscription(self)
        with self._lock:
            self._subscriptions.add(subscription)
        return subscription

    def forget(self, subscription: MemorySubscription) -> None:
        """Deliver nothing more to ``subscription``."""
        with self._lock:
            self._subscriptions.discard(subscription)
            if not self._keep_unread and not self._subscriptions:
                # Versions that come meanwhile are not seen, so what is kept would be old.
                self._kept.clear()

    def _expire(self) -> None:
        now = time.monotonic()
        while self._kept and next(iter(self._kept.values()))[0] <= now:
            self._kept.popitem(last=False)


class MemorySubscription:
    """A queue that the broadcaster fills with what its channels get."""

    def __init__(self, broadcaster: MemoryBroadcaster) -> None:
        self._broadcaster = broadcaster
        self._channels: frozenset[str] = frozenset()
        self._changing = threading.Lock()
        self._queue: SimpleQueue[tuple[str, Message]] = SimpleQueue()
        self._closed = False

    def offer(self, channel: str, message: Message) -> None:
        """Queue ``message`` if ``channel`` is one of this subscription's."""
        if channel in self._channels:
            self._queue.put((channel, message))

    def add(self, channel: str) -> None:
        """See ``Subscription.add``."""
        self._check()
        with self._changing:
            self._channels |= {channel}

    def remove(self, channel: str) -> None:
        """See ``Subscription.remove``."""
        self._check()
        with self._changing:
            self._channels -= {channel}

    def get(self, timeout: float) -> tuple[str, Message] | None:
        """See ``Subscription.get``."""
        self._check()
        try:
            return self._queue.get(timeout=max(timeout, 0))
        except Empty:
            return None

    def close(self) -> None:
        """See ``Subscription.close``."""
        self._closed = True
        self._broadcaster.forget(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check(self) -> None:
        if self._closed:
            raise BroadcastLost
