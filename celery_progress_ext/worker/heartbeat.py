"""Signs of life of the tasks of this process, from one thread: OCR and rendering release the GIL.

The first beat of a chunk records its start, so that a chunk shorter than ``START_SECONDS`` costs one write, its
completion. The thread writes leases and pages to the rows only: ``update_state`` from it could overwrite a SUCCESS
(Celery's store is not atomic, F20), so the task's own ``report`` calls that.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from celery_progress_ext.config import Settings
from celery_progress_ext.forks import begins_anew_in_a_child
from celery_progress_ext.ids import TaskId
from celery_progress_ext.log import get_logger
from celery_progress_ext.pace import PAGES_SECONDS
from celery_progress_ext.recording import Recording
from celery_progress_ext.soft_limits import undisturbed

logger = get_logger(__name__)

#: A chunk that runs longer is recorded as started. Seconds.
START_SECONDS = 0.1
#: All chunks of a job together write their pages at most so often per second: its row is one hot row.
PAGES_PER_SECOND = 100
#: How long the thread stays awake after the last task, so that short tasks need not wake it. Seconds.
_LINGER_SECONDS = 2.0


@dataclass(slots=True)
class Work:
    """A tracked task that runs in this process."""

    task: TaskId
    began: float = field(default_factory=time.monotonic)
    #: The fencing token, once the start is recorded.
    attempt: int | None = None
    done: int = 0
    #: Of how many, as its task says; None for the chunk's pages.
    total: int | None = None
    done_at: float = field(default_factory=time.monotonic)
    written_done: int = 0
    written_total: int | None = None
    #: The last write of any kind, for the lease; and of pages, for their rate.
    written_at: float = field(default_factory=time.monotonic)
    paged_at: float = 0.0
    pages_seconds: float = PAGES_SECONDS
    #: When PROGRESS was last stored in Celery's result backend.
    published_at: float = 0.0
    #: True once the rows say that this attempt does not count any more.
    superseded: bool = False
    finished: bool = False
    #: The task ended its job itself, in a transaction of its own.
    ended: bool = False
    #: Pages that could not be wholly read, with a sentence each.
    reservations: dict[int, str] = field(default_factory=dict)
    #: Held while the thread writes for this task, so that the task's end is not overtaken by a beat.
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def seconds(self) -> float:
        """How long the task has been running."""
        return time.monotonic() - self.began

    def publish_due(self, seconds: float) -> bool:
        """Whether PROGRESS may be published again; at most once in ``seconds``, the first time at once."""
        now = time.monotonic()
        if now - self.published_at < seconds:
            return False
        self.published_at = now
        return True


class Heartbeats:
    """The tasks at work in this process, and the thread that sends their signs of life."""

    def __init__(self, recording: Recording, settings: Settings) -> None:
        self._recording = recording
        self._settings = settings
        self.begin_anew()
        begins_anew_in_a_child(self)

    def begin_anew(self) -> None:
        """No task is at work; in a forked child, the parent's thread is not there, nor is its work ours."""
        self._works: dict[str, Work] = {}
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._asleep = False

    @undisturbed()
    def begin(self, task_id: str, task: TaskId, attempt: int | None = None) -> Work:
        """Send signs of life of a task from now on; ``attempt`` where its start is recorded already."""
        work = Work(task, attempt=attempt)
        with self._wake:
            self._works[task_id] = work
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="progress-heartbeat", daemon=True)
                self._thread.start()
            elif self._asleep:
                self._wake.notify()
        return work

    def get(self, task_id: str | None) -> Work | None:
        """The work of a task of this process."""
        return self._works.get(task_id) if task_id else None

    @undisturbed()
    def end(self, task_id: str) -> Work | None:
        """The task is over: no beat for it comes after this. None where nothing was begun."""
        work = self._works.pop(task_id, None)
        if work is not None:
            with work.lock:
                work.finished = True
        return work

    @undisturbed()
    def nudge(self) -> None:
        """Look at the works now; for the first page, which readers wait for."""
        with self._wake:
            self._wake.notify()

    def finish_in(self, connection: Any, work: Work, *, result: Any) -> bool:
        """End a body's job in a transaction of the user's; False where its attempt was superseded."""
        assert work.attempt is not None
        return self._recording.bodies.finish_in(connection, work.task.job_id, attempt=work.attempt, result=result)

    def write_reservations(self, work: Work) -> None:
        """Write what a chunk's attempt could not wholly read, behind its start. The caller holds the work's lock."""
        chunks = self._recording.chunks
        if work.attempt is None:
            work.attempt = chunks.started(work.task, elapsed=work.seconds)
            work.written_at = time.monotonic()
        if work.attempt is not None:
            reservations = [{"page": page, "message": text} for page, text in sorted(work.reservations.items())]
            work.superseded = not chunks.reserved(work.task, attempt=work.attempt, reservations=reservations)
        else:
            work.superseded = True

    def _run(self) -> None:
        idle_since = time.monotonic()
        while True:
            with self._wake:
                if self._works:
                    idle_since = time.monotonic()
                self._asleep = time.monotonic() - idle_since >= _LINGER_SECONDS
                self._wake.wait(None if self._asleep else START_SECONDS)
                self._asleep = False
            for work in list(self._works.values()):
                with work.lock:
                    if not (work.finished or work.superseded or work.ended):
                        self._speak_for(work)

    def _speak_for(self, work: Work) -> None:
        try:
            if work.task.chunk_index is None:
                self._speak_for_body(work)
            else:
                self._speak_for_chunk(work)
        except Exception as error:
            # The database is away: the lease runs on, and the next round tries again.
            logger.warning("heartbeat_failed", job_id=work.task.job_id, error=type(error).__name__)
            time.sleep(START_SECONDS)

    def _speak_for_chunk(self, work: Work) -> None:
        if work.attempt is None:
            if work.seconds < START_SECONDS:
                return
            work.attempt = self._recording.chunks.started(work.task, elapsed=work.seconds)
            work.superseded = work.attempt is None
            work.written_at = time.monotonic()
        elif self._has_news(work):
            done, work.written_total = work.done, work.total
            at_work = self._recording.chunks.progressed(
                work.task,
                attempt=work.attempt,
                done=done,
                total=work.written_total,
                seconds_since_progress=time.monotonic() - work.done_at,
            )
            self._written(work, done, counts=at_work is not None)
            work.pages_seconds = max(PAGES_SECONDS, (at_work or 0) / PAGES_PER_SECOND)
        elif self._beat_due(work):
            self._written(work, work.written_done, counts=self._recording.chunks.alive(work.task, attempt=work.attempt))

    def _speak_for_body(self, work: Work) -> None:
        assert work.attempt is not None
        job_id = work.task.job_id
        if self._has_news(work):
            done, total = work.done, work.total
            work.written_total = total
            counts = self._recording.bodies.progressed(job_id, attempt=work.attempt, done=done, total=total)
            self._written(work, done, counts=counts)
        elif self._beat_due(work):
            counts = self._recording.bodies.alive(job_id, attempt=work.attempt)
            self._written(work, work.written_done, counts=counts)

    def _has_news(self, work: Work) -> bool:
        news = work.done != work.written_done or work.total != work.written_total
        return news and time.monotonic() - work.paged_at >= work.pages_seconds

    def _beat_due(self, work: Work) -> bool:
        return time.monotonic() - work.written_at >= self._settings.heartbeat_seconds

    @staticmethod
    def _written(work: Work, done: int, *, counts: bool) -> None:
        work.written_at = time.monotonic()
        if done != work.written_done:
            work.written_done, work.paged_at = done, work.written_at
        work.superseded = not counts
