"""For tests of the live stream: snapshots, a job service in memory, a served app, and a client that reads events."""

from __future__ import annotations

import http.client
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Self

from flask import Flask
from werkzeug.serving import WSGIRequestHandler, make_server

from celery_progress_ext.broadcast import Broadcaster
from celery_progress_ext.chunks import ChunkProgress
from celery_progress_ext.config import Settings
from celery_progress_ext.exceptions import DatabaseAway, JobNotFound
from celery_progress_ext.jobs import JobSnapshot, JobStatus
from celery_progress_ext.sse.blueprint import ProgressEvents, progress_events
from celery_progress_ext.wording import moment

#: Signs the tokens of the served app, and the one other origin that may read with them.
SECRET = "a secret of the tests"
ORIGIN = "https://shop.example"


def make_snapshot(version: int = 1, *, job_id: str | None = None, **changes: Any) -> JobSnapshot:
    """A running job, with ids of its own unless given. Times are given in seconds since the epoch."""
    job_id = job_id or f"job_{uuid.uuid4().hex}"
    changes = {
        name: moment(value) if isinstance(value, float) and name.endswith("_at") else value
        for name, value in changes.items()
    }
    made = JobSnapshot(
        job_id=job_id,
        matter_id=f"matter_{job_id}",
        document_id="doc",
        version=version,
        status=JobStatus.PROCESSING,
        stage="Processing chunk 1/4",
        stage_name="chunk_processing",
        progress_pct=25,
        chunks=ChunkProgress(total=4, pending=3, processing=0, completed=1, failed=0),
        pages_total=100,
        pages_done=25,
        created_at=moment(1_700_000_000.0),
    )
    return replace(made, **changes)


class JobsInMemory:
    """A job service without a database, which can be told that its database is away."""

    def __init__(self) -> None:
        self.rows: dict[str, JobSnapshot] = {}
        self.away = False
        self.reads = 0

    def put(self, snapshot: JobSnapshot) -> JobSnapshot:
        """Commit a snapshot."""
        self.rows[snapshot.job_id] = snapshot
        return snapshot

    def snapshot(self, job_id: str) -> JobSnapshot:
        """As ``JobTrackingService.snapshot``."""
        self.reads += 1
        self._check()
        try:
            return self.rows[job_id]
        except KeyError:
            raise JobNotFound from None

    def list(self, matter_id: str | None = None, *, limit: int = 50, active_only: bool = False) -> list[JobSnapshot]:
        """As ``JobTrackingService.list``."""
        self._check()
        found = [row for row in self.rows.values() if row.matter_id == matter_id]
        return [row for row in reversed(found) if not (active_only and row.status.terminal)][:limit]

    def _check(self) -> None:
        if self.away:
            raise DatabaseAway("the database is away")


@dataclass
class Event:
    """A server-sent event as a browser would dispatch it."""

    name: str
    id: str | None
    payload: Any


class EventReader:
    """A client of one stream, over a real socket."""

    def __init__(self, port: int, path: str, headers: dict[str, str] | None = None) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        self._connection.request("GET", path, headers=headers or {})
        self.response = self._connection.getresponse()
        self.lines: list[bytes] = []

    def events(self) -> Iterator[Event]:
        """Events as they come, to the end of the stream."""
        name, number, content = "message", None, []
        while line := self.response.readline():
            self.lines.append(line)
            field, _, value = line.rstrip(b"\n").decode().partition(":")
            if field == "event":
                name = value
            elif field == "id":
                number = value
            elif field == "data":
                content.append(value)
            elif not line.strip() and content:
                yield Event(name, number, json.loads("\n".join(content)))
                name, number, content = "message", None, []

    def next_event(self) -> Event:
        """The next event."""
        return next(self.events())

    def read_until(self, line: bytes) -> None:
        """Read on until ``line`` has come."""
        while line not in self.lines:
            got = self.response.readline()
            assert got, f"the stream ended before {line!r}"
            self.lines.append(got)

    def close(self) -> None:
        """Go away without a word."""
        self.response.close()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class Live:
    """A served app with live streams."""

    port: int
    jobs: JobsInMemory
    broadcaster: Broadcaster
    events: ProgressEvents

    def commit(self, snapshot: JobSnapshot, event: str | None = None) -> JobSnapshot:
        """What a worker does: commit, then publish."""
        self.jobs.put(snapshot)
        self.broadcaster.publish(snapshot, event=event)
        return snapshot

    def follow(self, path: str, **headers: str) -> EventReader:
        """Open a stream."""
        return EventReader(self.port, path, {name.replace("_", "-"): value for name, value in headers.items()})

    def follow_job(self, snapshot: JobSnapshot, **headers: str) -> EventReader:
        """Open a job's stream."""
        return self.follow(f"/api/jobs/{snapshot.job_id}/events", **headers)


class Quiet(WSGIRequestHandler):
    """Logs nothing."""

    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:
        pass


def live_app(
    broadcaster: Broadcaster,
    *,
    redis_url: str | None = "redis://somewhere",
    authorize: Callable[[str | None], None] = lambda matter_id: None,
    **options: Any,
) -> tuple[Flask, JobsInMemory, ProgressEvents]:
    """An app with the streams of an empty job service."""
    jobs = JobsInMemory()
    settings = Settings(redis_url=redis_url, token_secrets=(SECRET,), allowed_origins=(ORIGIN,))
    progress = SimpleNamespace(jobs=jobs, broadcaster=broadcaster, settings=settings)
    events = progress_events(progress, authorize, **options)
    app = Flask("live")
    app.register_blueprint(events, url_prefix="/api")
    return app, jobs, events


@contextmanager
def serve(broadcaster: Broadcaster, **options: Any) -> Iterator[Live]:
    """Serve ``live_app`` with threads on a free port of loopback."""
    app, jobs, events = live_app(broadcaster, **options)
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield Live(server.server_port, jobs, broadcaster, events)
    finally:
        events.close()
        server.shutdown()
        thread.join()
        server.server_close()
