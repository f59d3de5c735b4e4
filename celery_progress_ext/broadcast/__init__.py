"""How a snapshot gets from the process that made it to everyone who watches: keep the newest, publish it, subscribe.

Every broadcaster keeps the same contract, which one test holds them to: a snapshot is kept and published, in one
atomic step, only when its version is newer than the kept one. So publishers need no order among themselves.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, Self

from celery_progress_ext.exceptions import ProgressError
from celery_progress_ext.jobs import EVENT_NAMES, JobSnapshot, JobStatus
from celery_progress_ext.steady import Shown

#: The event of a snapshot that is sent again, so that readers see that the job lives.
HEARTBEAT = "heartbeat"

#: How long a kept snapshot outlives its last change. Seconds.
KEPT_SECONDS = 86_400.0


class BroadcastLost(ProgressError):
    """The connection to the broadcaster is broken; close this subscription and open a new one."""


@dataclass(frozen=True, slots=True)
class Message:
    """A snapshot as published: ``payload`` is ``JobSnapshot.to_dict()`` after a trip through JSON.

    ``version`` is None for a heartbeat without change, which goes out without an ``id:``.
    """

    event: str
    version: int | None
    payload: dict[str, Any]


class Subscription(Protocol):
    """A set of channels to read from, safe for one reading thread and any number that add and remove channels."""

    def add(self, channel: str) -> None:
        """Subscribe and wait until the server acknowledged, so that whatever is published from now on is received.

        :raises BroadcastLost: when the server is gone or does not answer.
        """

    def remove(self, channel: str) -> None:
        """Unsubscribe. A message that is under way may still arrive.

        :raises BroadcastLost: when the server is gone.
        """

    def get(self, timeout: float) -> tuple[str, Message] | None:
        """The next message and its channel, or None after ``timeout`` seconds.

        :raises BroadcastLost: when the server is gone or has stopped answering.
        """

    def close(self) -> None:
        """Give the connection back. May be called again."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class Broadcaster(Protocol):
    """Where snapshots are kept and published. Publishing and reading the kept ones never raise for a lost server."""

    def publish(self, snapshot: JobSnapshot, *, event: str | None = None) -> bool:
        """Keep and publish ``snapshot`` if it is newer than the kept one, and say whether it was.

        ``event="heartbeat"`` is also published when the version equals the kept one; it then carries no id, the kept
        snapshot takes its content, and the answer is False. An older version is never published.
        """

    def publish_many(self, snapshots: Iterable[tuple[JobSnapshot, str | None]]) -> None:
        """``publish`` for each pair of snapshot and event, in few round trips."""

    def kept(self, job_id: str) -> Message | None:
        """The newest kept snapshot; None when there is none, or the server does not answer."""

    def kept_versions(self, job_ids: Iterable[str]) -> dict[str, int]:
        """The versions of the kept snapshots; jobs without one are left out."""

    def discard(self, job_id: str) -> None:
        """Keep nothing of a job that was deleted. What a lost server keeps ends by its TTL."""

    def subscribe(self) -> Subscription:
        """Open a subscription without channels.

        :raises BroadcastLost: when the server cannot be reached.
        """


#: What the names of our channels begin with.
CHANNEL_PREFIX = "progress:"


def job_channel(job_id: str) -> str:
    """Where the snapshots of one job are published."""
    return f"{CHANNEL_PREFIX}job:{job_id}"


def matter_channel(matter_id: str) -> str:
    """Where the snapshots of all jobs of one matter are published."""
    return f"{CHANNEL_PREFIX}matter:{matter_id}"


def channels_of(snapshot: JobSnapshot) -> tuple[str, ...]:
    """Where a snapshot is published: its job's channel, and its matter's. A job without an owner is in no matter."""
    mine = job_channel(snapshot.job_id)
    return (mine,) if snapshot.matter_id is None else (mine, matter_channel(snapshot.matter_id))


def event_name(snapshot: JobSnapshot, event: str | None) -> str:
    """The event that a new version goes out as. For a job that ended it is the terminal one, whatever the publisher
    called it: readers end on it."""
    return snapshot.event if event is None or snapshot.status.terminal else event


def compact_json(value: object) -> bytes:
    """JSON without spaces, and with other scripts as they are: it is UTF-8 all the way to the browser."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        # Half a surrogate pair, as in a file name that is not UTF-8: only its escape can be sent.
        return json.dumps(value, separators=(",", ":")).encode()


def kept_message(payload: Mapping[str, Any]) -> Message:
    """A kept snapshot as a message: always durable, whatever event it was published as.

    :raises KeyError, ValueError: when it is no snapshot.
    """
    event = EVENT_NAMES[JobStatus(payload["status"])]
    return Message(event=event, version=int(payload["version"]), payload=dict(payload))


def shown_in(payload: Mapping[str, Any]) -> Shown | None:
    """The finish time that a snapshot showed; None where it showed none, or is not one of ours."""
    try:
        finish_at, at = (
            datetime.fromisoformat(each) for each in (payload["eta"]["finish_at"], payload["heartbeat_at"])
        )
    except (KeyError, TypeError, ValueError):
        return None
    return Shown(finish_at.timestamp(), at.timestamp())


def decode(raw: bytes | str) -> Message | None:
    """A message from flask-sse's JSON, ``{"data": {…}, "type": "progress", "id": 42}``; None when it is not ours."""
    try:
        fields = json.loads(raw)
        payload, version = fields["data"], fields.get("id")
        if not isinstance(payload, dict) or not isinstance(version, int | None):
            return None
        return Message(event=str(fields.get("type") or "message"), version=version, payload=payload)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
