"""A snapshot as it was published or read, in the forms in which clients may get it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Any

from celery_progress_ext.broadcast import HEARTBEAT, Message, compact_json
from celery_progress_ext.jobs import EVENT_NAMES, JobStatus
from celery_progress_ext.sse import wire
from celery_progress_ext.sse.hub import Frame


class Published:
    """One snapshot; each form is encoded once however many clients there are.

    :raises KeyError, ValueError: when ``payload`` is no snapshot.
    """

    def __init__(self, payload: Mapping[str, Any], *, event: str | None = None) -> None:
        status = JobStatus(payload["status"])
        self.job_id = str(payload["job_id"])
        matter_id = payload["matter_id"]
        #: None for a job without an owner; never the text "None", which may be a matter's name.
        self.matter_id = None if matter_id is None else str(matter_id)
        self.version = int(payload["version"])
        self.terminal = status.terminal
        self._event = event or EVENT_NAMES[status]
        self.payload = payload

    @classmethod
    def of(cls, message: Message) -> Published:
        """A message. Whether it is a heartbeat without change, the topic decides: it knows what its clients have."""
        return cls(message.payload, event=None if message.version is None else message.event)

    @property
    def cursor(self) -> int | None:
        """When the snapshot was read, on the database's clock, in milliseconds; None where it does not say."""
        read_at = self.payload.get("heartbeat_at")
        return None if read_at is None else int(datetime.fromisoformat(read_at).timestamp() * 1000)

    @cached_property
    def body(self) -> bytes:
        """The snapshot as JSON."""
        return compact_json(self.payload)

    @cached_property
    def numbered(self) -> Frame:
        """For a job's stream: the version is the ``id:``, and the terminal one is the last."""
        return Frame(self.job_id, wire.encode(self.body, event=self._event, id=self.version), last=self.terminal)

    @cached_property
    def cursored(self) -> Frame:
        """For a matter's stream: the ``id:`` is a cursor, from which a reconnect is brought up to date."""
        return Frame(self.job_id, wire.encode(self.body, event=self._event, id=self.cursor))

    @cached_property
    def heartbeat(self) -> Frame:
        """A sign of life for clients that have this version already."""
        return Frame(self.job_id, wire.encode(self.body, event=HEARTBEAT), sign=True)
