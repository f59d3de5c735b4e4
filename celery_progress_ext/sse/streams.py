"""What the clients of a job, a matter or an ordinary channel are sent, from the first byte to the end."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

from celery_progress_ext.broadcast import Message
from celery_progress_ext.exceptions import JobNotFound
from celery_progress_ext.sse import wire
from celery_progress_ext.sse.hub import CLOSED, Client, Frame, Mailbox, Topic
from celery_progress_ext.sse.published import Published
from celery_progress_ext.sse.snapshot_reader import SnapshotReader

#: Milliseconds after which a browser reconnects: a lost stream, and one that was refused for want of room.
RETRY_MS = 2_000
SHED_RETRY_MS = 10_000

#: Sent at once, so that the headers go out and the browser knows that it is connected.
OPENING = wire.comment("ok") + wire.encode(retry=RETRY_MS)
#: Instead of 429 or 503, for which EventSource gives up for good.
SHED = wire.encode(retry=SHED_RETRY_MS)

# A keepalive goes out in two halves, each a whole line: the first write to a client that is gone still succeeds, the
# second fails. So it is noticed within one keepalive, not two.
_KEEPALIVE, _KEEPALIVE_REST = b":\n", b"\n"
_BETWEEN_SECONDS = 0.1

#: Versions of ended jobs that a matter's topic remembers, so that a late message does not go back behind the end.
_REMEMBERED_ENDS = 1000


@dataclass(frozen=True, kw_only=True)
class Stream:
    """What one client follows, and how it wants it."""

    channel: str
    #: Makes the topic of the channel, where nobody follows it yet.
    make: Callable[[str], Topic]
    #: What is sent before the first event.
    opening: bytes = OPENING
    #: The id of the last event that the client says it has.
    last_id: int | None = None
    #: Send every event without its name, for ``onmessage``.
    unnamed: bool = False
    #: When what it was opened with expires, and the stream ends (``time.monotonic()``).
    until: float | None = None


class _SnapshotTopic(Topic):
    """Snapshots of jobs: each version goes out once, and never one that is older than what the clients have."""

    def receive(self, message: Message) -> None:
        """See ``Topic.receive``."""
        self.accept(Published.of(message), unchanged=message.version is None)

    def accept(self, published: Published, *, unchanged: bool = False) -> None:
        """Send what is newer than what the clients have.

        :param unchanged: a sign of life: also when it is not newer. Where the version is news, it goes out as that, so
            that the sign heals the loss of the event.
        """
        with self.lock:
            version = self._version(published.job_id)
            if published.version > version:
                self._note(published)
                self.send(self._event(published))
            elif published.version == version and unchanged:
                self._note(published)
                self.send(published.heartbeat)

    def _version(self, job_id: str) -> int:
        """The version that the clients have of a job; -1 where they have none."""
        raise NotImplementedError

    def _note(self, published: Published) -> None:
        """The clients have it from now on."""
        raise NotImplementedError

    def _event(self, published: Published) -> Frame:
        """The form in which news goes out."""
        raise NotImplementedError


class JobTopic(_SnapshotTopic):
    """One job: its newest snapshot, as events that carry the version as ``id:``."""

    def __init__(self, channel: str, reader: SnapshotReader, job_id: str) -> None:
        super().__init__(channel)
        self._reader = reader
        self._job_id = job_id
        self.newest: Published | None = None

    def look(self, *, alive: bool = False) -> None:
        """See ``Topic.look``."""
        begun_at = time.monotonic()
        try:
            found = self._reader.of_job(self._job_id)
        except JobNotFound:
            # Retention removed it; a reconnect gets 404.
            self.close()
            raise
        self.looked_at = begun_at
        if found is not None:
            self.accept(found, unchanged=alive and not found.terminal)

    def admit(self, client: Client, last_id: int | None) -> None:
        """See ``Topic.admit``."""
        if self.newest is None or last_id is None or last_id < self.newest.version:
            if self.newest is not None:
                client.offer(self._event(self.newest))
        elif self.newest.terminal:
            client.close()

    def _version(self, job_id: str) -> int:
        return -1 if self.newest is None else self.newest.version

    def _note(self, published: Published) -> None:
        self.newest = published

    def _event(self, published: Published) -> Frame:
        return published.numbered


class MatterTopic(_SnapshotTopic):
    """All jobs of a matter, as events that carry a cursor as ``id:``; it begins with the open ones and has no end."""

    def __init__(self, channel: str, reader: SnapshotReader, matter_id: str) -> None:
        super().__init__(channel)
        self._reader = reader
        self._matter_id = matter_id
        #: What the clients believe to be open: its end is looked for when it may have been missed.
        self._open: dict[str, Published] = {}
        self._ended: OrderedDict[str, int] = OrderedDict()

    def look(self, *, alive: bool = False) -> None:
        """See ``Topic.look``."""
        begun_at = time.monotonic()
        found = self._reader.of_matter(self._matter_id)
        listed = {published.job_id for published in found}
        with self.lock:
            unlisted = [job_id for job_id in self._open if job_id not in listed]
        for job_id in unlisted:
            try:
                ended = self._reader.of_job(job_id)
            except JobNotFound:
                with self.lock:
                    self._open.pop(job_id, None)
            else:
                found += [] if ended is None else [ended]
        self.looked_at = begun_at
        for published in found:
            self.accept(published, unchanged=alive and not published.terminal)

    def admit(self, client: Client, last_id: int | None) -> None:
        """See ``Topic.admit``."""
        for published in self._open.values():
            client.offer(self._event(published))

    def catch_up(self, client: Client, last_id: int) -> None:
        """See ``Topic.catch_up``: the ends that a client with a cursor may have missed."""
        for published in self._reader.ended_since(self._matter_id, last_id):
            with self.lock:
                # What is newer by now was sent to it as it came.
                if published.version >= self._version(published.job_id):
                    self._note(published)
                    client.offer(self._event(published))

    def _version(self, job_id: str) -> int:
        known = self._open.get(job_id)
        return self._ended.get(job_id, -1) if known is None else known.version

    def _note(self, published: Published) -> None:
        if not published.terminal:
            self._ended.pop(published.job_id, None)
            self._open[published.job_id] = published
            return
        self._open.pop(published.job_id, None)
        self._ended[published.job_id] = published.version
        if len(self._ended) > _REMEMBERED_ENDS:
            self._ended.popitem(last=False)

    def _event(self, published: Published) -> Frame:
        return published.cursored


class ChannelTopic(Topic):
    """An ordinary channel: each of its events, in order. A client that is too far behind is given up."""

    def __init__(self, channel: str) -> None:
        super().__init__(channel)
        self._numbers = count()

    def receive(self, message: bytes) -> None:
        """See ``Topic.receive``."""
        fields = json.loads(message)
        encoded = encode_message(fields)
        with self.lock:
            self.send(Frame(next(self._numbers), encoded, fields=fields))


def encode_message(fields: dict[str, Any]) -> bytes:
    """An event from flask-sse's JSON, ``{"data": …, "type": …, "id": …, "retry": …}``.

    :raises KeyError, TypeError: when it is none.
    """
    data, event, retry = fields["data"], fields.get("type"), fields.get("retry")
    return wire.encode(
        data if isinstance(data, str) else json.dumps(data),
        event=None if event is None else str(event),
        id=fields.get("id"),
        retry=retry if isinstance(retry, int) else None,
    )


def frames_of(mailbox: Mailbox, stream: Stream, keepalive_seconds: float) -> Iterator[bytes]:
    """What a mailbox gets, to the end of the stream; never silent for longer than ``keepalive_seconds``."""
    until = float("inf") if stream.until is None else stream.until
    while True:
        item = mailbox.get(max(0.0, min(keepalive_seconds, until - time.monotonic())))
        if item is CLOSED or time.monotonic() >= until:
            return
        if item is None:
            yield _KEEPALIVE
            time.sleep(_BETWEEN_SECONDS)
            yield _KEEPALIVE_REST
            continue
        assert isinstance(item, Frame)
        yield item.unnamed.wire if stream.unnamed else item.wire
        if item.last:
            return
