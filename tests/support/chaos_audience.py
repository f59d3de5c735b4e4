"""Those who look on during a chaos run: the person who publishes a job, who watches its rows, who reads its stream.

None of them may be wrong for good. Each is a thread that goes on whatever fails, as a person presses reload.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from celery.signals import before_task_publish

from celery_progress_ext import JobSnapshot, JobStatus, tracked_chord
from celery_progress_ext.exceptions import IllegalTransition
from celery_progress_ext.jobs import TERMINAL_EVENTS
from celery_progress_ext.tracked_job import TrackedJob
from tests.support.chaos import JobPlan
from tests.support.chords import Bench
from tests.support.live import EventReader

T = TypeVar("T")

PAGES = 5
MATTER = "m"
#: A reader reconnects, and a person tries again, after so long. Seconds.
AGAIN = 0.3


#: What publishing one message takes the thread that publishes it. Seconds.
_slow = threading.local()


@before_task_publish.connect(weak=False)
def _take_time(**_: Any) -> None:
    time.sleep(getattr(_slow, "seconds", 0.0))


class Stopped(Exception):
    """The run is over, whatever was still to be done."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One state of a job, as somebody saw it."""

    version: int
    percent: int
    status: JobStatus


@dataclass
class Run:
    """One planned job, from its publishing to its last end.

    :ivar refused: why it could not be published, where it left no rows.
    :ivar settled: nobody will do anything to it any more, and it is terminal.
    """

    plan: JobPlan
    bench: Bench
    stop: threading.Event
    job: TrackedJob | None = None
    refused: str | None = None
    cancelled: bool = False
    begun: threading.Event = field(default_factory=threading.Event)
    acted: threading.Event = field(default_factory=threading.Event)
    watched: list[Seen] = field(default_factory=list)
    streamed: list[Seen] = field(default_factory=list)
    #: What no fault excuses.
    problems: list[str] = field(default_factory=list)

    @property
    def out(self) -> Path:
        """Where the body's output is."""
        return self.bench.folder / "out" / f"{self.plan.name}.json"

    def publish(self, start: float) -> None:
        """Publish it in time, and do what its plan says a person does to it."""
        try:
            self.stop.wait(max(0.0, start + self.plan.at - time.monotonic()))
            _slow.seconds = self.plan.publish_seconds
            self._publish()
            _slow.seconds = 0.0
            if self.job is not None:
                self._act(self.job)
        except Stopped:
            pass
        finally:
            self.begun.set()
            self.acted.set()

    def watch(self) -> None:
        """Follow the rows to the job's last end, over every interruption."""
        self.begun.wait()
        while self.job is not None and not self.stop.is_set():
            try:
                for snapshot in self.job.watch(timeout=2.0):
                    self._watched(snapshot)
            except Exception:  # the database or Redis is away: look again
                self.stop.wait(AGAIN)
            if self.acted.is_set() and self.watched and self.watched[-1].status.terminal:
                return
            self.stop.wait(0.1)

    def stream(self, port: int) -> None:
        """Follow the live stream to the job's last end, reconnecting as a browser does."""
        self.begun.wait()
        while self.job is not None and not self.stop.is_set():
            done = self.acted.is_set()
            try:
                ended = self._stream_once(port, self.job.id)
            except (OSError, http.client.HTTPException):
                ended = False
            if ended and done:
                return
            self.stop.wait(AGAIN)

    def _publish(self) -> None:
        chunks = [
            self.bench.work(
                index,
                pages=PAGES,
                seconds=chunk.seconds,
                do=chunk.do,
                once=self.bench.once(f"{self.plan.name}.{index}.once") if chunk.once else "",
            )
            for index, chunk in enumerate(self.plan.chunks)
        ]
        body = self.bench.app.signature("merge_into_place", args=(str(self.out),), kwargs={"seconds": 0.2})
        ranges = [(index * PAGES + 1, index * PAGES + PAGES) for index in range(len(chunks))]
        canvas = tracked_chord(
            chunks, body, matter_id=MATTER, document_id=self.plan.name, ranges=ranges, app=self.bench.app
        )
        try:
            self.job = canvas.apply_async()
        except Exception as error:
            # The database is away. Rows there may be all the same, where it went away while it committed them; then
            # the reconciler publishes the job. A broker that is away is no error.
            found = self._until_answered(self._find)
            self.refused = f"{type(error).__name__}: {error}"
            if found:
                self.job = self.bench.progress.job(found[0].job_id)
        self.begun.set()

    def _find(self) -> list[JobSnapshot]:
        listed = self.bench.progress.jobs.list(MATTER, limit=10_000)
        return [snapshot for snapshot in listed if snapshot.document_id == self.plan.name]

    def _act(self, job: TrackedJob) -> None:
        if self.plan.cancel_after is not None:
            self.stop.wait(self.plan.cancel_after)
            self._press(job.cancel)
            self.cancelled = True
        for number, pause in enumerate(self.plan.presses):
            self.stop.wait(pause)
            self._press(job.retry_failed if number % 2 else job.cancel)
        if self.plan.retry:
            while not self._until_answered(job.snapshot).status.terminal:
                self._pause()
            self._press(job.retry_failed)

    def _press(self, button: Callable[[], JobSnapshot]) -> None:
        """Until it worked, or the job says that there is nothing to press it for."""
        with suppress(IllegalTransition):
            self._until_answered(button, but=IllegalTransition)

    def _until_answered(self, ask: Callable[[], T], but: type[Exception] = Stopped) -> T:
        while True:
            try:
                return ask()
            except but:
                raise
            except Exception:
                self._pause()

    def _pause(self) -> None:
        if self.stop.wait(AGAIN):
            raise Stopped

    def _watched(self, snapshot: JobSnapshot) -> None:
        self.watched.append(Seen(version=snapshot.version, percent=snapshot.progress_pct, status=snapshot.status))
        if snapshot.status in (JobStatus.COMPLETED, JobStatus.PARTIAL) and not self.out.exists():
            self.problems.append(f"said to be {snapshot.status} before its output was there")

    def _stream_once(self, port: int, job_id: str) -> bool:
        """Read one connection to its end; True where the job was over, by its terminal event or by 204."""
        headers = {"Last-Event-ID": str(self.streamed[-1].version)} if self.streamed else {}
        with EventReader(port, f"/api/jobs/{job_id}/events", headers) as reader:
            if reader.response.status == 204:
                return True
            if reader.response.status != 200:
                self.problems.append(f"the stream answered {reader.response.status}")
                return False
            for event in reader.events():
                if event.id is not None:
                    self.streamed.append(_seen(event.payload))
                    if int(event.id) != event.payload["version"]:
                        self.problems.append(f"the stream sent id {event.id} for version {event.payload['version']}")
                if event.name in TERMINAL_EVENTS:
                    return True
        return False


@dataclass
class MatterReader:
    """Who follows the stream of the whole matter, over every reconnect; it has no end but the web server's."""

    port: int
    stop: threading.Event
    newest: dict[str, Seen] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def read(self) -> None:
        """Read on until the connection ends and nobody wants it again."""
        while not self.stop.is_set():
            with suppress(OSError, http.client.HTTPException):
                self._read_once()
            self.stop.wait(AGAIN)

    def _read_once(self) -> None:
        with EventReader(self.port, f"/api/matters/{MATTER}/events") as reader:
            told: set[str] = set()
            for event in reader.events():
                job_id, seen = event.payload["job_id"], _seen(event.payload)
                before = self.newest.get(job_id, seen)
                # A new connection begins with what is, and a heartbeat says it again; all else is news.
                again = event.name == "heartbeat" or job_id not in told
                if seen.version < before.version or (seen.version == before.version and not again):
                    self.problems.append(f"{job_id}: version {before.version}, then {seen.version}")
                if seen.percent < before.percent:
                    self.problems.append(f"{job_id}: {before.percent} %, then {seen.percent} %")
                told.add(job_id)
                self.newest[job_id] = seen


def _seen(payload: dict[str, Any]) -> Seen:
    return Seen(
        version=int(payload["version"]), percent=int(payload["progress_pct"]), status=JobStatus(payload["status"])
    )
